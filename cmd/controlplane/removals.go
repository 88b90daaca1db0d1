package main

import (
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/control"
)

func newRemovalsCommand() *cobra.Command {
	var server adminFlags
	cmd := &cobra.Command{
		Use:   "removals {list | accept ID | refuse ID}",
		Short: "List the removals that are held, and decide on them",
		Long: "removals shows what the catalog's source does not have any more and what is kept nevertheless, with what\n" +
			"accepting it will do. accept takes it out at once; refuse keeps it until it is back, or accepted. The word\n" +
			"is on what is gone, by its ID, and on the replica that is asked. It takes the role operate: the data\n" +
			"directory, or a token of controlplane admin-token.",
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	server.add(cmd)
	list := &cobra.Command{Use: "list", Short: "List the removals that are held", Args: cobra.NoArgs}
	out := outputFlag(list, tableForms...)
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		var removals api.Removals
		if err := server.get(cmd.Context(), "/removals", nil, &removals); err != nil {
			return err
		}
		return out.write(cmd.OutOrStdout(), removals, func(w io.Writer) error { return printRemovals(w, &removals, time.Now()) })
	}
	cmd.AddCommand(list,
		newDecideCommand(&server, "accept", "Take a removal: what is gone is called no more"),
		newDecideCommand(&server, "refuse", "Keep what is gone, until it is back or accepted"))
	return cmd
}

func newDecideCommand(server *adminFlags, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !revisionFormat.MatchString(args[0]) {
				return usageError{fmt.Errorf("%q: want the ID of a removal, 12 hexadecimal digits as `controlplane removals list` has them", args[0])}
			}
			var removals api.Removals
			if err := server.get(cmd.Context(), "/removals", nil, &removals); err != nil {
				return err
			}
			if err := server.act(cmd.Context(), "/removals/"+args[0]+"/"+verb, nil, new(api.Done)); err != nil {
				return fmt.Errorf("%s: %w", verb, err)
			}
			for _, r := range removals.Removals {
				if r.ID != args[0] {
					continue
				}
				text := "accepted: " + r.Effect
				if verb == "refuse" {
					text = fmt.Sprintf("refused: %d instances of %s stay until they are back or accepted", len(r.Instances), r.Service)
				}
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), text); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// printRemovals writes a paragraph for each.
func printRemovals(w io.Writer, list *api.Removals, now time.Time) error {
	var text strings.Builder
	if len(list.Removals) == 0 {
		text.WriteString("no removal is held\n")
	}
	for _, r := range list.Removals {
		fmt.Fprintf(&text, "%s  %s: %d of %d instances gone, for %s: %s\n", r.ID, r.Service, len(r.Instances), r.Had, now.Sub(r.Since).Truncate(time.Second), r.Why)
		for _, i := range r.Instances {
			fmt.Fprintf(&text, "    %s at %s, sidecar %s\n", i.ID, i.Address, i.Sidecar)
		}
		ends := "until it is confirmed"
		switch {
		case r.Refused:
			ends = "until it is back or accepted: it was refused"
		case !r.Until.IsZero():
			ends = "until " + r.Until.UTC().Format(time.RFC3339) + " at the latest"
		}
		fmt.Fprintf(&text, "    kept %s\n    accepting it: %s\n", ends, r.Effect)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// removalsOf are the removals that are held, as the admin address says them.
func removalsOf(held []control.Removal) api.Removals {
	out := api.Removals{Removals: []api.Removal{}}
	for _, h := range held {
		r := api.Removal{
			ID: h.ID, Service: h.Service, Had: h.Had, Left: h.Left, Why: h.Why, Since: h.Since, Until: h.Until,
			Refused: h.Refused, Callers: maps.Clone(h.Callers), Effect: h.Effect, Instances: []api.RemovalInstance{},
		}
		for _, i := range h.Instances {
			r.Instances = append(r.Instances, api.RemovalInstance{ID: i.ID, Address: i.Address, Sidecar: i.Sidecar.String()})
		}
		out.Removals = append(out.Removals, r)
	}
	return out
}
