package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "controlplane",
		Short:         "Serve Envoys the configuration of a mesh",
		Long:          "controlplane watches a Consul catalog and the operators' mesh file, and serves a fleet of\nEnvoys over ADS, with SPIFFE certificates by SDS.",
		SilenceErrors: true,
		SilenceUsage:  true,
		// How many letters a mistyped command may differ by to be recognized.
		SuggestionsMinimumDistance: 2,
		Args:                       subcommandOnly,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(
		newServeCommand(),
		newValidateCommand(),
		newAcceptCommand(),
		newBootstrapCommand(),
		newTokenCommand(),
		newSVIDCommand(),
		newSidecarCommand(),
		newStatusCommand(),
		newProxiesCommand(),
		newProxyConfigCommand(),
		newCertsCommand(),
		newEventsCommand(),
		newHistoryCommand(),
		newCheckCommand(),
		newCollectCommand(),
		newRootsCommand(),
		newRemovalsCommand(),
		newWhyCommand(),
		newDescribeCommand(),
		newAdminTokenCommand(),
		newExplainCommand(),
		newSchemaCommand(),
		newFormatCommand(),
		newExportCommand(),
		newPlanCommand(),
		newRenderCommand(),
		newAnalyzeCommand(),
		newVersionCommand(),
	)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return wrongUsage(cmd, fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath()))
	})
	wrapUsage(root)
	return root
}

// subcommandOnly refuses a word that is no subcommand.
func subcommandOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(", did you mean %s?", strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown command %q%s", args[0], hint)
}

// wrapUsage makes what a command's arguments or required flags lack exit with
// 2, like a wrong flag.
func wrapUsage(cmd *cobra.Command) {
	args := cmd.Args
	if args == nil {
		args = cobra.NoArgs
	}
	cmd.Args = func(cmd *cobra.Command, a []string) error {
		if err := args(cmd, a); err != nil {
			return wrongUsage(cmd, err)
		}
		if err := cmd.ValidateRequiredFlags(); err != nil {
			return wrongUsage(cmd, err)
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		wrapUsage(sub)
	}
}

// require marks flags without which a command does nothing.
func require(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a flag that is not defined
		}
	}
}
