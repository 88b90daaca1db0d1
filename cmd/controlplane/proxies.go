package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin"
)

// proxiesTime bounds how long the control plane may take to answer, and maxProxies
// the answer: 20,000 proxies are 8 MB.
const (
	proxiesTime = 20 * time.Second
	maxProxies  = 64 << 20
)

func newProxiesCommand() *cobra.Command {
	var address, service string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "proxies [--admin-address HOST:PORT] [--service S] [--json]",
		Short: "List the proxies and their registrations",
		Long: "proxies asks a control plane who is in the catalog: the state of each instance, the replica that has\n" +
			"registered it, for how long it is in that state, and why it is not registered if it is not. Any replica\n" +
			"knows of what all of them have registered; of proxies without a registration, of those that are\n" +
			"connected to it. docs/operations.md says what the states mean.",
		Example: "  controlplane proxies --service lake_service",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := askAdmin(cmd.Context(), address, "/api/v1/registrations")
			if err != nil {
				return err
			}
			var answer admin.Registrations
			if err := json.Unmarshal(body, &answer); err != nil {
				return fmt.Errorf("%s: its answer is not that of a control plane: %w", address, err)
			}
			if service != "" {
				kept := answer.Registrations[:0]
				for _, r := range answer.Registrations {
					if r.Service == service {
						kept = append(kept, r)
					}
				}
				answer.Registrations = kept
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(answer)
			}
			return printProxies(cmd.OutOrStdout(), answer, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVar(&address, "admin-address", cmp.Or(os.Getenv("CONTROLPLANE_ADMIN_ADDRESS"), "127.0.0.1:19000"), "admin address of the control plane ($CONTROLPLANE_ADMIN_ADDRESS)")
	f.StringVar(&service, "service", "", "only those of a service, by its name in the catalog")
	f.BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// askAdmin returns what a path of the admin address answers.
func askAdmin(ctx context.Context, address, path string) ([]byte, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, usageError{fmt.Errorf("--admin-address: %w", err)}
	}
	ctx, cancel := context.WithTimeout(ctx, proxiesTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		return nil, usageError{fmt.Errorf("--admin-address: %w", err)}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the control plane at %s does not answer: %w", address, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProxies))
	if err != nil {
		return nil, fmt.Errorf("the control plane at %s: %w", address, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s%s: %s", address, path, resp.Status)
	}
	return body, nil
}

// printProxies writes a line about the replica, and a table.
func printProxies(w io.Writer, r admin.Registrations, now time.Time) error {
	var text strings.Builder
	switch {
	case !r.Enabled:
		text.WriteString("registrations are off: discovery.consul.register_interval turns them on, discovery.register beside a file\n")
	case r.Sweeper:
		text.WriteString("replica " + r.Replica + ", which looks after what others left\n")
	default:
		text.WriteString("replica " + r.Replica + "\n")
	}
	for _, why := range r.Trouble {
		text.WriteString("as it was last: " + why + "\n")
	}
	rows := [][]string{{"PROXY", "SERVICE", "STATE", "FOR", "ADDRESS", "MESH PORT", "BY", "WHY"}}
	for _, p := range r.Registrations {
		age, at := "-", "-"
		if !p.Since.IsZero() {
			age = now.Sub(p.Since).Truncate(time.Second).String()
		}
		if p.Address != "" {
			at = net.JoinHostPort(p.Address, strconv.Itoa(int(p.Port)))
		}
		rows = append(rows, []string{p.ID, p.Service, p.State, age, at, cmp.Or(p.MeshPort, "-"), cmp.Or(p.Owner, "-"), p.Reason})
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i := range row {
			row[i] = strings.Map(printable, row[i])
		}
		if _, err := io.WriteString(t, strings.Join(row, "\t")+"\n"); err != nil {
			return err
		}
	}
	return t.Flush()
}

// printable keeps what a proxy calls itself from doing things to a terminal.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
		return '?'
	}
	return r
}
