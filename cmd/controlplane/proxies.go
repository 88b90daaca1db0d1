package main

import (
	"cmp"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
)

func newProxiesCommand() *cobra.Command {
	var server adminFlags
	var service string
	cmd := &cobra.Command{
		Use:   "proxies [--service S]",
		Short: "List the proxies and their registrations",
		Long: "proxies asks a control plane who is in the catalog: the state of each instance, the replica that has\n" +
			"registered it, for how long it is in that state, and why it is not registered if it is not. Any replica\n" +
			"knows of what all of them have registered; of proxies without a registration, of those that are\n" +
			"connected to it. docs/operations.md says what the states mean.",
		Example: "  controlplane proxies --service lake_service",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(cmd, tableForms...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var answer api.Registrations
		if err := server.get(cmd.Context(), "/registrations", nil, &answer); err != nil {
			return err
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
		return out.write(cmd.OutOrStdout(), answer, func(w io.Writer) error { return printProxies(w, answer, time.Now()) })
	}
	server.add(cmd)
	f := cmd.Flags()
	f.StringVar(&service, "service", "", "only those of a service, by its name in the catalog")
	return cmd
}

// printProxies writes a line about the replica, and a table.
func printProxies(w io.Writer, r api.Registrations, now time.Time) error {
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
	return printTable(w, rows)
}

// printable keeps what a proxy calls itself from doing things to a terminal.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
		return '?'
	}
	return r
}
