package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"datapunk.dev/controlplane/e2e/app"
)

// tokenLife is that of a sidecar's token.
const tokenLife = 24 * time.Hour

// Spec describes an instance of a service: an app and its sidecar.
type Spec struct {
	Service, ID string
	Zone        string
	Version     string
	Weight      int
	Tags        []string
	Workers     int      // of the Envoy; 1 if 0
	Env         []string // of the Envoy
	Flags       []string // added to `controlplane bootstrap`
	Args        []string // of the Envoy, added

	SpeaksTCP    bool   // the app is a TCP echo server
	Banner       string // which speaks first
	NoApp        bool   // nothing listens where the app should
	Unregistered bool   // not in the catalog: it only calls others
	Scoped       bool   // its service declares upstreams: not every service is a cluster of its

	// Bootstrap, if set, replaces what `controlplane bootstrap` printed.
	Bootstrap func(s *Sidecar, printed string) string
}

// Sidecar is a running instance.
type Sidecar struct {
	Spec
	App   *app.App // nil for a TCP app
	TCP   *app.TCP // nil for an HTTP app
	Envoy *Envoy

	AppPort, MeshPort, OutboundPort, MetricsPort int

	Dir        string // its own
	registered bool
	Socket     string // of Envoy's admin interface
	TokenFile  string // empty without TLS
	CAFile     string // roots of the control planes that it accepts; empty: that of the first start
}

// Outbound returns where its app's HTTP calls go.
func (s *Sidecar) Outbound() string { return "127.0.0.1:" + strconv.Itoa(s.OutboundPort) }

// Inbound returns where its peers connect.
func (s *Sidecar) Inbound() string { return "127.0.0.1:" + strconv.Itoa(s.MeshPort) }

// Instance returns what the catalog is told of it.
func (s *Sidecar) Instance() Instance {
	return Instance{
		Service: s.Service, ID: s.ID, Port: s.AppPort, MeshPort: s.MeshPort,
		Weight: s.Weight, Zone: s.Zone, Tags: s.Tags,
	}
}

// Stop ends Envoy and app.
func (s *Sidecar) Stop() error {
	var err error
	if s.Envoy != nil && s.Envoy.Running() {
		err = s.Envoy.Stop()
	}
	s.stopApp()
	return err
}

// Kill ends Envoy and app at once, as a machine does that loses power.
func (s *Sidecar) Kill() {
	if s.Envoy != nil {
		s.Envoy.Kill()
	}
	s.stopApp()
}

func (s *Sidecar) stopApp() {
	if s.App != nil {
		s.App.Die()
	}
	if s.TCP != nil {
		s.TCP.Die()
	}
}

// Add starts an app and its sidecar, and registers them when the sidecar is
// LIVE: with active checks, an instance that fails its first one is out for as
// many intervals as healthy_threshold says. It does not wait until the others
// know of it: see [Mesh.WaitReady].
func (m *Mesh) Add(ctx context.Context, spec Spec) (*Sidecar, error) {
	s, err := m.Prepare(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := m.Launch(s); err != nil {
		return nil, err
	}
	if spec.Unregistered {
		return s, nil
	}
	if err := s.Envoy.WaitReady(ctx, readyTime); err != nil {
		return nil, err
	}
	return s, m.Register(s)
}

// Register puts a prepared sidecar into the catalog, or leaves that to the control
// plane.
func (m *Mesh) Register(s *Sidecar) error {
	m.mu.Lock()
	s.registered = true
	m.mu.Unlock()
	if m.options.Registers {
		return nil
	}
	return m.Registry.Register(s.Instance())
}

// sees returns nil if the Envoy of s sends to every instance: the catalog says
// that it is healthy and, if there are active checks, so do they.
func (s *Sidecar) sees(instances []*Sidecar) error {
	clusters, err := s.Envoy.Clusters()
	if err != nil {
		return err
	}
	for _, i := range instances {
		c, ok := clusters[i.Service]
		if !ok && s.Scoped {
			continue
		}
		if !ok {
			return fmt.Errorf("%s has no cluster %s (Spec.Scoped, if it declares upstreams)", s.ID, i.Service)
		}
		if !slices.ContainsFunc(c.Hosts, func(h Host) bool {
			return h.Address.Socket.Port == i.MeshPort && h.Health.EDS == "HEALTHY" && !h.Health.FailedActiveCheck
		}) {
			return fmt.Errorf("%s does not see %s healthy in its cluster %s", s.ID, i.ID, i.Service)
		}
	}
	return nil
}

// Prepare starts the app and writes token and bootstrap; the Envoy and the
// registration are left to [Mesh.Launch] and the Registry.
func (m *Mesh) Prepare(ctx context.Context, spec Spec) (*Sidecar, error) {
	ports, err := m.Ports.TakeN(4)
	if err != nil {
		return nil, err
	}
	s := &Sidecar{
		Spec: spec, AppPort: ports[0], MeshPort: ports[1], OutboundPort: ports[2], MetricsPort: ports[3],
		Dir: filepath.Join(m.Dir, spec.ID),
	}
	s.Socket = filepath.Join(s.Dir, "admin.sock")
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	switch {
	case spec.NoApp:
	case spec.SpeaksTCP:
		s.TCP, err = app.StartTCP(s.AppPort, spec.Banner)
	default:
		s.App, err = app.Start(spec.Service, spec.ID, s.AppPort)
	}
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.sidecars = append(m.sidecars, s)
	m.mu.Unlock()
	if !m.options.Plaintext {
		s.TokenFile = filepath.Join(s.Dir, "token.yaml")
		if err := m.Token(ctx, s.Service, s.ID, tokenLife, s.TokenFile); err != nil {
			return nil, err
		}
	}
	return s, m.writeBootstrap(ctx, s)
}

func (m *Mesh) writeBootstrap(ctx context.Context, s *Sidecar) error {
	printed, err := m.Bootstrap(ctx, s)
	if err != nil {
		return err
	}
	if s.Bootstrap != nil {
		printed = s.Bootstrap(s, printed)
	}
	return os.WriteFile(s.bootstrapFile(), []byte(printed), 0o600)
}

// Rebootstrap restarts the Envoy of a sidecar with another bootstrap, which accepts the
// control planes of the roots in a file.
func (m *Mesh) Rebootstrap(ctx context.Context, s *Sidecar, caFile string) error {
	s.CAFile = caFile
	if err := m.writeBootstrap(ctx, s); err != nil {
		return err
	}
	if err := s.Envoy.Stop(); err != nil {
		return err
	}
	if err := s.Envoy.Restart(); err != nil {
		return err
	}
	return s.Envoy.WaitReady(ctx, readyTime)
}

func (s *Sidecar) bootstrapFile() string { return filepath.Join(s.Dir, "bootstrap.yaml") }

// Launch starts the Envoy of a prepared sidecar.
func (m *Mesh) Launch(s *Sidecar) error {
	if s.Envoy != nil {
		return errors.New("sidecar: it was launched")
	}
	var err error
	s.Envoy, err = StartEnvoy(EnvoyOptions{
		Name: s.ID, Dir: s.Dir, Config: s.bootstrapFile(), Socket: s.Socket, Env: s.Env, Workers: s.Workers, Args: s.Args,
	})
	return err
}

// Bootstrap returns what `controlplane bootstrap` prints for a sidecar.
func (m *Mesh) Bootstrap(ctx context.Context, s *Sidecar) (string, error) {
	args := []string{
		"bootstrap", "--service", s.Service, "--node-id", s.ID, "--address", "127.0.0.1",
		"--app-port", strconv.Itoa(s.AppPort), "--mesh-port", strconv.Itoa(s.MeshPort),
		"--outbound-port", strconv.Itoa(s.OutboundPort), "--metrics-port", strconv.Itoa(s.MetricsPort),
		"--admin", s.Socket, "--xds-address", m.options.XDSAddress,
	}
	if m.options.Plaintext {
		args = append(args, "--xds-plaintext")
	} else {
		args = append(args, "--ca-file", cmp.Or(s.CAFile, m.Plane.CAFile()), "--token-file", s.TokenFile)
	}
	if s.Zone != "" {
		args = append(args, "--zone", s.Zone)
	}
	if s.Version != "" {
		args = append(args, "--version", s.Version)
	}
	out, err := m.must(ctx, append(args, s.Flags...)...)
	if err != nil {
		return "", fmt.Errorf("bootstrap of %s: %w", s.ID, err)
	}
	return out, nil
}
