// Package run starts the real parts of a mesh on this machine (Envoy, the
// control plane, apps, a catalog) and stops them. The demo and the end-to-end
// tests share it, so it returns errors and knows no testing.TB. It owns how the
// parts are set up and fit together, registration, and the readers of what they
// show of themselves; it decides nothing about what is right.
package run

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/internal/tool"
)

// readyTime is how long a part may take to be ready. Generous: it bounds a
// failure, it is not what is measured.
const readyTime = 30 * time.Second

// MeshOptions describe a mesh on this machine.
type MeshOptions struct {
	Binary      string   // of the control plane
	Dir         string   // of everything; a short path, as Unix sockets lie in it
	Files       []string // mesh files
	Environment string
	Consul      bool   // else a file catalog
	Registers   bool   // the control plane registers the sidecars, as the mesh file says
	Datacenter  string // of Consul; dc1 if empty
	Plaintext   bool   // xDS without TLS, tokens and certificates
	XDSAddress  string // a free port of 127.0.0.1 if empty
	DataDir     string // Dir/data if empty
	Flags       []string
	Env         []string // of the control plane
}

// Mesh is a catalog, a control plane, and sidecars with their apps.
type Mesh struct {
	Dir      string
	Ports    *tool.Ports
	Registry Registry
	Catalog  string             // for --catalog
	Consul   *consulagent.Agent // nil with a file catalog
	Plane    *ControlPlane

	options MeshOptions

	mu       sync.Mutex
	sidecars []*Sidecar
	machines []*Machine
}

// NewMesh starts the catalog. The control plane starts with [Mesh.StartPlane].
func NewMesh(ctx context.Context, o MeshOptions) (*Mesh, error) {
	m := &Mesh{Dir: o.Dir, Ports: &tool.Ports{}, options: o}
	if err := m.startCatalog(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	ports, err := m.Ports.TakeN(2)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if m.options.XDSAddress == "" {
		m.options.XDSAddress = "127.0.0.1:" + strconv.Itoa(ports[0])
	}
	if m.options.DataDir == "" {
		m.options.DataDir = filepath.Join(m.Dir, "data")
	}
	m.Plane = &ControlPlane{options: PlaneOptions{
		Name: "controlplane", Binary: o.Binary, Dir: m.Dir, Files: o.Files, Environment: o.Environment, Catalog: m.Catalog,
		XDSAddress: m.options.XDSAddress, Admin: "127.0.0.1:" + strconv.Itoa(ports[1]), DataDir: m.options.DataDir,
		Plaintext: o.Plaintext, Flags: o.Flags, Env: append(m.consulEnv(), o.Env...),
	}}
	m.Plane.admin = tcpAdmin(m.Plane.options.Admin)
	return m, nil
}

func (m *Mesh) startCatalog(ctx context.Context) error {
	if !m.options.Consul {
		path := filepath.Join(m.Dir, "catalog.yaml")
		catalog, err := NewFileCatalog(path)
		if err != nil {
			return err
		}
		m.Registry, m.Catalog = catalog, "file:"+path
		return nil
	}
	consul, err := consulagent.Start(ctx, consulagent.Options{Dir: m.Dir, Ports: m.Ports, Datacenter: m.options.Datacenter})
	if err != nil {
		return err
	}
	m.Consul, m.Registry = consul, NewConsulRegistry(consul.API)
	return nil
}

// consulEnv is how the mesh file of the seed learns where Consul is.
func (m *Mesh) consulEnv() []string {
	if m.Consul == nil {
		return nil
	}
	return []string{"CONSUL_HOST=127.0.0.1", "CONSUL_PORT=" + m.Consul.HTTP[len("127.0.0.1:"):]}
}

// StartPlane starts the control plane and waits until it is ready.
func (m *Mesh) StartPlane(ctx context.Context) error {
	if err := m.Plane.Start(); err != nil {
		return err
	}
	return m.Plane.WaitReady(ctx, readyTime)
}

// Sidecars returns the instances in the order in which they were added.
func (m *Mesh) Sidecars() []*Sidecar {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*Sidecar(nil), m.sidecars...)
}

// Sidecar returns an instance by its id, or nil.
func (m *Mesh) Sidecar(id string) *Sidecar {
	for _, s := range m.Sidecars() {
		if s.ID == id {
			return s
		}
	}
	return nil
}

// WaitReady waits until every sidecar is LIVE, has all that it should, and
// knows every instance that was registered as healthy.
func (m *Mesh) WaitReady(ctx context.Context) error {
	var running, registered []*Sidecar
	var nodes []string
	for _, s := range m.Sidecars() {
		if s.registered {
			registered = append(registered, s)
		}
		if s.Envoy != nil && s.Envoy.Running() {
			running, nodes = append(running, s), append(nodes, s.ID)
		}
	}
	for _, s := range running {
		if err := s.Envoy.WaitReady(ctx, readyTime); err != nil {
			return err
		}
		err := tool.Until(ctx, s.ID+" sees every instance", readyTime, func() error { return s.sees(registered) })
		if err != nil {
			return err
		}
	}
	return m.Plane.WaitSynced(ctx, readyTime, nodes...)
}

// CLI runs a subcommand of the control plane to its end.
func (m *Mesh) CLI(ctx context.Context, args ...string) (tool.Output, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	return tool.Exec(ctx, m.options.Binary, m.Plane.options.Env, args...)
}

// must is CLI for what has to succeed.
func (m *Mesh) must(ctx context.Context, args ...string) (string, error) {
	out, err := m.CLI(ctx, args...)
	if err != nil {
		return "", err
	}
	if out.Code != 0 {
		return "", fmt.Errorf("controlplane %s: exit code %d: %s", args[0], out.Code, out.Stderr)
	}
	return out.Stdout, nil
}

// Token writes a token of a node, as `controlplane token` does.
func (m *Mesh) Token(ctx context.Context, service, node string, ttl time.Duration, out string) error {
	_, err := m.must(ctx, "token", "--data-dir", m.options.DataDir, "--service", service, "--node", node, "--ttl", ttl.String(), "--out", out)
	return err
}

// Close stops everything: sidecars, apps, control plane, catalog. It returns
// what did not end well.
func (m *Mesh) Close() error {
	var errs []error
	var stopping sync.WaitGroup
	var mu sync.Mutex
	for _, s := range m.Sidecars() {
		stopping.Go(func() {
			err := s.Stop()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	m.mu.Lock()
	for _, c := range m.machines {
		stopping.Go(c.stop)
	}
	m.mu.Unlock()
	stopping.Wait()
	if m.Plane != nil && m.Plane.Process != nil && m.Plane.Running() {
		errs = append(errs, m.Plane.Stop())
	}
	if m.Registry != nil {
		errs = append(errs, m.Registry.Close())
	}
	if m.Consul != nil && m.Consul.Running() {
		errs = append(errs, m.Consul.Stop())
	}
	m.Ports.Close()
	return errors.Join(errs...)
}
