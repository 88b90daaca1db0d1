package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
	"datapunk.dev/controlplane/sidecar"
)

// defaultTokenTTL is the life of a token when nobody says: long enough for a
// fleet without renewal to be looked after by people.
const defaultTokenTTL = 30 * 24 * time.Hour

// tokenFlags are those of both forms of the command.
type tokenFlags struct {
	dataDir, service, node string
	ttl                    time.Duration
	renew                  bool
	addresses              []string
	caFile                 string
	out                    string
	bare                   bool
}

func newTokenCommand() *cobra.Command {
	var t tokenFlags
	cmd := &cobra.Command{
		Use:   "token --service S --node ID --out FILE | token --renew --xds-address HOST:PORT… [--ca-file F] --out FILE",
		Short: "Write the token of an Envoy or a gRPC client, or keep it fresh",
		Long: "token writes a token with which the Envoy NODE may act as the service, as the file that Envoy's\n" +
			"bootstrap reads it from, or with --jwt alone, for a client without an Envoy. It needs the control\n" +
			"plane's data directory.\n\n" +
			"token --renew runs beside that: at half of the token's life it exchanges it for the next one at a\n" +
			"control plane, and replaces the file. It stops with an error once the token has expired.",
		Example: "  controlplane token --data-dir /var/lib/controlplane --service lake_service --node lake-1 --ttl 720h --out lake-1.token.yaml\n" +
			"  controlplane token --renew --xds-address 10.0.0.2:18000 --ca-file ca.pem --out /run/mesh/lake-1.token.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.check(cmd); err != nil {
				return usageError{err}
			}
			if t.renew {
				return t.keepFresh(cmd)
			}
			return t.mint(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.dataDir, "data-dir", "", "the control plane's data directory (default $CONTROLPLANE_DATA_DIR, $STATE_DIRECTORY, else ./data)")
	f.StringVar(&t.service, "service", "", "service that the token is for")
	f.StringVar(&t.node, "node", "", "node id of the Envoy that the token is for")
	f.DurationVar(&t.ttl, "ttl", defaultTokenTTL, fmt.Sprintf("life of the token, at most %s", token.MaxTTL))
	f.BoolVar(&t.bare, "jwt", false, "write the token alone, for gRPC's own xDS client and controlplane svid")
	f.BoolVar(&t.renew, "renew", false, "keep the token in the file fresh, until ended")
	f.StringSliceVar(&t.addresses, "xds-address", nil, "control plane, HOST:PORT or unix:PATH; may be repeated")
	f.StringVar(&t.caFile, "ca-file", "", "root certificate of the control plane (default ca.pem beside --out)")
	f.StringVar(&t.out, "out", "", "file that Envoy reads the token from")
	require(cmd, "out")
	cmd.AddCommand(newJoinTokenCommand())
	return cmd
}

// check holds the two forms apart.
func (t *tokenFlags) check(cmd *cobra.Command) error {
	minting, renewing := []string{"data-dir", "service", "node", "ttl", "jwt"}, []string{"xds-address", "ca-file"}
	needed, excluded, form := []string{"service", "node"}, renewing, "without --renew"
	if t.renew {
		needed, excluded, form = []string{"xds-address"}, minting, "with --renew"
	}
	for _, name := range excluded {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s means nothing %s", name, form)
		}
	}
	for _, name := range needed {
		if !cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is required %s", name, form)
		}
	}
	return nil
}

// dataDirectory is the data directory of the control plane that a command
// beside it means.
func dataDirectory(flag string) string {
	return cmp.Or(flag, os.Getenv("CONTROLPLANE_DATA_DIR"), os.Getenv("STATE_DIRECTORY"), "data")
}

func (t *tokenFlags) mint(cmd *cobra.Command) error {
	tokens, err := sds.OpenTokens(dataDirectory(t.dataDir))
	if err != nil {
		return err
	}
	raw, err := tokens.Mint(t.service, t.node, t.ttl)
	if err != nil {
		return err
	}
	write := token.WriteSecretFile
	if t.bare {
		write = token.WriteFile
	}
	if err := write(t.out, raw); err != nil {
		return err
	}
	claims, err := tokens.Verify(raw)
	if err != nil {
		return errors.New("the new token does not verify: is the clock changing?")
	}
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s: node %s may act as %s until %s\n", t.out, claims.Node, claims.Service, claims.Expires.UTC().Format(time.RFC3339))
	return err
}

func (t *tokenFlags) keepFresh(cmd *cobra.Command) error {
	if t.caFile == "" {
		t.caFile = filepath.Join(filepath.Dir(t.out), "ca.pem")
	}
	ca, err := os.ReadFile(t.caFile)
	if err != nil {
		return fmt.Errorf("--ca-file: %w", err)
	}
	log, out, err := openLog(cmd.ErrOrStderr(), besideAProxy())
	if err != nil {
		return err
	}
	defer out.Close()
	loop := &sidecar.TokenLoop{
		Addresses: t.addresses,
		CAPEM:     ca,
		File:      t.out,
		Log:       log,
	}
	return loop.Run(cmd.Context())
}
