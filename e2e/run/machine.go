package run

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/internal/tool"
)

// MachineSpec describes an application and the `controlplane sidecar` beside it.
type MachineSpec struct {
	Service, ID string
	Join        []string // flags by which it joins; empty: a join token of its own, and the root's hash
	Flags       []string // added
	Env         []string
	XDSAddress  []string // if not that of the mesh
	SpeaksTCP   bool     // the app is a TCP echo server
	ChosenPorts bool     // the sidecar chooses its ports; else the harness does, of those that no other test has
}

// Machine is an application and the process of its sidecar, which has the Envoy.
// The process may be stopped and started again.
type Machine struct {
	MachineSpec
	App      *app.App // nil for a TCP app
	TCP      *app.TCP // nil for an HTTP app
	AppPort  int
	Sidecar  *tool.Process
	Envoy    *EnvoyAdmin
	StateDir string
	Dir      string
	Ports    map[string]int // as its ports.env has them, which names them
	binary   string
	args     []string
	logs     []*tool.Log // of each start of its sidecar
}

// NewMachine starts the application of a machine, and makes what it joins by.
func (m *Mesh) NewMachine(ctx context.Context, spec MachineSpec) (*Machine, error) {
	ports, err := m.Ports.TakeN(4)
	if err != nil {
		return nil, err
	}
	c := &Machine{MachineSpec: spec, Dir: filepath.Join(m.Dir, "machine-"+spec.ID), binary: m.options.Binary}
	c.StateDir = filepath.Join(c.Dir, "state")
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	c.Envoy = &EnvoyAdmin{admin: unixAdmin(c.Socket())}
	if c.AppPort = ports[0]; spec.SpeaksTCP {
		c.TCP, err = app.StartTCP(c.AppPort, "")
	} else {
		c.App, err = app.Start(spec.Service, spec.ID, c.AppPort)
	}
	if err != nil {
		return nil, err
	}
	addresses := spec.XDSAddress
	if len(addresses) == 0 {
		addresses = []string{m.options.XDSAddress}
	}
	c.args = []string{
		"sidecar", "--service", spec.Service, "--app-port", strconv.Itoa(ports[0]), "--xds-address", strings.Join(addresses, ","),
		"--state-dir", c.StateDir, "--concurrency", "1", "--log-format", "json",
	}
	if path, err := tool.Find("envoy"); err == nil {
		c.args = append(c.args, "--envoy", path)
	}
	if !spec.ChosenPorts {
		c.Ports = map[string]int{"MESH_PORT": ports[1], "MESH_OUTBOUND": ports[2], "MESH_METRICS_PORT": ports[3]}
		c.args = append(c.args, "--mesh-port", strconv.Itoa(ports[1]), "--outbound-port", strconv.Itoa(ports[2]), "--metrics-port", strconv.Itoa(ports[3]))
	}
	join := spec.Join
	if len(join) == 0 {
		if join, err = m.JoinToken(ctx, c.Dir, "--service", spec.Service); err != nil {
			return nil, err
		}
	}
	c.args = append(append(c.args, join...), spec.Flags...)
	m.mu.Lock()
	m.machines = append(m.machines, c)
	m.mu.Unlock()
	return c, nil
}

// RegisterMachine puts a machine that is ready into the catalog, or leaves that to
// the control plane.
func (m *Mesh) RegisterMachine(c *Machine) error {
	if m.options.Registers {
		return nil
	}
	return m.Registry.Register(c.Instance())
}

// JoinToken makes a join token, and returns the flags by which a sidecar joins
// with it: the token's file, and the hash of the root.
func (m *Mesh) JoinToken(ctx context.Context, dir string, flags ...string) ([]string, error) {
	file := filepath.Join(dir, "join.token")
	out, err := m.CLI(ctx, append([]string{"token", "join", "--data-dir", m.options.DataDir, "--out", file}, flags...)...)
	if err != nil {
		return nil, err
	}
	_, hash, ok := strings.Cut(out.Stderr, "--ca-hash ")
	if out.Code != 0 || !ok {
		return nil, fmt.Errorf("token join: exit code %d: %s", out.Code, out.Stderr)
	}
	return []string{"--join-token-file", file, "--ca-hash", strings.TrimSpace(hash)}, nil
}

// Start starts the sidecar, and does not wait.
func (c *Machine) Start() error {
	if c.Sidecar != nil && c.Sidecar.Running() {
		return fmt.Errorf("%s runs", c.ID)
	}
	var err error
	c.Sidecar, err = tool.Start(tool.Command{
		Name: fmt.Sprintf("%s-%d", c.ID, len(c.logs)+1), Path: c.binary, Args: c.args, Env: c.Env, Dir: c.Dir,
	})
	if err != nil {
		return err
	}
	c.logs = append(c.logs, c.Sidecar.Log)
	return nil
}

// WaitReady waits until its Envoy is LIVE, and reads which ports it has.
func (c *Machine) WaitReady(ctx context.Context) error {
	err := c.Sidecar.Until(ctx, c.ID+" is ready", readyTime, c.Envoy.Ready)
	if err != nil {
		return err
	}
	c.Ports, err = c.readPorts()
	return err
}

func (c *Machine) readPorts() (map[string]int, error) {
	f, err := os.Open(filepath.Join(c.StateDir, "ports.env"))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	ports := make(map[string]int)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if _, port, ok := strings.Cut(value, ":"); ok {
			value = port
		}
		if ports[name], err = strconv.Atoi(value); err != nil {
			return nil, fmt.Errorf("ports.env: %q: %w", lines.Text(), err)
		}
	}
	return ports, nil
}

// Socket is that of its Envoy's admin interface.
func (c *Machine) Socket() string { return filepath.Join(c.StateDir, "admin.sock") }

// toldToEnd is what an Envoy warns of that is ended.
var toldToEnd = regexp.MustCompile(`^caught ENVOY_SIGTERM$`)

// Warnings returns what its Envoys have warned of: see [Envoy.Warnings].
func (c *Machine) Warnings(allowed ...*regexp.Regexp) []string {
	var said []string
	for _, log := range c.logs {
		for _, line := range log.Lines() {
			var entry struct{ Level, Msg, Envoy string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Envoy != "" && entry.Level != "INFO" {
				said = append(said, entry.Msg)
			}
		}
	}
	return warnings(said, append([]*regexp.Regexp{toldToEnd}, allowed...))
}

// Outbound returns where its app's HTTP calls go.
func (c *Machine) Outbound() string { return "127.0.0.1:" + strconv.Itoa(c.Ports["MESH_OUTBOUND"]) }

// Instance returns what the catalog is told of it.
func (c *Machine) Instance() Instance {
	return Instance{Service: c.Service, ID: c.ID, Port: c.AppPort, MeshPort: c.Ports["MESH_PORT"]}
}

// Leave ends the sidecar by SIGTERM, and waits for its end. It returns the exit code.
func (c *Machine) Leave(within time.Duration) (code int, err error) {
	if err := c.Sidecar.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	select {
	case <-c.Sidecar.Done():
		return c.Sidecar.ExitCode(), nil
	case <-time.After(within):
		return 0, fmt.Errorf("%s did not end within %s of SIGTERM", c.ID, within)
	}
}

// stop ends sidecar and app at once.
func (c *Machine) stop() {
	if c.Sidecar != nil {
		c.Sidecar.Kill()
	}
	if c.App != nil {
		c.App.Die()
	}
	if c.TCP != nil {
		c.TCP.Die()
	}
}
