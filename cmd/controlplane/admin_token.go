package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
)

func newAdminTokenCommand() *cobra.Command {
	var dataDir, name, role, out string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "admin-token --name NAME [--role read|operate] [--ttl D] [--out FILE]",
		Short: "Make an operator's token, for the admin address",
		Long: "admin-token makes a token for one operator, or one tool. The role read sees everything but secrets; operate\n" +
			"may pin a revision, decide on a removal and rotate certificates too, and each such act is recorded with the\n" +
			"name. Every control plane with the same token key takes it. It needs the control plane's data directory; the\n" +
			"user of that needs no token.",
		Example: "  controlplane admin-token --data-dir /var/lib/controlplane --name ada --role operate --ttl 12h --out ada.token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if role != string(api.Read) && role != string(api.Operate) {
				return usageError{fmt.Errorf("--role %s: want %s or %s", role, api.Read, api.Operate)}
			}
			tokens, err := sds.OpenTokens(dataDirectory(dataDir))
			if err != nil {
				return err
			}
			raw, err := tokens.MintOperator(name, role, ttl)
			if err != nil {
				return usageError{err}
			}
			if out == "" {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), raw)
			} else {
				err = atomicfile.Write(out, []byte(raw+"\n"), 0o600)
			}
			if err != nil {
				return err
			}
			who, err := tokens.VerifyOperator(raw)
			if err != nil {
				return errors.New("the new token does not verify: is the clock changing?")
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s has the role %s until %s\n", who.Name, who.Role, who.Expires.UTC().Format(time.RFC3339))
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&dataDir, "data-dir", "", "the control plane's data directory (default $CONTROLPLANE_DATA_DIR, $STATE_DIRECTORY, else ./data)")
	f.StringVar(&name, "name", "", "whom it is for, as events say it")
	f.StringVar(&role, "role", string(api.Read), "read, or operate")
	f.DurationVar(&ttl, "ttl", 30*24*time.Hour, fmt.Sprintf("life of the token, at most %s", token.MaxTTL))
	f.StringVar(&out, "out", "", "file to write it to, 0600 (default stdout)")
	require(cmd, "name")
	return cmd
}
