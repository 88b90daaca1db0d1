package e2e

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/consulagent"
)

// front stands before Consul's HTTP port and fails when told to.
type front struct {
	addr string

	mu     sync.Mutex
	handle http.Handler
	server *http.Server
}

// newFront forwards to an agent until the test ends.
func newFront(t *testing.T, agent string) *front {
	t.Helper()
	// A port that the system gives to connections would be taken while it is down.
	f := &front{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(harness.Port(t)))}
	f.forward(agent)
	f.up()
	t.Cleanup(func() { _ = f.server.Close() })
	return f
}

func (f *front) serve(l net.Listener) {
	server := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	f.mu.Lock()
	f.server = server
	f.mu.Unlock()
	go func() { _ = server.Serve(l) }() // ends with Close
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	handle := f.handle
	f.mu.Unlock()
	handle.ServeHTTP(w, r)
}

// forward sends requests to an agent.
func (f *front) forward(agent string) { f.set(forwardTo(agent)) }

func forwardTo(agent string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: agent}) },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	}
}

// set replaces what answers, and cuts the connections that wait for an answer.
func (f *front) set(handle http.Handler) {
	f.mu.Lock()
	f.handle = handle
	server := f.server
	f.mu.Unlock()
	if server == nil {
		return
	}
	f.down()
	f.up()
}

func (f *front) down() { _ = f.server.Close() }

func (f *front) up() {
	l, err := net.Listen("tcp", f.addr)
	if err != nil {
		panic(err)
	}
	f.serve(l)
}

// consulMesh is nexus and two of lake_service, registered at an agent that
// knows ACLs; the control plane has a token that may read, and sees the agent
// through a front.
type consulMesh struct {
	*harness.Mesh
	agent     *consulagent.Agent
	front     *front
	policy    *api.ACLPolicy
	token     *api.ACLToken
	tokenFile string
}

func startConsulMesh(t *testing.T) *consulMesh {
	t.Helper()
	agent := consulagent.ForTest(t, consulagent.Options{ACLs: true})
	policy, _, err := agent.API.ACL().PolicyCreate(&api.ACLPolicy{Name: "watch", Rules: mayRead}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := agent.API.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(harness.Dir(t), "token")
	if err := run.WriteFile(file, token.SecretID); err != nil {
		t.Fatal(err)
	}
	f := newFront(t, agent.HTTP)
	host, port, _ := net.SplitHostPort(f.addr)
	m := harness.Start(t, harness.Options{
		Flags: []string{"--catalog", "consul"},
		Env:   []string{"CONSUL_HOST=" + host, "CONSUL_PORT=" + port, "CONSUL_HTTP_TOKEN_FILE=" + file},
	})
	for _, spec := range []harness.Spec{
		{Service: "nexus", ID: "nexus-1"}, {Service: "lake_service", ID: "lake-1"}, {Service: "lake_service", ID: "lake-2"},
	} {
		serve(t, m, agent, spec)
	}
	m.Ready()
	served(t, m, "lake-1", "lake-2")
	return &consulMesh{m, agent, f, policy, token, file}
}

// allow changes what the control plane's token may do.
func (m *consulMesh) allow(t *testing.T, rules string) {
	t.Helper()
	m.policy.Rules = rules
	var err error
	if m.policy, _, err = m.agent.API.ACL().PolicyUpdate(m.policy, nil); err != nil {
		t.Fatal(err)
	}
}

func (m *consulMesh) writeToken(t *testing.T, token string) {
	t.Helper()
	if err := run.WriteFile(m.tokenFile, token); err != nil {
		t.Fatal(err)
	}
}

// asksAnew breaks the control plane's connections, until it has noticed. A
// blocking query is not answered when the rights of its token change, but only
// when its time is over, and that is a minute.
func (m *consulMesh) asksAnew(t *testing.T) {
	t.Helper()
	m.front.down()
	harness.Eventually(t, "the control plane has lost Consul", 10*time.Second, func() error {
		_, ready, err := m.Plane.Readyz()
		if err != nil {
			return err
		}
		for _, query := range []string{"list of services", "service lake_service", "service nexus"} {
			if !strings.Contains(strings.Join(ready.Holding, "\n"), query+": connection refused") {
				return fmt.Errorf("holding %q", ready.Holding)
			}
		}
		return nil
	})
	m.front.up()
}

// mayRead is what docs/operations.md says that the token needs.
const mayRead = `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`

// serve starts a sidecar, and registers it at an agent when it is live.
func serve(t *testing.T, m *harness.Mesh, agent *consulagent.Agent, spec harness.Spec) {
	t.Helper()
	s := m.Prepare(spec)
	m.Launch(s)
	if err := s.Envoy.WaitReady(t.Context(), 15*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := agent.Register(consulagent.Instance{Service: s.Service, ID: s.ID, Address: "127.0.0.1", Port: s.AppPort, MeshPort: s.MeshPort}); err != nil {
		t.Fatal(err)
	}
}

// served waits until nexus-1 is answered by exactly these instances.
func served(t *testing.T, m *harness.Mesh, ids ...string) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("nexus-1 is served by %q", ids), 15*time.Second, func() error {
		r := traffic.Load{Addr: m.Sidecar("nexus-1").Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 40}.Do(t.Context())
		for _, id := range ids {
			if r.Instances[id] == 0 {
				return fmt.Errorf("%s", r)
			}
		}
		if r.Failed() != 0 || len(r.Instances) != len(ids) {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
}

// leaderless answers as a server without a leader does to a stale read: 200,
// with nothing in it.
func leaderless(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Consul-Index", "1")
	w.Header().Set("X-Consul-Knownleader", "false")
	w.Header().Set("X-Consul-Lastcontact", "0")
	body := "[]"
	if strings.HasSuffix(r.URL.Path, "/catalog/services") {
		body = "{}"
	}
	_, _ = io.WriteString(w, body) // the reader may be gone
}

func TestConsulThatFailsLeavesTheLastGoodCatalogAndIsSaid(t *testing.T) {
	t.Parallel() // it waits, most of the time
	m := startConsulMesh(t)
	answers := func(status int, body string) func() {
		return func() {
			m.front.set(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, body, status) }))
		}
	}
	restore := func(*testing.T) { m.front.forward(m.agent.HTTP) }
	load := m.Load("nexus-1", "lake_service", traffic.Load{Rate: 100})
	for _, c := range []struct {
		name    string
		fail    func(t *testing.T)
		why     string // a pattern, in /readyz and in the log
		restore func(t *testing.T)
	}{
		{"unreachable", func(*testing.T) { m.front.down() }, `connection refused`, func(*testing.T) { m.front.up() }},
		{"500", func(*testing.T) { answers(500, "rpc error making call")() }, `500 rpc error making call`, restore},
		{"429", func(*testing.T) { answers(429, "Your IP is issuing too many concurrent connections")() }, `429 `, restore},
		{"no JSON", func(*testing.T) { answers(200, "<html>a captive portal</html>")() }, `not Consul's`, restore},
		{"no leader", func(*testing.T) { answers(500, "No cluster leader")() }, `(?i)no (cluster )?leader`, restore},
		{"no leader, and an empty catalog", func(*testing.T) { m.front.set(http.HandlerFunc(leaderless)) }, `no leader`, restore},
		{
			"a token without rights on services",
			func(t *testing.T) { m.allow(t, `node_prefix "" { policy = "read" }`); m.asksAnew(t) },
			`service lake_service: 2 of 2|the token may have no rights`,
			func(t *testing.T) { m.allow(t, mayRead); m.asksAnew(t) },
		},
		{
			"a token without any rights",
			func(t *testing.T) { m.allow(t, `key "none" { policy = "read" }`); m.asksAnew(t) },
			`service lake_service: 2 of 2|the token may have no rights`,
			func(t *testing.T) { m.allow(t, mayRead); m.asksAnew(t) },
		},
		{
			"a token that Consul does not know",
			func(t *testing.T) { m.writeToken(t, "11111111-2222-3333-4444-555555555555"); m.asksAnew(t) },
			`403 .*ACL not found`,
			func(t *testing.T) { m.writeToken(t, m.token.SecretID) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, mark := pushes(t, m.Mesh), m.Plane.Log.Len()
			c.fail(t)
			defer func() {
				if t.Failed() { // and let the next ones show what they have to show
					c.restore(t)
				}
			}()
			why := regexp.MustCompile(c.why)
			var said string
			harness.Eventually(t, "/readyz and the log say why", 20*time.Second, func() error {
				status, ready, err := m.Plane.Readyz()
				if err != nil {
					return err
				}
				said = strings.Join(ready.Holding, "\n")
				if status != 200 || !ready.Ready || !why.MatchString(said) {
					return fmt.Errorf("/readyz: %d, %+v", status, ready)
				}
				if log := m.Plane.Log.Since(mark); !why.MatchString(log) || !strings.Contains(log, `"level":"WARN"`) {
					return fmt.Errorf("the log says\n%s", log)
				}
				return nil
			})
			t.Log(said)
			served(t, m.Mesh, "lake-1", "lake-2")
			c.restore(t)
			harness.Eventually(t, "Consul is believed again", 20*time.Second, func() error {
				_, ready, err := m.Plane.Readyz()
				if err == nil && len(ready.Holding) != 0 {
					err = fmt.Errorf("holding %q", ready.Holding)
				}
				return err
			})
			if after := pushes(t, m.Mesh); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("sent %v, before the fault %v", after, before)
			}
			if strings.Contains(m.Plane.Log.Since(mark), m.token.SecretID) || strings.Contains(said, m.token.SecretID) {
				t.Error("the token is in the log or in /readyz")
			}
		})
	}
	if r := load.Stop(); r.Failed() != 0 {
		t.Errorf("%s", r)
	}
	// And it is heard, not only believed.
	if err := m.agent.SetHealth("lake-2", "critical"); err != nil {
		t.Fatal(err)
	}
	served(t, m.Mesh, "lake-1")
}

func TestSlowConsulIsWaitedFor(t *testing.T) {
	m := startConsulMesh(t)
	target := forwardTo(m.agent.HTTP)
	m.front.set(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(time.Second):
			target.ServeHTTP(w, r)
		}
	}))
	serve(t, m.Mesh, m.agent, harness.Spec{Service: "lake_service", ID: "lake-3"})
	served(t, m.Mesh, "lake-1", "lake-2", "lake-3")
}

// TestConsulThatHangsAtTheStartIsSaid: there is no last good catalog yet.
func TestConsulThatHangsAtTheStartIsSaid(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	f := &front{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.handle = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	f.serve(l)
	defer func() { _ = f.server.Close() }()
	host, port, _ := net.SplitHostPort(l.Addr().String())
	m := harness.New(t, harness.Options{Flags: []string{"--catalog", "consul"}, Env: []string{"CONSUL_HOST=" + host, "CONSUL_PORT=" + port}})
	if err := m.Plane.Start(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "/readyz says what it waits for", 10*time.Second, func() error {
		status, ready, err := m.Plane.Readyz()
		if err == nil && (status != 503 || !strings.Contains(strings.Join(ready.Waiting, "\n"), "no answer yet")) {
			err = fmt.Errorf("/readyz: %d, %+v", status, ready)
		}
		return err
	})
}
