// Package consulagent runs real Consul agents for tests, the demo and the
// bench: with or without ACLs, TLS, a leader, or state on disk. It owns how the
// agent is set up, its start, end and restart, and a registration that nobody
// has to feed. It decides nothing about what is right, and it is linked into
// nothing that is shipped.
package consulagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/internal/tool"
)

// ManagementToken has every right on an agent with ACLs.
const ManagementToken = "6a1f5f0e-0d0c-4f5e-9a54-8a3f6d1c2b3a"

// startTime is how long an agent may take to have a leader.
const startTime = 30 * time.Second

// Options are what differs from one agent to another. Without any it is a
// development server: its own leader, with its state in memory.
type Options struct {
	Dir        string       // of its log, and of its state
	Ports      *tool.Ports  // which the agent takes its own of
	Datacenter string       // dc1 if empty
	Client     *http.Client // of the API; one that keeps no connection if nil

	Node string // "agent" if empty
	WAN  *Agent // a server of another datacenter, which the agent is federated with
	Join *Agent // a server; then the agent is a client, with its services on disk, or the next of the servers

	ACLs              bool   // denies by default; the API has [ManagementToken]
	CertFile, KeyFile string // serves HTTPS too, and HTTP/2 on it
	GRPC              bool   // serves Consul's own xDS, without TLS
	State             bool   // on disk, so that a restart finds it
	NoLeader          bool   // one of three servers, without a leader until the others come
	MaxConns          int    // that one client may open; 0: Consul's default, 200
}

// Agent is a Consul server, or a client of one.
type Agent struct {
	*tool.Process
	HTTP, HTTPS, GRPC string // host and port; empty where it does not serve
	API               *api.Client

	options Options
	args    []string
	serf    string // where others join it
	wan     string // where servers of other datacenters do
}

// Start starts an agent on ports of its own and waits until it has a leader,
// or serves, if it is to have none.
func Start(ctx context.Context, o Options) (*Agent, error) {
	p, err := o.Ports.TakeN(6)
	if err != nil {
		return nil, err
	}
	on := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	if o.Node == "" {
		o.Node = "agent"
	}
	a := &Agent{HTTP: on(p[0]), options: o, serf: on(p[4]), wan: on(p[5])}
	config := &api.Config{Address: a.HTTP, Scheme: "http", HttpClient: o.Client}
	if o.Client == nil {
		config.HttpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	}
	a.args = []string{
		"agent", "-node=" + o.Node, "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn", "-dns-port=-1", "-grpc-tls-port=-1",
		fmt.Sprintf("-http-port=%d", p[0]), fmt.Sprintf("-server-port=%d", p[3]),
		fmt.Sprintf("-serf-lan-port=%d", p[4]), fmt.Sprintf("-serf-wan-port=%d", p[5]),
	}
	add := func(format string, v ...any) { a.args = append(a.args, fmt.Sprintf(format, v...)) }
	add("-hcl=disable_update_check = true")
	add("-hcl=performance { raft_multiplier = 1 }") // elect at once
	switch {
	case o.NoLeader:
		add("-bootstrap-expect=3")
	case o.Join != nil: // a client
	case o.State:
		add("-bootstrap-expect=1")
	default:
		add("-dev")
	}
	if o.Join != nil {
		add("-retry-join=%s", o.Join.serf)
		add("-retry-interval=1s")
	}
	if o.WAN != nil {
		add("-retry-join-wan=%s", o.WAN.wan)
		add("-retry-interval-wan=1s")
	}
	if o.NoLeader || o.State {
		add("-server")
	}
	if o.NoLeader || o.State || o.Join != nil {
		add("-data-dir=%s", filepath.Join(o.Dir, "data"))
	}
	if o.Datacenter != "" {
		add("-datacenter=%s", o.Datacenter)
	}
	if o.ACLs {
		config.Token = ManagementToken
		add(`-hcl=acl { enabled = true, default_policy = "deny", tokens { initial_management = %[1]q, agent = %[1]q } }`, ManagementToken)
	}
	if o.CertFile != "" {
		a.HTTPS = on(p[1])
		add("-https-port=%d", p[1])
		add("-hcl=tls { https { cert_file = %q, key_file = %q } }", o.CertFile, o.KeyFile)
	}
	if o.GRPC {
		a.GRPC = on(p[2])
		add("-grpc-port=%d", p[2])
	} else {
		add("-grpc-port=-1") // a development server has one by default
	}
	if o.MaxConns != 0 {
		add("-hcl=limits { http_max_conns_per_client = %d }", o.MaxConns)
	}
	if a.API, err = api.NewClient(config); err != nil {
		return nil, fmt.Errorf("consul client: %w", err)
	}
	if err := a.Start(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// ForTest runs an agent until the test ends, with a directory and ports of the
// test. A test that failed logs the end of the agent's log.
func ForTest(t testing.TB, o Options) *Agent {
	t.Helper()
	o.Dir, o.Ports = t.TempDir(), &tool.Ports{}
	t.Cleanup(o.Ports.Close)
	a, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Kill()
		if t.Failed() {
			t.Logf("the end of the agent's log:\n%s", a.Log.Tail(100))
		}
	})
	return a
}

// ServersForTest runs three servers, of which each can fail, until the test ends.
func ServersForTest(t testing.TB) []*Agent {
	t.Helper()
	var servers []*Agent
	for _, node := range []string{"server-1", "server-2", "server-3"} {
		o := Options{Node: node, NoLeader: true}
		if len(servers) > 0 {
			o.Join = servers[0]
		}
		servers = append(servers, ForTest(t, o))
	}
	WaitWhole(t, servers[0])
	return servers
}

// WaitWhole waits until each of three servers has a vote: before that no other may
// fail.
func WaitWhole(t testing.TB, server *Agent) {
	t.Helper()
	err := server.Until(t.Context(), "all servers are there", 2*startTime, func() error {
		health, err := server.API.Operator().AutopilotServerHealth(nil)
		if err != nil {
			return err
		}
		for _, s := range health.Servers {
			if !s.Healthy || !s.Voter {
				err = fmt.Errorf("%s: healthy %t, voter %t", s.Name, s.Healthy, s.Voter)
			}
		}
		if len(health.Servers) != 3 && err == nil {
			err = fmt.Errorf("%d servers", len(health.Servers))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// WaitFederated waits until the agent's datacenter can be asked by way of another's.
func (a *Agent) WaitFederated(t testing.TB, by *Agent) {
	t.Helper()
	err := by.Until(t.Context(), "the datacenters know each other", startTime, func() error {
		entries, _, err := by.API.Health().Service("consul", "", true, &api.QueryOptions{Datacenter: a.options.Datacenter})
		if err == nil && len(entries) == 0 {
			err = errors.New("no server")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Leads reports whether a server is the leader, as it knows.
func (a *Agent) Leads() bool {
	self, err := a.API.Agent().Self()
	return err == nil && fmt.Sprint(self["Stats"]["consul"].(map[string]any)["leader"]) == "true"
}

// Start starts an agent that has ended again, on the same ports. What it knew
// is gone, but what it has on disk.
func (a *Agent) Start(ctx context.Context) error {
	path, err := tool.Find("consul")
	if err != nil {
		return err
	}
	if a.Process, err = tool.Start(tool.Command{Name: "consul", Path: path, Args: a.args, Dir: a.options.Dir}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	err = a.Until(ctx, "consul serves", startTime, func() error { return a.serving(ctx) })
	if err != nil {
		a.Kill()
	}
	return err
}

// Restart kills the agent and starts it.
func (a *Agent) Restart(ctx context.Context) error {
	a.Kill()
	return a.Start(ctx)
}

// serving is nil when the agent has a leader and is itself in the catalog, or
// is not meant to be.
func (a *Agent) serving(ctx context.Context) error {
	if a.options.NoLeader {
		_, err := a.API.Agent().NodeName()
		return err
	}
	if a.options.Join != nil {
		return a.joined(ctx)
	}
	entries, _, err := a.API.Health().Service("consul", "", true, (&api.QueryOptions{}).WithContext(ctx))
	if err == nil && len(entries) == 0 {
		err = errors.New("the server is not in its catalog")
	}
	return err
}

// joined is nil when a client is in the catalog.
func (a *Agent) joined(ctx context.Context) error {
	checks, _, err := a.API.Health().Node(a.options.Node, (&api.QueryOptions{}).WithContext(ctx))
	if err == nil && len(checks) == 0 {
		err = errors.New("the client is not in the catalog")
	}
	return err
}
