package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
)

func newCheckCommand() *cobra.Command {
	var server adminFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look whether the control plane has what it needs",
		Long: "check has the control plane look at Consul (leader, latency, the rights of its token), the clock, its ports, its\n" +
			"authority, the data directory, the mesh file and the proxies. What is not as it should be has a hint and a page.\n" +
			"It exits with 2 if anything has failed.",
		Args:        cobra.NoArgs,
		Annotations: map[string]string{findings: "failures"},
	}
	out := outputFlag(cmd, "table", "json", "yaml")
	server.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var is api.Checks
		if err := server.get(cmd.Context(), "/checks", nil, &is); err != nil {
			return err
		}
		if err := out.write(cmd.OutOrStdout(), is, func(w io.Writer) error { return printChecks(w, out, &is) }); err != nil {
			return err
		}
		for _, c := range is.Checks {
			if c.Result == api.Failed {
				return foundError{errors.New("not all is as it should be")}
			}
		}
		return nil
	}
	return cmd
}

func printChecks(w io.Writer, out *output, is *api.Checks) error {
	var rows [][]string
	for _, c := range is.Checks {
		rows = append(rows, []string{string(c.Result), c.Name, c.Message})
	}
	if err := out.table(w, rows); err != nil {
		return err
	}
	for _, c := range is.Checks {
		if c.Result == api.OK {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s: %s\n    see %s\n", c.Name, clean(cmp.Or(c.Hint, c.Message)), c.Page); err != nil {
			return err
		}
	}
	return nil
}
