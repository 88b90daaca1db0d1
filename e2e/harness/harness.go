// Package harness gives the end-to-end tests a mesh of real parts: it builds
// the control plane once, wraps package run so that what fails ends the test,
// and checks at the end of each that no Envoy had anything to say against its
// configuration.
//
//	m := harness.Start(t, harness.Options{Overlay: "mesh: {name: x}"})
//	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
//	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Unregistered: true})
//	m.Ready()
//	r := m.Call("nexus-1", "lake_service", "/")
package harness

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

// Of package run, so that tests need not import it.
type (
	// Spec describes an instance of a service.
	Spec = run.Spec
	// Sidecar is a running instance.
	Sidecar = run.Sidecar
	// MachineSpec describes an app and the `controlplane sidecar` beside it.
	MachineSpec = run.MachineSpec
	// Machine is a running one.
	Machine = run.Machine
)

// binary is the control plane that [Main] built.
var binary string

// Main builds the control plane, runs the tests and returns the exit code:
//
//	func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
//
// $CONTROLPLANE names a binary that is used as it is.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mesh-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// The kernel kills what was started; the directory is left to us.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		_ = os.RemoveAll(dir)
		os.Exit(130)
	}()
	binary = os.Getenv("CONTROLPLANE")
	if binary == "" {
		if binary, err = run.Build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// Options describe a test's mesh.
type Options struct {
	// Mesh is the mesh file; empty: the operators' own, see [Seed].
	Mesh string
	// Overlay is a second file, merged over the first.
	Overlay     string
	Environment string
	Consul      bool // else a file catalog
	// Registers leaves the registration of the sidecars to the control plane. Else
	// the test does it by hand, and the operators' own file is without it.
	Registers  bool
	Datacenter string
	// Plaintext serves xDS without TLS. The mesh file must switch mTLS off:
	// see [MTLSOff].
	Plaintext  bool
	XDSAddress string
	DataDir    string
	Flags      []string // of `controlplane serve`
	Env        []string
	// Allowed are patterns of Envoy warnings that the test provokes.
	Allowed []string
}

// MTLSOff is an overlay for meshes whose subject is not security.
const MTLSOff = `mesh:
  security:
    mtls: {enabled: false}
    authorization: {enabled: false}
`

// Mesh is a run.Mesh whose failures end the test.
type Mesh struct {
	*run.Mesh
	t       testing.TB
	files   []string
	allowed []*regexp.Regexp
	clients map[string]*traffic.Client
}

// New starts the catalog of a mesh, and nothing else.
func New(t testing.TB, o Options) *Mesh {
	t.Helper()
	if binary == "" {
		t.Fatal("harness: TestMain does not call harness.Main")
	}
	m := &Mesh{t: t, clients: make(map[string]*traffic.Client)}
	for _, pattern := range o.Allowed {
		m.allowed = append(m.allowed, regexp.MustCompile(pattern))
	}
	dir := Dir(t)
	text := o.Mesh
	if text == "" {
		text = Seed(t)
	}
	if !o.Registers {
		text = strings.Replace(text, "register_interval: 10s", "register_interval: 10s\n      register: {enabled: false}", 1)
	}
	m.files = []string{filepath.Join(dir, "mesh.yaml")}
	must(t, run.WriteFile(m.files[0], text))
	if o.Overlay != "" {
		m.files = append(m.files, filepath.Join(dir, "overlay.yaml"))
		must(t, run.WriteFile(m.files[1], o.Overlay))
	}
	mesh, err := run.NewMesh(t.Context(), run.MeshOptions{
		Binary: binary, Dir: dir, Files: m.files, Environment: o.Environment, Consul: o.Consul, Registers: o.Registers, Datacenter: o.Datacenter,
		Plaintext: o.Plaintext, XDSAddress: o.XDSAddress, DataDir: o.DataDir, Flags: o.Flags, Env: o.Env,
	})
	must(t, err)
	m.Mesh = mesh
	t.Cleanup(m.finish)
	return m
}

// Start starts the catalog and the control plane and waits until it is ready.
func Start(t testing.TB, o Options) *Mesh {
	t.Helper()
	m := New(t, o)
	m.StartPlane()
	return m
}

// StartPlane starts the control plane and waits until it is ready.
func (m *Mesh) StartPlane() {
	m.t.Helper()
	must(m.t, m.Mesh.StartPlane(m.t.Context()))
}

// finish stops everything and looks back: an Envoy that warned, that used a
// deprecated feature or that crashed fails the test.
func (m *Mesh) finish() {
	for _, c := range m.clients {
		c.Close()
	}
	for _, s := range m.Sidecars() {
		if s.Envoy == nil {
			continue
		}
		if s.Envoy.Running() && s.Envoy.Resume() == nil {
			if stats, err := s.Envoy.Stats(); err != nil {
				m.t.Errorf("%s: stats at the end: %v", s.ID, err)
			} else if n := stats.Deprecated(); n != 0 {
				m.t.Errorf("%s: runtime.deprecated_feature_use is %d", s.ID, n)
			}
		}
		if warnings := s.Envoy.Warnings(m.allowed...); len(warnings) > 0 {
			m.t.Errorf("%s: envoy warned:\n%s", s.ID, strings.Join(warnings[:min(len(warnings), 20)], "\n"))
		}
	}
	if err := m.Close(); err != nil {
		m.t.Errorf("the end of the mesh: %v", err)
	}
	if m.t.Failed() && m.Plane.Process != nil {
		m.t.Logf("control plane log, last lines:\n%s", m.Plane.Log.Tail(60))
	}
}

// Add starts an app and its sidecar and registers them.
func (m *Mesh) Add(spec Spec) *Sidecar {
	m.t.Helper()
	s, err := m.Mesh.Add(m.t.Context(), spec)
	must(m.t, err)
	return s
}

// Machine starts an app and the sidecar process beside it, waits until its Envoy
// is LIVE, and registers them, or leaves that to the control plane.
func (m *Mesh) Machine(spec MachineSpec) *Machine {
	m.t.Helper()
	c := m.NewMachine(spec)
	must(m.t, c.Start())
	must(m.t, c.WaitReady(m.t.Context()))
	must(m.t, m.RegisterMachine(c))
	return c
}

// NewMachine is Machine without the start of its sidecar.
func (m *Mesh) NewMachine(spec MachineSpec) *Machine {
	m.t.Helper()
	c, err := m.Mesh.NewMachine(m.t.Context(), spec)
	must(m.t, err)
	m.t.Cleanup(func() {
		if m.t.Failed() && c.Sidecar != nil {
			m.t.Logf("%s, last lines:\n%s", c.ID, c.Sidecar.Log.Tail(30))
		}
	})
	return c
}

// Prepare is Add without the Envoy and the registration.
func (m *Mesh) Prepare(spec Spec) *Sidecar {
	m.t.Helper()
	s, err := m.Mesh.Prepare(m.t.Context(), spec)
	must(m.t, err)
	return s
}

// Ready waits until every sidecar is LIVE and synced.
func (m *Mesh) Ready() {
	m.t.Helper()
	must(m.t, m.WaitReady(m.t.Context()))
}

// sidecar returns the instance with the id, or the first one of the service.
func (m *Mesh) sidecar(who string) *Sidecar {
	m.t.Helper()
	if s := m.Sidecar(who); s != nil {
		return s
	}
	for _, s := range m.Sidecars() {
		if s.Service == who {
			return s
		}
	}
	m.t.Fatalf("harness: no sidecar is called %s", who)
	return nil
}

// Client returns a client of a sidecar's outbound listener that keeps its
// connections, the same one at each call.
func (m *Mesh) Client(from string) *traffic.Client {
	m.t.Helper()
	s := m.sidecar(from)
	if m.clients[s.ID] == nil {
		m.clients[s.ID] = traffic.NewClient(s.Outbound())
	}
	return m.clients[s.ID]
}

// Call makes a GET from an instance (by id, or the first of a service) to a
// service, through the sidecars of both. Only a call without an answer ends
// the test.
func (m *Mesh) Call(from, host, path string) traffic.Response {
	m.t.Helper()
	return m.Do(from, traffic.Request{Host: host, Path: path})
}

// Do is Call for any request.
func (m *Mesh) Do(from string, r traffic.Request) traffic.Response {
	m.t.Helper()
	resp, err := m.Client(from).Do(m.t.Context(), r)
	if err != nil {
		m.t.Fatalf("call from %s to %s%s: %v", from, r.Host, r.Path, err)
	}
	return resp
}

// Load begins a load from an instance to a service. The test stops it.
func (m *Mesh) Load(from, host string, l traffic.Load) *traffic.Running {
	m.t.Helper()
	l.Addr, l.Request.Host = m.sidecar(from).Outbound(), host
	r := l.Start(m.t.Context())
	m.t.Cleanup(func() { r.Stop() })
	return r
}

// MeshFile returns the path of the mesh file, 0, or of its overlay, 1.
func (m *Mesh) MeshFile(i int) string { return m.files[i] }

// Edit replaces the last mesh file (the overlay if there is one) by rename. A
// text that is a beginning of what is there gets an end of its own: else it
// might be half a file, and would not be taken.
func (m *Mesh) Edit(text string) {
	m.t.Helper()
	path := m.files[len(m.files)-1]
	if before, err := os.ReadFile(path); err == nil && len(text) < len(before) && strings.HasPrefix(string(before), text) {
		text += "\n# Edited.\n"
	}
	must(m.t, run.WriteFile(path, text))
}

// EditSeed changes the first mesh file: old must be in it.
func (m *Mesh) EditSeed(old, replacement string) {
	m.t.Helper()
	text, err := os.ReadFile(m.files[0])
	must(m.t, err)
	if !strings.Contains(string(text), old) {
		m.t.Fatalf("the mesh file does not have %q", old)
	}
	must(m.t, run.WriteFile(m.files[0], strings.Replace(string(text), old, replacement, 1)))
}

// CLI runs a subcommand of the control plane.
func (m *Mesh) CLI(args ...string) tool.Output {
	m.t.Helper()
	out, err := m.Mesh.CLI(m.t.Context(), args...)
	must(m.t, err)
	return out
}

// SetHealth changes the health of an instance in the catalog.
func (m *Mesh) SetHealth(id string, h run.Health) {
	m.t.Helper()
	must(m.t, m.Registry.SetHealth(id, h))
}

// Register puts a prepared sidecar into the catalog.
func (m *Mesh) Register(s *Sidecar) {
	m.t.Helper()
	must(m.t, m.Mesh.Register(s))
}

// Launch starts the Envoy of a prepared sidecar.
func (m *Mesh) Launch(s *Sidecar) {
	m.t.Helper()
	must(m.t, m.Mesh.Launch(s))
}

// Deregister takes an instance out of the catalog.
func (m *Mesh) Deregister(id string) {
	m.t.Helper()
	must(m.t, m.Registry.Deregister(id))
}

// Stats returns the counters and gauges of a sidecar.
func (m *Mesh) Stats(who string) run.Stats {
	m.t.Helper()
	stats, err := m.sidecar(who).Envoy.Stats()
	must(m.t, err)
	return stats
}

// Dump returns the configuration that a sidecar runs.
func (m *Mesh) Dump(who string) *run.Dump {
	m.t.Helper()
	d, err := m.sidecar(who).Envoy.ConfigDump()
	must(m.t, err)
	return d
}

// Resource returns one resource that a sidecar runs.
func (m *Mesh) Resource(who, typ, name string) *run.Resource {
	m.t.Helper()
	r := m.Dump(who).Get(typ, name)
	if r == nil {
		m.t.Fatalf("%s has no %s %s", who, typ, name)
	}
	return r
}

// Metrics returns the control plane's metrics.
func (m *Mesh) Metrics() run.Metrics {
	m.t.Helper()
	metrics, err := m.Plane.Metrics()
	must(m.t, err)
	return metrics
}

// Proxies returns /api/v1/proxies by node.id.
func (m *Mesh) Proxies() map[string]run.Proxy {
	m.t.Helper()
	proxies, err := m.Plane.Proxies()
	must(m.t, err)
	return proxies
}

// Seed returns the operators' own mesh file, with the numbers that they began with.
// configs/mesh.yaml is made of it.
func Seed(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tool.Root(), "policy", "testdata", "seed.yaml"))
	must(t, err)
	return string(text)
}

// Dir returns a new directory with a path short enough for Unix sockets.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mesh-")
	must(t, err)
	t.Cleanup(func() {
		if !t.Failed() || os.Getenv("KEEP") == "" {
			_ = os.RemoveAll(dir)
		} else {
			t.Logf("kept: %s", dir)
		}
	})
	return dir
}

// Port returns a port that nothing else in this run uses.
func Port(t testing.TB) int {
	t.Helper()
	ports := &tool.Ports{}
	t.Cleanup(ports.Close)
	port, err := ports.Take()
	must(t, err)
	return port
}

// Binary returns the path of the control plane.
func Binary() string { return binary }

// Eventually waits until check returns nil, and fails the test with what check
// said last if that takes too long.
func Eventually(t testing.TB, what string, timeout time.Duration, check func() error) {
	t.Helper()
	must(t, tool.Until(t.Context(), what, timeout, check))
}

// Context returns the test's context with a deadline.
func Context(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
