package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/sidecar"
)

func newSVIDCommand() *cobra.Command {
	var loop sidecar.SVIDLoop
	var caFile string
	cmd := &cobra.Command{
		Use:   "svid --xds-address HOST:PORT… --ca-file F --token-file F --out DIR",
		Short: "Keep the certificate of a client without an Envoy in files",
		Long: "svid runs beside a client that has no Envoy: it fetches the client's certificate from a control plane,\n" +
			"as an Envoy does, and keeps it in DIR: " + identity.SVIDFile + ", " + identity.SVIDKeyFile + " and the trust bundle, " + identity.BundleFile + ",\n" +
			"all three replaced at once. While no control plane answers they stay as they are.",
		Example: "  controlplane svid --xds-address 10.0.0.2:18000 --ca-file ca.pem --token-file /run/mesh/reports-1.token --out /run/mesh/reports-1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ca, err := os.ReadFile(caFile)
			if err != nil {
				return fmt.Errorf("--ca-file: %w", err)
			}
			loop.CAPEM = ca
			log, out, err := openLog(cmd.ErrOrStderr(), besideAProxy())
			if err != nil {
				return err
			}
			defer out.Close()
			loop.Log = log
			return loop.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&loop.Addresses, "xds-address", nil, "control plane, HOST:PORT or unix:PATH; may be repeated")
	f.StringVar(&caFile, "ca-file", "", "root certificate of the control plane, ca.pem of its data directory")
	f.StringVar(&loop.TokenFile, "token-file", "", "file with the client's token")
	f.StringVar(&loop.Dir, "out", "", "directory for the certificate")
	require(cmd, "xds-address", "ca-file", "token-file", "out")
	return cmd
}
