package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/bootstrap"
)

func newBootstrapCommand() *cobra.Command {
	var o bootstrap.Options
	var caFile string
	cmd := &cobra.Command{
		Use:   "bootstrap --service S --node-id ID --app-port N --mesh-port N --xds-address HOST:PORT… --ca-file F --token-file F",
		Short: "Print the bootstrap of an Envoy",
		Long: "bootstrap prints the whole configuration that an Envoy starts with, as YAML: who it is, its admin\n" +
			"socket, and the control planes. It has no secret in it. Envoy reads its token from --token-file,\n" +
			"which must exist when it starts (controlplane token writes it) and may be renewed at any time.",
		Example: "  controlplane bootstrap --service lake_service --node-id lake-1 --app-port 8080 --mesh-port 15443 \\\n" +
			"    --xds-address 10.0.0.2:18000 --ca-file ca.pem --token-file /run/mesh/lake-1.token.yaml > lake-1.yaml\n" +
			"  envoy -c lake-1.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := completeBootstrap(&o, caFile); err != nil {
				return err
			}
			b, err := bootstrap.New(o)
			if err != nil {
				return usageError{inOneLine(err)}
			}
			out, err := bootstrap.YAML(b)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Service, "service", "", "service that the Envoy is the sidecar of")
	f.StringVar(&o.NodeID, "node-id", "", "name of this Envoy, unique in the mesh")
	f.Uint16Var(&o.AppPort, "app-port", 0, "port of the application, on 127.0.0.1")
	f.Uint16Var(&o.MeshPort, "mesh-port", 0, "port where peers connect, with mTLS")
	f.Uint16Var(&o.OutboundPort, "outbound-port", bootstrap.DefaultOutboundPort, "port for the application's own calls, on 127.0.0.1")
	f.Uint16Var(&o.MetricsPort, "metrics-port", bootstrap.DefaultMetricsPort, "port where Prometheus scrapes")
	f.StringVar(&o.Address, "address", "", "IP that the mesh and metrics ports are bound to (default every one)")
	f.StringVar(&o.AdminSocket, "admin", "", "Envoy's admin socket (default NODE-ID.admin.sock in $RUNTIME_DIRECTORY, else in /run/mesh)")
	f.StringSliceVar(&o.XDSAddresses, "xds-address", nil, "control plane, HOST:PORT or unix:PATH; may be repeated")
	f.StringVar(&caFile, "ca-file", "", "root certificate of the control plane, ca.pem of its data directory")
	f.StringVar(&o.TokenFile, "token-file", "", "file that Envoy reads its token from")
	f.BoolVar(&o.Plaintext, "xds-plaintext", false, "no TLS and no token; loopback and Unix sockets only")
	f.StringVar(&o.Zone, "zone", "", "availability zone")
	f.StringVar(&o.Version, "version", "", "version of the application")
	require(cmd, "service", "node-id", "app-port", "mesh-port", "xds-address")
	return cmd
}

// completeBootstrap reads the CA and makes paths absolute: Envoy may be
// started elsewhere.
func completeBootstrap(o *bootstrap.Options, caFile string) error {
	if !o.Plaintext && (caFile == "" || o.TokenFile == "") {
		return usageError{errors.New("--ca-file and --token-file are required, or --xds-plaintext")}
	}
	if o.Plaintext && (caFile != "" || o.TokenFile != "") {
		return usageError{errors.New("--xds-plaintext excludes --ca-file and --token-file")}
	}
	if o.AdminSocket == "" {
		dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":") // systemd lists several
		if dir == "" {
			dir = "/run/mesh"
		}
		if strings.ContainsRune(o.NodeID, '/') {
			return usageError{fmt.Errorf("node id %q is no file name: say with --admin where Envoy's admin socket is to be", o.NodeID)}
		}
		o.AdminSocket = filepath.Join(dir, o.NodeID+".admin.sock")
	}
	for _, path := range []*string{&o.AdminSocket, &o.TokenFile} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	if caFile == "" {
		return nil
	}
	var err error
	if o.CAPEM, err = os.ReadFile(caFile); err != nil {
		return fmt.Errorf("--ca-file: %w", err)
	}
	return nil
}

// inOneLine joins the lines of an error that has several.
func inOneLine(err error) error {
	if s := err.Error(); strings.Contains(s, "\n") {
		return errors.New(strings.ReplaceAll(s, "\n", "; "))
	}
	return err
}

func require(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a flag that is not defined
		}
	}
}
