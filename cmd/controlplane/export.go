package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/policy"
)

// exported is the settings of a service, as JSON and YAML have them.
type exported struct {
	Service  string            `json:"service"`
	Settings []exportedSetting `json:"settings"`
}

type exportedSetting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	From   string `json:"from,omitempty"`   // the key that it came from; empty: built in
	Source string `json:"source,omitempty"` // FILE:LINE:COL
}

func newExportCommand() *cobra.Command {
	var in meshInput
	cmd := &cobra.Command{
		Use:   "export -f FILE [-f FILE…] [--environment E] [SERVICE]",
		Short: "Print the settings of services as they are in force, each with the line that it came from",
		Long: "export prints every setting of a service, or of each that the mesh file names: what the service's own\n" +
			"section says, over circuit_breakers.custom, over the defaults of the file, over what the control plane does\n" +
			"by itself.",
		Example: "  controlplane export -f edit.yaml lake_service\n  controlplane export -f edit.yaml -o json | jq '.[] | select(.service == \"lake_service\")'",
		Args:    cobra.MaximumNArgs(1),
	}
	out := outputFlag(cmd, tableForms...)
	in.requiredFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		mesh, err := in.load(in.files)
		if err != nil {
			return shown(cmd.ErrOrStderr(), err)
		}
		names := mesh.Names()
		if len(args) > 0 {
			names = args
		}
		all := make([]exported, 0, len(names))
		for _, name := range names {
			all = append(all, exportOf(mesh, name))
		}
		return out.write(cmd.OutOrStdout(), all, func(w io.Writer) error { return printExport(w, all, out.wide()) })
	}
	return cmd
}

func exportOf(mesh *policy.Mesh, name string) exported {
	e := exported{Service: name}
	for _, s := range mesh.Effective(name) {
		e.Settings = append(e.Settings, exportedSetting{Key: s.Key, Value: s.Value, From: s.From, Source: s.Source.String()})
	}
	return e
}

func printExport(w io.Writer, all []exported, wide bool) error {
	for i, e := range all {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		rows := [][]string{{"SERVICE " + e.Service, "VALUE", "SOURCE"}}
		if wide {
			rows[0] = append(rows[0], "FROM")
		}
		for _, s := range e.Settings {
			source := s.Source
			if source == "" {
				source = "built in"
			}
			row := []string{s.Key, s.Value, source}
			if wide {
				row = append(row, s.From)
			}
			rows = append(rows, row)
		}
		if err := printTable(w, rows); err != nil {
			return err
		}
	}
	return nil
}
