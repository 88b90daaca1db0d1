package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/sds/join"
)

// settings are the process's own, from flags, CONTROLPLANE_* variables and a
// settings file, in that order of precedence. Never the mesh file.
type settings struct {
	Files          []string      `mapstructure:"file"`
	Environment    string        `mapstructure:"environment"`
	Catalog        string        `mapstructure:"catalog"`
	XDSAddress     string        `mapstructure:"xds-address"`
	XDSNames       []string      `mapstructure:"xds-name"`
	AdminAddress   string        `mapstructure:"admin-address"`
	AdminTLS       bool          `mapstructure:"admin-tls"`
	DataDir        string        `mapstructure:"data-dir"`
	Plaintext      bool          `mapstructure:"xds-plaintext"`
	MaxConnections int           `mapstructure:"max-connections"`
	Quorum         int           `mapstructure:"quarantine-quorum"`
	ExpectRoot     string        `mapstructure:"expect-root"`
	MaxCatalogAge  time.Duration `mapstructure:"max-catalog-age"`
	ConnectionAge  time.Duration `mapstructure:"max-connection-age"`
	Leader         string        `mapstructure:"leader"`
	JoinConsul     bool          `mapstructure:"join-consul"`
	NomadJWKS      string        `mapstructure:"join-nomad-jwks"`
	NomadAudience  string        `mapstructure:"join-nomad-audience"`
	NomadNames     []string      `mapstructure:"join-nomad-namespace"`
	NomadClaim     string        `mapstructure:"join-nomad-claim"`
	LogLevel       string        `mapstructure:"log-level"`
	LogFormat      string        `mapstructure:"log-format"`
}

func settingsFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayP("file", "f", nil, "mesh file; several are merged left to right")
	f.String("environment", "", "environment of the mesh file to merge in (default $ENV)")
	f.String("catalog", "", "consul, or file:PATH (default as discovery.method says)")
	f.String("xds-address", "127.0.0.1:18000", "where Envoys connect: HOST:PORT or unix:PATH")
	f.StringSlice("xds-name", nil, "DNS name or IP by which clients without an Envoy dial the xDS port; may be repeated (default the host of --xds-address)")
	f.String("admin-address", "127.0.0.1:19000", "where /readyz, /metrics and the API listen: HOST:PORT or unix:PATH; what other machines reach takes --admin-tls")
	f.Bool("admin-tls", false, "TLS on the admin address, with a certificate of the mesh's authority; each call from elsewhere takes an operator's token")
	f.String("data-dir", "", "certificate authority and token key (default $STATE_DIRECTORY, else ./data)")
	f.Bool("xds-plaintext", false, "no TLS and no tokens on the xDS port; loopback and Unix sockets only")
	f.Int("max-connections", 20_000, "how many connections the xDS port takes, within the limit of open files; twice as many streams")
	f.Int("quarantine-quorum", 3, "how many proxies that reject one content take it from the whole fleet, and that accept it prove it good")
	f.String("expect-root", "", "SHA-256 of ca.pem, sha256:…: start with this authority or not at all, and make no new one")
	f.Duration("max-catalog-age", 24*time.Hour, "how old a catalog of the data directory may be, of a start without its source, for this replica to be ready")
	f.Duration("max-connection-age", 30*time.Minute, "how old a proxy's connection may be, a tenth more or less, before it looks for a control plane again; 0: any age")
	f.String("leader", string(control.LeaderSelf), "self: this control plane is alone, or leads; consul: one of several, which elect a leader in Consul; none: another one leads")
	f.Bool("join-consul", false, "machines may join by a Consul ACL token with service:write for their service")
	f.String("join-nomad-jwks", "", "machines may join by a Nomad workload identity: file or URL of Nomad's keys (/.well-known/jwks.json)")
	f.String("join-nomad-audience", "controlplane", "audience that a workload identity must have")
	f.StringSlice("join-nomad-namespace", []string{"default"}, "Nomad namespace whose jobs may join; may be repeated")
	f.String("join-nomad-claim", join.ClaimService, "claim that names the service: "+join.ClaimService+", "+join.ClaimJob+" or "+join.ClaimGroup)
	f.String("log-level", "info", "debug, info, warn or error")
	f.String("log-format", "", "text or json (default text on a terminal, else json)")
	f.String("settings", "", "file with these settings (YAML, TOML or JSON)")
}

// loadSettings decodes flags, environment and settings file, and checks what
// can be checked without touching the machine.
func loadSettings(cmd *cobra.Command) (*settings, error) {
	v, err := readSettings(cmd, "CONTROLPLANE", "settings")
	if err != nil {
		return nil, err
	}
	var s settings
	if err := v.Unmarshal(&s); err != nil {
		return nil, usageError{fmt.Errorf("settings: %w", err)}
	}
	s.Environment = cmp.Or(s.Environment, os.Getenv("ENV"))
	s.DataDir = cmp.Or(s.DataDir, os.Getenv("STATE_DIRECTORY"), "data")
	return &s, s.check()
}

func (s *settings) check() error {
	if len(s.Files) == 0 {
		return usageError{errors.New("no mesh file: name one with -f FILE")}
	}
	if path, ok := strings.CutPrefix(s.Catalog, "file:"); s.Catalog != "" && s.Catalog != "consul" && (!ok || path == "") {
		return usageError{fmt.Errorf("--catalog %q: want consul or file:PATH", s.Catalog)}
	}
	for _, a := range [][2]string{{"--xds-address", s.XDSAddress}, {"--admin-address", s.AdminAddress}} {
		if path, ok := strings.CutPrefix(a[1], "unix:"); ok {
			if path == "" {
				return usageError{errors.New(a[0] + " unix: has no path")}
			}
		} else if _, _, err := net.SplitHostPort(a[1]); err != nil {
			return usageError{fmt.Errorf("%s %q: want HOST:PORT: %w", a[0], a[1], err)}
		}
	}
	switch {
	case s.AdminTLS && s.Plaintext:
		return usageError{errors.New("--admin-tls with --xds-plaintext: there is no authority for its certificate, and nobody has a token")}
	case !s.AdminTLS && !localOnly(s.AdminAddress) && !strings.HasPrefix(s.AdminAddress, "localhost:"):
		return usageError{openAdmin(s.AdminAddress)}
	}
	if s.MaxConnections < 1 {
		return usageError{fmt.Errorf("--max-connections %d: want 1 or more", s.MaxConnections)}
	}
	if s.ExpectRoot != "" {
		if _, err := identity.ParseRootHash(s.ExpectRoot); err != nil {
			return usageError{fmt.Errorf("--expect-root: %w", err)}
		}
	}
	if s.MaxCatalogAge < time.Minute {
		return usageError{fmt.Errorf("--max-catalog-age %s: want a minute or more", s.MaxCatalogAge)}
	}
	if s.Quorum < 1 {
		return usageError{fmt.Errorf("--quarantine-quorum %d: want 1 or more", s.Quorum)}
	}
	if s.ConnectionAge != 0 && s.ConnectionAge < time.Second {
		return usageError{fmt.Errorf("--max-connection-age %s: want a second or more, or 0", s.ConnectionAge)}
	}
	if !slices.Contains([]control.Leadership{control.LeaderSelf, control.LeaderConsul, control.LeaderNone}, control.Leadership(s.Leader)) {
		return usageError{fmt.Errorf("--leader %q: want self, consul or none", s.Leader)}
	}
	if s.Plaintext && len(s.XDSNames) > 0 {
		return usageError{errors.New("--xds-name means nothing with --xds-plaintext: there is no certificate")}
	}
	if s.Plaintext && (s.JoinConsul || s.NomadJWKS != "") {
		return usageError{errors.New("--join-consul and --join-nomad-jwks mean nothing with --xds-plaintext: nobody proves anything there")}
	}
	if s.Plaintext && !localOnly(s.XDSAddress) {
		return usageError{fmt.Errorf("--xds-plaintext on %s: without TLS the xDS port may only be a loopback address or unix:PATH", s.XDSAddress)}
	}
	return nil
}

// openAdmin refuses an admin address that other machines may reach.
func openAdmin(address string) error {
	return fmt.Errorf("--admin-address %s: other machines may reach it, so it takes --admin-tls, and those who call a token of controlplane admin-token", address)
}

// joins are what machines may join by, beside join tokens.
func (s *settings) joins() control.Joins {
	j := control.Joins{Consul: s.JoinConsul}
	if s.NomadJWKS != "" {
		j.Nomad = &join.NomadOptions{JWKS: s.NomadJWKS, Audience: s.NomadAudience, Namespaces: s.NomadNames, Claim: s.NomadClaim}
	}
	return j
}

// localOnly reports whether only this machine can reach the address. A host
// name does not count: what it resolves to may change.
func localOnly(addr string) bool {
	if strings.HasPrefix(addr, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// serverNames are those of the certificate of the xDS port, and of the admin address
// over TLS. Over a Unix socket gRPC asks for localhost.
func (s *settings) serverNames() []string {
	names := s.XDSNames
	if len(names) == 0 {
		names = hostName(s.XDSAddress)
	}
	if s.AdminTLS {
		names = append(slices.Clone(names), hostName(s.AdminAddress)...)
		slices.Sort(names)
		names = slices.Compact(names)
	}
	return names
}

// hostName is by what a client dials an address; nothing if that is not known.
func hostName(address string) []string {
	if strings.HasPrefix(address, "unix:") {
		return []string{"localhost"}
	}
	host, _, err := net.SplitHostPort(address)
	if ip, ipErr := netip.ParseAddr(host); err != nil || host == "" || ipErr == nil && ip.IsUnspecified() {
		return nil
	}
	return []string{host}
}

// newLogger returns the logger that the settings ask for, with a format that is
// not empty.
func newLogger(w io.Writer, s *settings) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level: %w", err)}
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: readable}
	switch s.LogFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, usageError{fmt.Errorf("--log-format %q: want text or json", s.LogFormat)}
	}
}

// readable has durations written as people write them: as JSON they would be numbers of
// nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// expectedRoot is the authority to start with; nil: any.
func (s *settings) expectedRoot() *identity.RootHash {
	if s.ExpectRoot == "" {
		return nil
	}
	hash, err := identity.ParseRootHash(s.ExpectRoot)
	if err != nil {
		return nil // which check has refused
	}
	return &hash
}
