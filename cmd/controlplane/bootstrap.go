package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"datapunk.dev/controlplane/bootstrap"
	"datapunk.dev/controlplane/sds/identity"
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
	f.Uint16Var(&o.AppPort, "app-port", 0, "port of the application")
	f.StringVar(&o.AppAddress, "app-address", "", "IP that the application listens at (default 127.0.0.1); ::1, or the instance's own, where anybody reaches it without the sidecar")
	f.Uint16Var(&o.MeshPort, "mesh-port", 0, "port where peers connect, with mTLS")
	f.Uint16Var(&o.OutboundPort, "outbound-port", bootstrap.DefaultOutboundPort, "port for the application's own calls, on 127.0.0.1")
	f.Uint16Var(&o.MetricsPort, "metrics-port", bootstrap.DefaultMetricsPort, "port where Prometheus scrapes")
	f.StringVar(&o.Address, "address", "", "IP that the mesh and metrics ports are bound to (default every one of IPv4)")
	f.StringVar(&o.AdminSocket, "admin", "", "Envoy's admin socket (default NODE-ID.admin.sock in $RUNTIME_DIRECTORY, else in /run/mesh)")
	f.StringSliceVar(&o.XDSAddresses, "xds-address", nil, "control plane, HOST:PORT or unix:PATH; may be repeated")
	f.StringVar(&caFile, "ca-file", "", "root certificate of the control plane, ca.pem of its data directory")
	f.StringVar(&o.TokenFile, "token-file", "", "file that Envoy reads its token from")
	f.BoolVar(&o.Plaintext, "xds-plaintext", false, "no TLS and no token; loopback and Unix sockets only")
	addLocalityFlags(f, &o.Region, &o.Zone, &o.SubZone)
	f.StringVar(&o.Version, "version", "", "version of the application")
	f.StringArrayVar(&o.Tags, "tag", nil, "tag that the instance is registered with; may be repeated")
	f.StringToStringVar(&o.Meta, "meta", nil, "KEY=VALUE of metadata that it is registered with; may be repeated")
	require(cmd, "service", "node-id", "app-port", "mesh-port", "xds-address")
	cmd.AddCommand(newGRPCBootstrapCommand())
	return cmd
}

func newGRPCBootstrapCommand() *cobra.Command {
	var o bootstrap.GRPCOptions
	cmd := &cobra.Command{
		Use:   "grpc --service S --node-id ID --xds-address HOST:PORT… --ca-file F --token-file F [--svid-dir DIR]",
		Short: "Print the bootstrap of a client with gRPC's own xDS",
		Long: "grpc prints what a process needs that calls xds:///SERVICE by gRPC's own xDS client, without an Envoy,\n" +
			"as JSON: the file that GRPC_XDS_BOOTSTRAP names. It has no secret in it. The client reads its token from\n" +
			"--token-file (controlplane token --jwt writes it), and only if its environment has\n" +
			"GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS=true. While mTLS is on it needs --svid-dir, the directory that\n" +
			"controlplane svid keeps, and must use the credentials of gRPC's package xds.",
		Example: "  controlplane bootstrap grpc --service reports --node-id reports-1 --xds-address control.example:18000 \\\n" +
			"    --ca-file ca.pem --token-file /run/mesh/reports-1.token --svid-dir /run/mesh/reports-1 > xds.json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := completeGRPCBootstrap(&o); err != nil {
				return err
			}
			out, err := bootstrap.GRPC(o)
			if err != nil {
				return usageError{inOneLine(err)}
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Service, "service", "", "service as which the client calls")
	f.StringVar(&o.NodeID, "node-id", "", "name of this client, unique in the mesh")
	f.StringSliceVar(&o.XDSAddresses, "xds-address", nil, "control plane, HOST:PORT or unix:PATH; the next one is used when the first is away")
	f.StringVar(&o.CAFile, "ca-file", "", "root certificate of the control plane, ca.pem of its data directory")
	f.StringVar(&o.TokenFile, "token-file", "", "file that the client reads its token from")
	f.StringVar(&o.SVIDDir, "svid-dir", "", "directory with the client's certificate")
	f.BoolVar(&o.Plaintext, "xds-plaintext", false, "no TLS and no token; loopback and Unix sockets only")
	addLocalityFlags(f, &o.Region, &o.Zone, &o.SubZone)
	require(cmd, "service", "node-id", "xds-address")
	return cmd
}

func addLocalityFlags(f *pflag.FlagSet, region, zone, subZone *string) {
	f.StringVar(region, "region", "", "region where it is, as its instance is registered")
	f.StringVar(zone, "zone", "", "availability zone, likewise")
	f.StringVar(subZone, "sub-zone", "", "part of the zone, likewise")
}

// completeGRPCBootstrap makes paths absolute, and looks at the CA: the client
// would only say that it has no connection.
func completeGRPCBootstrap(o *bootstrap.GRPCOptions) error {
	if !o.Plaintext && (o.CAFile == "" || o.TokenFile == "") {
		return usageError{errors.New("--ca-file and --token-file are required, or --xds-plaintext")}
	}
	if err := absolute(&o.CAFile, &o.TokenFile, &o.SVIDDir); err != nil {
		return err
	}
	if o.CAFile == "" {
		return nil
	}
	ca, err := os.ReadFile(o.CAFile)
	if err != nil {
		return fmt.Errorf("--ca-file: %w", err)
	}
	if _, err := identity.TrustDomainOf(ca); err != nil {
		return fmt.Errorf("--ca-file: %w", err)
	}
	return nil
}

// absolute completes paths that are set.
func absolute(paths ...*string) error {
	for _, path := range paths {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	return nil
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
	if err := absolute(&o.AdminSocket, &o.TokenFile); err != nil {
		return err
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
