package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
)

func newCertsCommand() *cobra.Command {
	var server adminFlags
	var service string
	var chain bool
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Show the certificates of the proxies, and when they are renewed",
		Long: "certs shows the authority and the certificates of the proxies that are connected to the replica that is asked:\n" +
			"serial number, when they end, and when the next one is issued. Of one that a proxy had before this replica\n" +
			"started the serial and the renewal are known.",
		Args: subcommandOnly,
	}
	out := outputFlag(cmd, tableForms...)
	server.add(cmd)
	cmd.Flags().StringVar(&service, "service", "", "only those of a service")
	cmd.Flags().BoolVar(&chain, "chain", false, "print the certificates above a proxy's own, in PEM, and nothing else")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := server.client()
		if err != nil {
			return err
		}
		var is api.Certificates
		query := url.Values{"limit": {strconv.Itoa(api.MaxPage)}}
		if service != "" {
			query.Set("service", service)
		}
		for {
			var part api.Certificates
			if err := client.get(cmd.Context(), "/certificates", query, &part); err != nil {
				return err
			}
			is.Authority, is.Certificates = part.Authority, append(is.Certificates, part.Certificates...)
			is.Elsewhere = part.Elsewhere
			if part.Next == "" {
				break
			}
			query.Set("after", part.Next)
		}
		if chain {
			_, err := io.WriteString(cmd.OutOrStdout(), strings.Join(is.Authority.Chain, ""))
			return err
		}
		if err := printElsewhere(cmd.ErrOrStderr(), "the certificates of their own proxies", is.Elsewhere); err != nil {
			return err
		}
		return out.write(cmd.OutOrStdout(), is, func(w io.Writer) error { return printCerts(w, out, &is, time.Now()) })
	}
	cmd.AddCommand(newRotateCommand(&server))
	return cmd
}

func newRotateCommand(server *adminFlags) *cobra.Command {
	var node, service string
	cmd := &cobra.Command{
		Use:     "rotate {--node N | --service S}",
		Short:   "Renew the certificate of a proxy, or those of a service, now",
		Long:    "rotate has certificates issued anew and sent at once; no connection that is there ends by it. Those of before stay\nvalid until they expire. It takes the role operate.",
		Example: "  controlplane certs rotate --service lake_service",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (node == "") == (service == "") {
				return usageError{errors.New("one of --node and --service is required")}
			}
			return server.do(cmd, "/certificates/rotate", api.Rotate{Node: node, Service: service})
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "proxy, by its node.id")
	cmd.Flags().StringVar(&service, "service", "", "service, all of whose proxies are meant")
	_ = cmd.RegisterFlagCompletionFunc("node", server.complete("proxy"))      // the flags are there
	_ = cmd.RegisterFlagCompletionFunc("service", server.complete("service")) // likewise
	return cmd
}

func printCerts(w io.Writer, out *output, is *api.Certificates, now time.Time) error {
	a := &is.Authority
	if _, err := fmt.Fprintf(w, "trust domain %s, root %s until %s; %d issued, %d failed, %d proxies wait for another attempt\n\n",
		a.TrustDomain, a.Root, a.RootExpires.UTC().Format(time.DateOnly), a.Issued, a.Failed, a.Failing); err != nil {
		return err
	}
	rows := [][]string{{"PROXY", "SERVICE", "EXPIRES IN", "RENEWED IN", "SERIAL", "WHY NOT"}}
	if out.wide() {
		rows[0] = append(rows[0], "SPIFFE ID", "BEGAN")
	}
	in := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Sub(now).Truncate(time.Second).String()
	}
	for _, c := range is.Certificates {
		row := []string{c.Node, c.Service, in(c.Expires), in(c.RenewAt), cmp.Or(c.Serial, "-"), cmp.Or(c.Error, "-")}
		if out.wide() {
			began := "-"
			if !c.Begins.IsZero() {
				began = c.Begins.UTC().Format(time.RFC3339)
			}
			row = append(row, c.SPIFFEID, began)
		}
		rows = append(rows, row)
	}
	return out.table(w, rows)
}
