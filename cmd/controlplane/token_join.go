package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/sds/join"
	"datapunk.dev/controlplane/sds/token"
)

func newJoinTokenCommand() *cobra.Command {
	var dataDir, service, out string
	var anyService bool
	var uses int
	var ttl, nodeTTL time.Duration
	cmd := &cobra.Command{
		Use:   "join --service S|--any [--uses N] [--ttl D] [--out FILE]",
		Short: "Make a join token, by which machines become nodes of the mesh",
		Long: "join makes a token that controlplane sidecar exchanges for the token of its own node. It is printed, or\n" +
			"written to --out, and not kept: the data directory has its hash alone. On stderr stands the hash of the root,\n" +
			"by which the machine knows the control plane. It needs the control plane's data directory; control\n" +
			"planes with a data directory each know only those of their own.",
		Example: "  controlplane token join --data-dir /var/lib/controlplane --service lake_service --uses 3 --ttl 1h --out join.token\n" +
			"  controlplane token join list --data-dir /var/lib/controlplane",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (service == "") != anyService {
				return usageError{errors.New("one of --service and --any is required")}
			}
			dir := dataDirectory(dataDir)
			tokens, err := sds.OpenTokens(dir)
			if err != nil {
				return err
			}
			// What could not be exchanged later is refused now.
			if _, err := tokens.Mint(strings.TrimSpace(orAny(service)), "node", nodeTTL); err != nil {
				return usageError{err}
			}
			ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
			if err != nil {
				return err
			}
			hash, err := identity.HashRoot(ca)
			if err != nil {
				return err
			}
			raw, kept, err := join.NewTokens(dir).Create(service, uses, ttl, nodeTTL)
			if err != nil {
				return err
			}
			if out == "" {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), raw)
			} else {
				err = atomicfile.Write(out, []byte(raw+"\n"), 0o600)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "join token %s: %d uses for %s until %s\n--ca-hash %s\n",
				kept.ID, kept.Uses, orAny(kept.Service), kept.Expires.Format(time.RFC3339), hash)
			return err
		},
	}
	cmd.PersistentFlags().StringVar(&dataDir, "data-dir", "", "the control plane's data directory (default $CONTROLPLANE_DATA_DIR, $STATE_DIRECTORY, else ./data)")
	f := cmd.Flags()
	f.StringVar(&service, "service", "", "service that machines may join")
	f.BoolVar(&anyService, "any", false, "any service")
	f.IntVar(&uses, "uses", 1, fmt.Sprintf("how many machines may join by it, at most %d", join.MaxUses))
	f.DurationVar(&ttl, "ttl", time.Hour, fmt.Sprintf("life of the join token, at most %s", join.MaxTTL))
	f.DurationVar(&nodeTTL, "node-ttl", 7*24*time.Hour, fmt.Sprintf("life of the nodes' own tokens, which they renew at its half; at most %s", token.MaxTTL))
	f.StringVar(&out, "out", "", "file to write it to (default stdout)")
	cmd.AddCommand(newListJoinTokensCommand(&dataDir), newRevokeJoinTokenCommand(&dataDir))
	return cmd
}

func orAny(service string) string {
	if service == "" {
		return "any"
	}
	return service
}

func newListJoinTokensCommand(dataDir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the join tokens, and the nodes that have joined by each",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := dataDirectory(*dataDir)
			if err := sds.CheckDir(dir); err != nil {
				return err
			}
			all, err := join.NewTokens(dir).List()
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "ID\tSERVICE\tUSES LEFT\tEXPIRES\tNODES") // Flush says what fails
			for _, k := range all {
				var nodes []string
				for _, u := range k.Used {
					nodes = append(nodes, u.Node)
				}
				expires := k.Expires.Format(time.RFC3339)
				if !time.Now().Before(k.Expires) {
					expires += " (expired)"
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%d of %d\t%s\t%s\n", k.ID, orAny(k.Service), k.Left(), k.Uses, expires, strings.Join(nodes, ","))
			}
			return errors.Join(w.Flush(), err)
		},
	}
}

func newRevokeJoinTokenCommand(dataDir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a join token; nodes that have joined by it stay",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := dataDirectory(*dataDir)
			if err := sds.CheckDir(dir); err != nil {
				return err
			}
			if err := join.NewTokens(dir).Revoke(args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "join token %s is revoked\n", args[0])
			return err
		},
	}
}
