// Package consultest runs real Consul agents for tests: a development server
// of its own ports, with or without ACLs, a leader, or state on disk. It
// registers and ends what the test says; it asserts nothing.
package consultest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// ManagementToken has every right on an agent that was started with [WithACLs].
const ManagementToken = "6a1f5f0e-0d0c-4f5e-9a54-8a3f6d1c2b3a"

// startTime is how long an agent may take to have a leader.
const startTime = 30 * time.Second

// Ports are those that an agent listens on; one that is 0 is chosen.
type Ports struct{ HTTP, HTTPS, Server, Serf int }

// Option changes how an agent starts.
type Option func(*Agent)

// WithACLs denies by default. The API of the agent uses [ManagementToken].
func WithACLs() Option {
	return func(a *Agent) {
		a.token = ManagementToken
		a.hcl = append(a.hcl, `acl { enabled = true, default_policy = "deny", tokens { initial_management = "`+ManagementToken+`", agent = "`+ManagementToken+`" } }`)
	}
}

// WithoutLeader starts a server that waits for two others, which never come.
func WithoutLeader() Option {
	return func(a *Agent) { a.expect = 3 }
}

// WithState keeps the server's state on disk, so that a restart finds it.
func WithState() Option {
	return func(a *Agent) { a.expect = max(a.expect, 1) }
}

// WithTLS serves HTTPS, and HTTP/2 on it, with this certificate.
func WithTLS(certFile, keyFile string) Option {
	return func(a *Agent) {
		a.tls = true
		a.hcl = append(a.hcl, fmt.Sprintf("tls { defaults { cert_file = %q, key_file = %q } }", certFile, keyFile))
	}
}

// Agent is a running Consul server.
type Agent struct {
	HTTPAddr  string // host:port
	HTTPSAddr string // host:port; empty without TLS
	API       *api.Client

	path, dir string
	ports     Ports
	hcl       []string
	token     string
	tls       bool
	expect    int // servers to wait for; 0: a development server without a disk

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	log  *output
}

// Start runs an agent until the test ends. It fails the test if there is no
// consul binary at $CONSUL, on PATH, or in .tools/bin of the repository.
func Start(t testing.TB, opts ...Option) *Agent {
	t.Helper()
	path, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	a, err := Launch(context.WithoutCancel(t.Context()), t.TempDir(), path, Ports{}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Stop()
		if t.Failed() {
			t.Logf("the end of the agent's log:\n%s", a.Log())
		}
	})
	return a
}

// Find returns the path of the consul binary.
func Find() (string, error) {
	if path := os.Getenv("CONSUL"); path != "" {
		return path, nil
	}
	if path, err := exec.LookPath("consul"); err == nil {
		return path, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, ".tools", "bin", "consul")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no consul: neither $CONSUL nor PATH nor .tools/bin has it (make tools builds it)")
		}
	}
}

// Launch runs an agent from its binary, with its files in dir, and waits until
// it has a leader (or serves, [WithoutLeader]). Ctx bounds the wait alone.
func Launch(ctx context.Context, dir, binary string, ports Ports, opts ...Option) (*Agent, error) {
	a := &Agent{path: binary, dir: dir, ports: ports}
	for _, opt := range opts {
		opt(a)
	}
	if err := a.choosePorts(); err != nil {
		return nil, err
	}
	a.HTTPAddr = net.JoinHostPort("127.0.0.1", strconv.Itoa(a.ports.HTTP))
	if a.tls {
		a.HTTPSAddr = net.JoinHostPort("127.0.0.1", strconv.Itoa(a.ports.HTTPS))
	}
	client, err := api.NewClient(&api.Config{
		Address: a.HTTPAddr, Scheme: "http", Token: a.token,
		HttpClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	})
	if err != nil {
		return nil, fmt.Errorf("consul client: %w", err)
	}
	a.API = client
	if err := a.run(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// choosePorts takes free ports for those that are 0. They are held together,
// so that no two are the same.
func (a *Agent) choosePorts() error {
	for _, p := range []*int{&a.ports.HTTP, &a.ports.HTTPS, &a.ports.Server, &a.ports.Serf} {
		if *p != 0 {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("free port: %w", err)
		}
		defer func() { _ = l.Close() }()
		*p = l.Addr().(*net.TCPAddr).Port
	}
	return nil
}

func (a *Agent) args() []string {
	https := -1
	if a.tls {
		https = a.ports.HTTPS
	}
	args := []string{
		"agent", "-node=n1", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn",
		fmt.Sprintf("-http-port=%d", a.ports.HTTP), fmt.Sprintf("-https-port=%d", https),
		fmt.Sprintf("-server-port=%d", a.ports.Server), fmt.Sprintf("-serf-lan-port=%d", a.ports.Serf),
		"-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1",
		"-hcl=disable_update_check = true",
		"-hcl=performance { raft_multiplier = 1 }", // elect at once
	}
	if a.expect == 0 {
		args = append(args, "-dev")
	} else {
		args = append(args, "-server", fmt.Sprintf("-bootstrap-expect=%d", a.expect), "-data-dir="+filepath.Join(a.dir, "data"))
	}
	for _, hcl := range a.hcl {
		args = append(args, "-hcl="+hcl)
	}
	return args
}

// run starts the process and waits until it serves.
func (a *Agent) run(ctx context.Context) error {
	a.mu.Lock()
	a.log = new(output)
	a.cmd = exec.Command(a.path, a.args()...)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	// Its own group, so that an interrupt of the test is not also its own; and
	// no orphan, however the test ends.
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		a.mu.Unlock()
		return fmt.Errorf("start consul: %w", err)
	}
	done := make(chan struct{})
	a.done = done
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait() // it is killed: how it ends says nothing
		close(done)
	}(a.cmd)
	a.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		if err := a.serving(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			a.Stop()
			return fmt.Errorf("consul is not serving: %w\n%s", ctx.Err(), a.Log())
		case <-done:
			return fmt.Errorf("consul ended\n%s", a.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// serving is nil when the agent has a leader and is itself in the catalog, or
// is not meant to be.
func (a *Agent) serving(ctx context.Context) error {
	if a.expect > 1 {
		_, err := a.API.Agent().NodeName()
		return err
	}
	entries, _, err := a.API.Health().Service("consul", "", true, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return errors.New("the server is not in its catalog")
	}
	return nil
}

// Stop kills the agent. A second call does nothing.
func (a *Agent) Stop() {
	a.mu.Lock()
	cmd, done := a.cmd, a.done
	a.mu.Unlock()
	_ = cmd.Process.Kill() // it may have ended
	<-done
}

// Restart kills the agent and starts it again on the same ports. What it knew
// is gone, but [WithState].
func (a *Agent) Restart(ctx context.Context) error {
	a.Stop()
	return a.run(ctx)
}

// Pause stops the agent's process without ending it, and Resume lets it go on.
func (a *Agent) Pause() error { return a.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (a *Agent) Resume() error { return a.signal(syscall.SIGCONT) }

func (a *Agent) signal(s os.Signal) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cmd.Process.Signal(s)
}

// Log returns the end of what the agent wrote.
func (a *Agent) Log() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.String()
}

// output keeps the end of what is written to it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	const most = 64 << 10
	if o.buf.Len() > most {
		o.buf.Next(o.buf.Len() - most)
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
