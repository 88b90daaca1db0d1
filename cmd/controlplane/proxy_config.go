package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
)

// configKinds are the types that proxy-config shows, by the word for it.
var configKinds = []struct {
	word, kind string
	head       []string
	row        func(body map[string]any) [][]string
}{
	{"listeners", "listener", []string{"ADDRESS", "CHAINS"}, listenerRow},
	{"routes", "route", []string{"DOMAINS", "ROUTES"}, routeRow},
	{"clusters", "cluster", []string{"KIND", "TLS"}, clusterRow},
	{"endpoints", "endpoint", []string{"ADDRESS", "HEALTH", "WEIGHT", "ZONE"}, endpointRow},
	{"secrets", "secret", []string{"KIND"}, secretRow},
}

func newProxyConfigCommand() *cobra.Command {
	var server adminFlags
	cmd := &cobra.Command{
		Use:     "proxy-config {listeners | routes | clusters | endpoints | secrets} NODE",
		Short:   "Show what a proxy is served",
		Long:    "proxy-config shows the resources of one type that a connected proxy is served, with the line of the mesh file\nthat each comes from. -o json has them whole, in the words of Envoy's API. No key is shown.",
		Aliases: []string{"pc"},
		Args:    subcommandOnly,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	server.add(cmd)
	for _, k := range configKinds {
		sub := &cobra.Command{
			Use: k.word + " NODE", Short: "Show the " + k.word + " of a proxy", Args: cobra.ExactArgs(1),
			ValidArgsFunction: server.complete("proxy"),
		}
		out := outputFlag(sub, tableForms...)
		sub.RunE = func(cmd *cobra.Command, args []string) error {
			var answer api.Resources
			if err := server.get(cmd.Context(), "/proxies/"+url.PathEscape(args[0])+"/resources", url.Values{"type": {k.kind}}, &answer); err != nil {
				return err
			}
			return out.write(cmd.OutOrStdout(), answer, func(w io.Writer) error {
				return printResources(w, out, answer.Resources, k.head, k.row)
			})
		}
		cmd.AddCommand(sub)
	}
	return cmd
}

func printResources(w io.Writer, out *output, all []api.Resource, head []string, row func(map[string]any) [][]string) error {
	rows := [][]string{append([]string{"NAME"}, head...)}
	rows[0] = append(rows[0], "FROM")
	if out.wide() {
		rows[0] = append(rows[0], "VERSION")
	}
	for _, r := range all {
		cells := [][]string{make([]string, len(head))}
		if c := r.Certificate; c != nil {
			cells[0][0] = "certificate " + cmp.Or(c.Serial, "from before")
			if !c.Expires.IsZero() {
				cells[0][0] += " until " + c.Expires.UTC().Format(time.RFC3339)
			}
		} else {
			var body map[string]any
			if err := json.Unmarshal(r.Body, &body); err != nil {
				return fmt.Errorf("%s %s: %w", r.Type, r.Name, err)
			}
			cells = row(body)
		}
		from := cmp.Or(r.Source, "-")
		if r.Instead {
			from += " (the newest is in quarantine)"
		}
		for _, c := range cells {
			line := append([]string{r.Name}, c...)
			line = append(line, from)
			if out.wide() {
				line = append(line, r.Version)
			}
			rows = append(rows, line)
		}
	}
	return out.table(w, rows)
}

// at returns what stands at a path of names in a body, or nil.
func at(v any, path ...string) any {
	for _, name := range path {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[name]
	}
	return v
}

func listOf(v any) []any {
	list, _ := v.([]any)
	return list
}

func textAt(v any, path ...string) string {
	switch found := at(v, path...).(type) {
	case string:
		return found
	case float64:
		return strconv.FormatFloat(found, 'f', -1, 64)
	}
	return ""
}

func listenerRow(body map[string]any) [][]string {
	chains := len(listOf(body["filter_chains"]))
	if body["default_filter_chain"] != nil {
		chains++
	}
	where := textAt(body, "address", "socket_address", "address") + ":" + textAt(body, "address", "socket_address", "port_value")
	return [][]string{{where, strconv.Itoa(chains)}}
}

func routeRow(body map[string]any) [][]string {
	var rows [][]string
	for _, host := range listOf(body["virtual_hosts"]) {
		var domains []string
		for _, d := range listOf(at(host, "domains")) {
			domains = append(domains, fmt.Sprint(d))
		}
		rows = append(rows, []string{strings.Join(domains, ","), strconv.Itoa(len(listOf(at(host, "routes"))))})
	}
	if rows == nil {
		return [][]string{{"-", "0"}}
	}
	return rows
}

func clusterRow(body map[string]any) [][]string {
	tls := "-"
	if body["transport_socket"] != nil || len(listOf(body["transport_socket_matches"])) > 0 {
		tls = "mTLS"
	}
	return [][]string{{cmp.Or(textAt(body, "type"), textAt(body, "cluster_type", "name"), "STATIC"), tls}}
}

func endpointRow(body map[string]any) [][]string {
	var rows [][]string
	for _, locality := range listOf(body["endpoints"]) {
		for _, e := range listOf(at(locality, "lb_endpoints")) {
			where := textAt(e, "endpoint", "address", "socket_address", "address") + ":" + textAt(e, "endpoint", "address", "socket_address", "port_value")
			rows = append(rows, []string{
				where, cmp.Or(textAt(e, "health_status"), "UNKNOWN"), cmp.Or(textAt(e, "load_balancing_weight"), "1"),
				cmp.Or(textAt(locality, "locality", "zone"), "-"),
			})
		}
	}
	if rows == nil {
		return [][]string{{"(none)", "-", "-", "-"}}
	}
	return rows
}

func secretRow(body map[string]any) [][]string {
	if body["validation_context"] != nil {
		return [][]string{{"validation context"}}
	}
	return [][]string{{"-"}}
}
