package main

import (
	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/configs"
)

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a mesh file, for editors",
		Long: "schema prints the JSON Schema by which an editor completes and checks a mesh file: write it beside the file,\n" +
			"and `# yaml-language-server: $schema=schema.json` in the first line of the file.",
		Example: "  controlplane schema > schema.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(configs.Schema)
			return err
		},
	}
}
