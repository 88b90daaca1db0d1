package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
)

func newRootsCommand() *cobra.Command {
	var server adminFlags
	cmd := &cobra.Command{
		Use:   "roots {show | bundle | prepare | activate | retire | back | intermediate}",
		Short: "Show the root certificates, and replace the one in use",
		Long: "roots replaces the root certificate of a running mesh. prepare makes the next one, which every proxy is\n" +
			"given beside the first; activate has it sign, once all of them trust it; retire ends the trust in the first,\n" +
			"once nothing that it signed is in use and every Envoy has a bootstrap with the next. back returns to the\n" +
			"phase before, until that. Each is for the replica that is asked; a step that comes too early says for whom.",
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	server.add(cmd)
	cmd.AddCommand(newShowRootsCommand(&server), newBundleCommand(&server), newIntermediateCommand(&server))
	for _, step := range []struct{ verb, short string }{
		{"prepare", "Make the next root, and have all proxies trust it beside the first"},
		{"activate", "Have the next root sign the proxies' certificates, once all proxies trust it"},
		{"retire", "End the trust in the first root, once nothing that it signed is in use"},
		{"back", "Return to the phase before"},
	} {
		cmd.AddCommand(&cobra.Command{
			Use: step.verb, Short: step.short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				var roots api.Roots
				if err := server.act(cmd.Context(), "/roots/"+step.verb, nil, &roots); err != nil {
					return fmt.Errorf("%s: %w", step.verb, err)
				}
				return printRoots(cmd.OutOrStdout(), &roots)
			},
		})
	}
	return cmd
}

func askRoots(cmd *cobra.Command, server *adminFlags) (*api.Roots, error) {
	var roots api.Roots
	return &roots, server.get(cmd.Context(), "/roots", nil, &roots)
}

func newShowRootsCommand(server *adminFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "Show the roots, and how far the replacement of one is", Args: cobra.NoArgs}
	out := outputFlag(cmd, "table", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		roots, err := askRoots(cmd, server)
		if err != nil {
			return err
		}
		return out.write(cmd.OutOrStdout(), roots, func(w io.Writer) error { return printRoots(w, roots) })
	}
	return cmd
}

func newBundleCommand(server *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "bundle",
		Short: "Print the roots that proxies trust, as PEM: the --ca-file of new bootstraps",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			roots, err := askRoots(cmd, server)
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), roots.Bundle)
			return err
		},
	}
}

func newIntermediateCommand(server *adminFlags) *cobra.Command {
	var out, key string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "intermediate --out DIR [--ttl D]",
		Short: "Make the data directory of a replica that has an intermediate in the place of the root's key",
		Long: "intermediate writes the data directory of another replica: the roots, an intermediate of its own under each,\n" +
			"and the key of the tokens. Such a replica signs certificates until the intermediate ends; another one in its\n" +
			"place is taken within 10 s. It needs the data directory with the root's key, and no control plane.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := sds.IssueIntermediate(dataDirectory(server.dataDir), key, out, ttl); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s holds an intermediate until %s: it is secret, move it to the replica\n", out, time.Now().Add(ttl).UTC().Format(time.RFC3339))
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "directory to write")
	cmd.Flags().DurationVar(&ttl, "ttl", 90*24*time.Hour, "life of the intermediate, at least 1h")
	cmd.Flags().StringVar(&key, "ca-key-file", "", "the root's key, where security.mtls.ca.key_file has it (default ca-key.pem of the data directory)")
	require(cmd, "out")
	return cmd
}

// printRoots writes a line each, and what to do next.
func printRoots(w io.Writer, r *api.Roots) error {
	var text strings.Builder
	fmt.Fprintf(&text, "phase   %s\nfirst   %s\n", r.Phase, r.First)
	if r.Next != "" {
		fmt.Fprintf(&text, "next    %s\nsigns   %s\n", r.Next, r.Signs)
	}
	if r.Failure != "" {
		fmt.Fprintf(&text, "error   %s\n", r.Failure)
	}
	trusted := "all connected proxies trust them"
	if !r.Trusted {
		trusted = "not every connected proxy has acknowledged them"
	}
	fmt.Fprintf(&text, "trusted %s\n", trusted)
	if r.Old > 0 || !r.Until.IsZero() {
		fmt.Fprintf(&text, "old     %d proxies hold a certificate of the root that does not sign; the last ends at %s\n", r.Old, r.Until.UTC().Format(time.RFC3339))
	}
	if r.Next != "" && len(r.Pinned) > 0 {
		fmt.Fprintf(&text, "pinned  %d Envoys accept no control plane of the next root: %s\n", len(r.Pinned), strings.Join(r.Pinned, ", "))
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// rootsOf is what is known of the roots, as the admin address says it.
func rootsOf(s control.RootStatus) api.Roots {
	if s.Phase == "" {
		return api.Roots{}
	}
	out := api.Roots{
		Phase: string(s.Phase), First: s.First.String(), Signs: s.Signs().String(), Trusted: s.Trusted, Old: s.Old, Until: s.Until,
		Pinned: s.Pinned, Failure: s.Failure, Bundle: string(s.Bundle),
	}
	if s.Next != (identity.RootHash{}) {
		out.Next = s.Next.String()
	}
	return out
}
