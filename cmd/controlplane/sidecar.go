package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/viper"

	"datapunk.dev/controlplane/sidecar"
	"datapunk.dev/controlplane/sidecar/api"
)

// sidecarSettings are those of `controlplane sidecar`, from flags,
// CONTROLPLANE_SIDECAR_* variables and its file, in that order of precedence.
type sidecarSettings struct {
	Service         string        `mapstructure:"service"`
	NodeID          string        `mapstructure:"node-id"`
	AppPort         uint16        `mapstructure:"app-port"`
	MeshPort        uint16        `mapstructure:"mesh-port"`
	OutboundPort    uint16        `mapstructure:"outbound-port"`
	MetricsPort     uint16        `mapstructure:"metrics-port"`
	Address         string        `mapstructure:"address"`
	Region          string        `mapstructure:"region"`
	Zone            string        `mapstructure:"zone"`
	SubZone         string        `mapstructure:"sub-zone"`
	Version         string        `mapstructure:"version"`
	Tags            []string      `mapstructure:"tag"`
	Meta            []string      `mapstructure:"meta"`
	XDSAddresses    []string      `mapstructure:"xds-address"`
	CAFile          string        `mapstructure:"ca-file"`
	CAHash          string        `mapstructure:"ca-hash"`
	JoinTokenFile   string        `mapstructure:"join-token-file"`
	ConsulTokenFile string        `mapstructure:"consul-token-file"`
	NomadTokenFile  string        `mapstructure:"nomad-token-file"`
	StateDir        string        `mapstructure:"state-dir"`
	Envoy           string        `mapstructure:"envoy"`
	AnyVersion      bool          `mapstructure:"any-envoy-version"`
	EnvoyLogLevel   string        `mapstructure:"envoy-log-level"`
	Concurrency     int           `mapstructure:"concurrency"`
	DrainTime       time.Duration `mapstructure:"drain-time"`
	LogLevel        string        `mapstructure:"log-level"`
	LogFormat       string        `mapstructure:"log-format"`
}

func newSidecarCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sidecar --service S --app-port N --xds-address HOST:PORT… --join-token-file F --ca-hash sha256:…",
		Short: "Make this machine a node of the mesh: join, run Envoy, leave",
		Long: "sidecar runs beside an application. It joins the mesh, has a control plane say what Envoy starts with,\n" +
			"runs Envoy and keeps its token fresh. At SIGTERM it leaves: its callers go elsewhere, what is under way\n" +
			"ends, then Envoy ends; the application may end after it. SIGHUP replaces Envoy, by its binary and the\n" +
			"bootstrap of the moment, the same way.\n\n" +
			"What is not said it chooses, and keeps in its state directory: node id, address, ports (" + "ports.env has them).\n" +
			"Each flag may also be set as CONTROLPLANE_SIDECAR_<FLAG>, or in the file of -c.",
		Example: "  controlplane sidecar --service lake_service --app-port 8080 --xds-address cp1:18000,cp2:18000 \\\n" +
			"    --join-token-file join.token --ca-hash sha256:5f1c…",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSidecarSettings(cmd)
			if err != nil {
				return err
			}
			o, err := s.options()
			if err != nil {
				return usageError{err}
			}
			log, out, err := openLog(cmd.ErrOrStderr(), &settings{LogLevel: s.LogLevel, LogFormat: s.LogFormat})
			if err != nil {
				return err
			}
			defer out.Close()
			o.Log, o.Stdout = log, os.Stdout
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			return sidecar.Run(cmd.Context(), *o, hangup)
		},
	}
	f := cmd.Flags()
	f.String("service", "", "service that the application is an instance of")
	f.String("node-id", "", "name of this node, unique in the mesh (default one is made, and kept)")
	f.Uint16("app-port", 0, "port of the application, on 127.0.0.1")
	f.Uint16("mesh-port", 0, "port where peers connect, with mTLS (default a free one from 20000, kept)")
	f.Uint16("outbound-port", 0, "port for the application's own calls, on 127.0.0.1 (default a free one from 15001, kept)")
	f.Uint16("metrics-port", 0, "port where Prometheus scrapes (default a free one from 9102, kept)")
	f.String("address", "", "IP of this machine in the mesh (default that by which it reaches the control plane)")
	f.String("region", "", "region where it is")
	f.String("zone", "", "availability zone")
	f.String("sub-zone", "", "part of the zone")
	f.String("version", "", "version of the application")
	f.StringSlice("tag", nil, "tag of the instance; may be repeated")
	f.StringSlice("meta", nil, "metadata of the instance, KEY=VALUE; may be repeated")
	f.StringSlice("xds-address", nil, "control planes, HOST:PORT or unix:PATH; all of them, since each is told when this proxy leaves")
	f.String("ca-file", "", "root certificate of the control plane, ca.pem of its data directory")
	f.String("ca-hash", "", "its SHA-256 instead, sha256:…, as controlplane token join prints it")
	f.String("join-token-file", "", "file with a join token")
	f.String("consul-token-file", "", "file with a Consul ACL token instead, with service:write for the service")
	f.String("nomad-token-file", "", "file with a Nomad workload identity instead")
	f.String("state-dir", "", "what is kept (default $STATE_DIRECTORY, else /var/lib/controlplane-sidecar/SERVICE)")
	f.String("envoy", "envoy", "Envoy's binary")
	f.Bool("any-envoy-version", false, "take an Envoy that is older than what the control plane generates configuration for")
	f.String("envoy-log-level", "warning", "of Envoy's own log")
	f.Int("concurrency", 0, "Envoy's worker threads (default as many as cores)")
	f.Duration("drain-time", 30*time.Second, "how long requests under way may take when the proxy leaves")
	f.String("log-level", "info", "debug, info, warn or error")
	f.String("log-format", "", "text or json (default text on a terminal, else json)")
	f.StringP("config", "c", "", "file with these settings (YAML, TOML or JSON)")
	return cmd
}

func loadSidecarSettings(cmd *cobra.Command) (*sidecarSettings, error) {
	v, err := readSettings(cmd, "CONTROLPLANE_SIDECAR", "config")
	if err != nil {
		return nil, err
	}
	var s sidecarSettings
	if err := v.Unmarshal(&s); err != nil {
		return nil, usageError{fmt.Errorf("settings: %w", err)}
	}
	return &s, nil
}

// readSettings lays flags over variables over the file that a flag names.
func readSettings(cmd *cobra.Command, prefix, fileFlag string) (*viper.Viper, error) {
	v := viper.New()
	v.SetEnvPrefix(prefix)
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv()
	if err := v.BindPFlags(cmd.Flags()); err != nil {
		return nil, fmt.Errorf("bind flags: %w", err)
	}
	path := v.GetString(fileFlag)
	if path == "" {
		return v, nil
	}
	v.SetConfigFile(path)
	if err := v.ReadInConfig(); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	for _, key := range v.AllKeys() {
		if cmd.Flags().Lookup(key) == nil {
			return nil, usageError{fmt.Errorf("settings: %s: unknown key %q", path, key)}
		}
	}
	return v, nil
}

// options checks what can be checked without touching the machine.
func (s *sidecarSettings) options() (*sidecar.Options, error) {
	o := &sidecar.Options{
		Service: s.Service, NodeID: s.NodeID, AppPort: s.AppPort,
		Ports:   sidecar.Ports{Mesh: s.MeshPort, Outbound: s.OutboundPort, Metrics: s.MetricsPort},
		Address: s.Address, Region: s.Region, Zone: s.Zone, SubZone: s.SubZone, Version: s.Version, Tags: s.Tags,
		XDSAddresses: s.XDSAddresses, CAFile: s.CAFile, CAHash: s.CAHash,
		StateDir: cmp.Or(s.StateDir, os.Getenv("STATE_DIRECTORY")), Envoy: s.Envoy, EnvoyLevel: s.EnvoyLogLevel, AnyVersion: s.AnyVersion,
		Workers: s.Concurrency, DrainTime: s.DrainTime,
	}
	if dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		o.RuntimeDir = dir
	}
	given := 0
	for _, c := range []struct {
		kind api.Kind
		file string
	}{{api.JoinToken, s.JoinTokenFile}, {api.ConsulToken, s.ConsulTokenFile}, {api.NomadToken, s.NomadTokenFile}} {
		if c.file != "" {
			given++
			o.JoinKind, o.JoinFile = c.kind, c.file
		}
	}
	var errs []error
	if s.Service == "" && o.JoinKind != api.NomadToken {
		errs = append(errs, errors.New("--service is required"))
	}
	if s.AppPort == 0 {
		errs = append(errs, errors.New("--app-port is required"))
	}
	if len(s.XDSAddresses) == 0 {
		errs = append(errs, errors.New("--xds-address is required"))
	}
	if (s.CAFile == "") == (s.CAHash == "") {
		errs = append(errs, errors.New("one of --ca-file and --ca-hash is required: by it the control plane is known"))
	}
	if given > 1 {
		errs = append(errs, errors.New("only one of --join-token-file, --consul-token-file and --nomad-token-file"))
	}
	if s.DrainTime < 0 || s.DrainTime > time.Hour {
		errs = append(errs, fmt.Errorf("--drain-time %s: want 0s to 1h", s.DrainTime))
	}
	if s.Concurrency < 0 {
		errs = append(errs, fmt.Errorf("--concurrency %d is negative", s.Concurrency))
	}
	for _, pair := range s.Meta {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			errs = append(errs, fmt.Errorf("--meta %q: want KEY=VALUE", pair))
			continue
		}
		if o.Meta == nil {
			o.Meta = make(map[string]string)
		}
		o.Meta[key] = value
	}
	if o.StateDir == "" {
		o.StateDir = filepath.Join("/var/lib/controlplane-sidecar", cmp.Or(s.Service, "node"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, inOneLine(err)
	}
	return o, nil
}
