//go:build component

package consul_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/watch"
	watchconsul "datapunk.dev/controlplane/watch/consul"
)

// observer runs a source against a real agent and sees what it publishes.
type observer struct {
	source
	t testing.TB

	mu      sync.Mutex
	catalog *watch.Catalog
	count   int
	logs    bytes.Buffer
	news    chan struct{}
}

// source is what is observed: one, or that of several datacenters.
type source interface {
	Run(ctx context.Context) error
	Status() watch.Status
	Stats() watchconsul.Stats
	SetDemand(d watchconsul.Demand)
}

func observe(t testing.TB, at consul.Config, cfg watchconsul.Config, demand watchconsul.Demand) *observer {
	t.Helper()
	return observeAll(t, func(log *slog.Logger, publish func(*watch.Catalog)) (source, error) {
		return open(t, at, cfg, demand, log, publish)
	})
}

// open makes a source whose client is closed with the test.
func open(t testing.TB, at consul.Config, cfg watchconsul.Config, demand watchconsul.Demand, log *slog.Logger, publish func(*watch.Catalog)) (*watchconsul.Source, error) {
	t.Helper()
	client, err := consul.New(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return watchconsul.New(client, cfg, demand, log, publish)
}

func observeAll(t testing.TB, open func(*slog.Logger, func(*watch.Catalog)) (source, error)) *observer {
	t.Helper()
	o := &observer{t: t, news: make(chan struct{}, 1)}
	src, err := open(slog.New(slog.NewTextHandler(o, nil)), o.publish)
	if err != nil {
		t.Fatal(err)
	}
	o.source = src
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- src.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the source's log:\n%s", o.logged())
		}
	})
	return o
}

func (o *observer) publish(c *watch.Catalog) {
	o.mu.Lock()
	o.catalog, o.count = c, o.count+1
	o.mu.Unlock()
	select {
	case o.news <- struct{}{}:
	default:
	}
}

// Write implements io.Writer for the log.
func (o *observer) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.logs.Write(p)
}

func (o *observer) logged() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.logs.String()
}

func (o *observer) published() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}

// service is nil as long as there is none.
func (o *observer) service(name string) *watch.Service {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.catalog == nil {
		return nil
	}
	return o.catalog.Service(name)
}

// instances are -1 as long as there is no service.
func (o *observer) instances(name string) int {
	if s := o.service(name); s != nil {
		return len(s.Instances)
	}
	return -1
}

// within waits until done, and returns how long that took.
func (o *observer) within(limit time.Duration, what string, done func() bool) time.Duration {
	o.t.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > limit {
			o.t.Fatalf("not within %s: %s; status %+v", limit, what, o.Status())
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(began)
}

func (o *observer) waiting(part string) func() bool {
	return func() bool {
		got := strings.Join(o.Status().Waiting, "\n")
		return (part == "") == (got == "") && strings.Contains(got, part)
	}
}

func (o *observer) ready() {
	o.t.Helper()
	o.within(15*time.Second, "ready", func() bool { return o.Status().Ready })
}

// never fails if bad comes true within the time.
func (o *observer) never(limit time.Duration, what string, bad func() bool) {
	o.t.Helper()
	for began := time.Now(); time.Since(began) < limit; time.Sleep(5 * time.Millisecond) {
		if bad() {
			o.t.Fatalf("%s; status %+v", what, o.Status())
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func lake(n int) consulagent.Instance {
	return consulagent.Instance{Service: "lake", ID: fmt.Sprintf("lake-%d", n), Address: fmt.Sprintf("10.0.0.%d", n), Port: 8080, MeshPort: 15006, Weight: 10}
}

// soon is far above what a change takes (3 ms), for a machine under load.
const soon = 5 * time.Second

func TestRealLifeOfAnInstance(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	must(t, agent.Register(lake(1)))
	must(t, agent.Register(consulagent.Instance{Service: "jaeger", ID: "jaeger", Address: "10.0.1.1", Port: 4317}))
	must(t, agent.Register(consulagent.Instance{Service: "plain", ID: "plain", Address: "10.0.1.2", Port: 80}))
	o := observe(t, consul.Config{Address: agent.HTTP, Datacenter: "dc1"}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true, Services: []string{"jaeger", "nowhere"}})
	o.ready()
	if o.instances("lake") != 1 || o.instances("jaeger") != 1 || o.instances("plain") != -1 || o.instances("nowhere") != -1 {
		t.Fatalf("lake %d, jaeger %d, plain %d, nowhere %d", o.instances("lake"), o.instances("jaeger"), o.instances("plain"), o.instances("nowhere"))
	}
	if i := o.service("lake").Instances[0]; i.ID != "lake-1" || i.MeshPort != 15006 || i.Port != 8080 || i.Weight != 10 || i.Health != watch.Passing {
		t.Errorf("instance %+v", i)
	}

	must(t, agent.Register(lake(2)))
	o.within(soon, "a second instance", func() bool { return o.instances("lake") == 2 })
	second := func(h watch.Health, weight uint32) func() bool {
		return func() bool { i := o.service("lake").Instances[1]; return i.Health == h && i.Weight == weight }
	}
	must(t, agent.SetHealth("lake-2", "critical"))
	o.within(soon, "critical", second(watch.Critical, 10))
	must(t, agent.SetHealth("lake-2", "warning"))
	o.within(soon, "warning, with its weight", second(watch.Warning, 1))
	must(t, agent.SetHealth("lake-2", "passing"))
	o.within(soon, "passing", second(watch.Passing, 10))
	must(t, agent.SetMaintenance("lake-2", true))
	o.within(soon, "maintenance", second(watch.Maintenance, 10))
	must(t, agent.SetMaintenance("lake-2", false))
	o.within(soon, "out of maintenance", second(watch.Passing, 10))

	must(t, agent.Deregister("lake-2"))
	o.within(soon, "one deregistration", func() bool { return o.instances("lake") == 1 })
	must(t, agent.Deregister("lake-1"))
	if d := o.within(10*time.Second, "scaled to zero", func() bool { return o.instances("lake") == -1 }); d < 5*time.Second {
		t.Errorf("the last instance went after %s, unconfirmed", d)
	}
	must(t, agent.Register(lake(1)))
	o.within(soon, "back from zero", func() bool { return o.instances("lake") == 1 })
}

// A sidecar that Consul registers inherits the metadata of its parent.
func TestRealConnectProxyIsNotInTheMesh(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	must(t, agent.API.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "lake", Address: "10.0.0.1", Port: 80, Meta: map[string]string{"mesh_port": "15006"},
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{}},
	}))
	for _, demand := range []watchconsul.Demand{{MeshOnly: true}, {}} {
		o := observe(t, consul.Config{Address: agent.HTTP}, watchconsul.Config{}, demand)
		o.ready()
		o.within(soon, "the agent has told its server", func() bool { return o.instances("lake") == 1 })
		if o.instances("lake-sidecar-proxy") != -1 || o.instances("consul") != -1 {
			t.Errorf("%+v: the sidecar %d, Consul %d", demand, o.instances("lake-sidecar-proxy"), o.instances("consul"))
		}
	}
}

// An agent with its state on disk comes back: nothing is taken out meanwhile.
func TestRealAgentRestarts(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{State: true})
	for n := range 4 {
		must(t, agent.Register(lake(n+1)))
	}
	o := observe(t, consul.Config{Address: agent.HTTP}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	o.ready()
	o.within(soon, "all", func() bool { return o.instances("lake") == 4 })

	agent.Kill()
	o.within(soon, "said to be refused", o.waiting("list of services: connection refused"))
	if !o.Status().Ready {
		t.Error("not ready, with the last good catalog in hand")
	}
	restarted := make(chan error, 1)
	go func() { restarted <- agent.Restart(context.Background()) }()
	for done := false; !done; {
		select {
		case err := <-restarted:
			must(t, err)
			done = true
		case <-time.After(5 * time.Millisecond):
			if n := o.instances("lake"); n != 4 {
				t.Fatalf("%d instances while the agent restarts", n)
			}
		}
	}
	o.never(3*time.Second, "instances went", func() bool { return o.instances("lake") != 4 })
	o.within(15*time.Second, "well again", o.waiting(""))
	must(t, agent.Deregister("lake-4"))
	o.within(10*time.Second, "a change after the restart", func() bool { return o.instances("lake") == 3 })
	if n := strings.Count(o.logged(), "connection refused"); n > 4 {
		t.Errorf("logged %d times that it was refused", n)
	}
}

func TestRealServerIsWiped(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	for n := range 30 { // so that a new server's index is lower
		must(t, agent.Register(lake(n+1)))
	}
	must(t, agent.Register(consulagent.Instance{Service: "dome", ID: "dome", Address: "10.0.1.1", Port: 80, MeshPort: 15006}))
	guard := watchconsul.Guard{Confirm: 500 * time.Millisecond, Restored: 12 * time.Second}
	o := observe(t, consul.Config{Address: agent.HTTP}, watchconsul.Config{Guard: guard}, watchconsul.Demand{MeshOnly: true})
	o.ready()

	must(t, agent.Restart(t.Context()))
	o.within(15*time.Second, "held", func() bool { return len(o.Status().Held) == 2 })
	wiped := time.Now()
	o.never(2*time.Second, "instances went", func() bool { return o.instances("lake") != 30 || o.instances("dome") != 1 })
	for n := range 30 {
		must(t, agent.Register(lake(n+1)))
	}
	o.within(soon, "lake is back", func() bool { return len(o.Status().Held) == 1 })
	o.within(30*time.Second, "dome, which nobody registered again, is gone", func() bool { return o.instances("dome") == -1 })
	if d := time.Since(wiped); d < guard.Restored-time.Second {
		t.Errorf("gone after %s", d)
	}
	if o.instances("lake") != 30 {
		t.Errorf("lake has %d instances", o.instances("lake"))
	}
}

func TestRealNoLeader(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{NoLeader: true})
	o := observe(t, consul.Config{Address: agent.HTTP}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	o.within(30*time.Second, "said", o.waiting("list of services: no leader"))
	o.never(2*time.Second, "published", func() bool { return o.published() > 0 || o.Status().Ready })
}

// Three servers, of which one is asked. It is left alone by the others, which it says
// not long after; and when it is frozen itself another one is asked.
func TestRealServersLoseEachOther(t *testing.T) {
	t.Parallel()
	servers := consulagent.ServersForTest(t)
	alone := observe(t, consul.Config{Address: servers[0].HTTP}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	three := observe(t, consul.Config{Address: servers[0].HTTP, Fallbacks: []string{servers[1].HTTP, servers[2].HTTP}}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	register := func(n int) {
		t.Helper()
		var err error
		alone.within(30*time.Second, "registered", func() bool { err = servers[1].Register(lake(n)); return err == nil })
	}
	alone.within(40*time.Second, "ready", func() bool { return alone.Status().Ready })
	register(1)
	for _, o := range []*observer{alone, three} {
		o.within(30*time.Second, "well", func() bool { return o.instances("lake") == 1 && len(o.Status().Waiting) == 0 })
	}
	if age := time.Since(alone.Stats().Fresh); age > 10*time.Second {
		t.Errorf("answers are %s old while all is well", age)
	}

	must(t, servers[1].Pause())
	must(t, servers[2].Pause())
	took := alone.within(20*time.Second, "said", alone.waiting("has heard from no leader since"))
	t.Logf("said %v after it was left alone", took.Round(time.Millisecond))
	must(t, servers[1].Resume())
	must(t, servers[2].Resume())
	alone.within(60*time.Second, "well", alone.waiting(""))

	must(t, servers[0].Pause())
	took = alone.within(20*time.Second, "said", alone.waiting("takes connections and does not answer"))
	t.Logf("said %v after it was frozen", took.Round(time.Millisecond))
	register(2)
	took = three.within(20*time.Second, "a change at another server", func() bool { return three.instances("lake") == 2 })
	t.Logf("seen by another server %v later", took.Round(time.Millisecond))
	if n := alone.instances("lake"); n != 1 {
		t.Errorf("the one that is alone has %d instances", n)
	}
	must(t, servers[0].Resume())
	alone.within(90*time.Second, "well", func() bool { return alone.instances("lake") == 2 && len(alone.Status().Waiting) == 0 })
}

func TestRealConsistencyNeedsALeader(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{NoLeader: true})
	o := observe(t, consul.Config{Address: agent.HTTP}, watchconsul.Config{Consistency: "consistent"}, watchconsul.Demand{MeshOnly: true})
	o.within(30*time.Second, "said", o.waiting("list of services: no leader"))
}

func TestRealTokens(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{ACLs: true})
	for n := range 3 {
		must(t, agent.Register(lake(n+1)))
	}
	policy, _, err := agent.API.ACL().PolicyCreate(&api.ACLPolicy{Name: "watch", Rules: `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`}, nil)
	must(t, err)
	token, _, err := agent.API.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	must(t, err)
	noNodes, _, err := agent.API.ACL().PolicyCreate(&api.ACLPolicy{Name: "no-nodes", Rules: `service_prefix "" { policy = "read" }`}, nil)
	must(t, err)
	half, _, err := agent.API.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: noNodes.ID}}}, nil)
	must(t, err)
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		must(t, os.WriteFile(file+".new", []byte(token+"\n"), 0o600))
		must(t, os.Rename(file+".new", file))
	}

	anonymous := observe(t, consul.Config{Address: agent.HTTP}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	anonymous.within(15*time.Second, "said", anonymous.waiting("the token may have no rights"))

	blind := observe(t, consul.Config{Address: agent.HTTP, Token: half.SecretID}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	blind.within(15*time.Second, "said", blind.waiting("it needs node:read"))

	write("11111111-2222-3333-4444-555555555555")
	o := observe(t, consul.Config{Address: agent.HTTP, TokenFile: file}, watchconsul.Config{Wait: 2 * time.Second}, watchconsul.Demand{MeshOnly: true})
	o.within(15*time.Second, "said", o.waiting("403 "))
	write(token.SecretID)
	o.ready()
	o.within(15*time.Second, "well", o.waiting(""))

	// The policy loses the right on the services, and later on everything.
	for _, rules := range []string{
		`service "consul" { policy = "read" } node_prefix "" { policy = "read" }`,
		`key "none" { policy = "read" }`,
	} {
		policy.Rules = rules
		policy, _, err = agent.API.ACL().PolicyUpdate(policy, nil)
		must(t, err)
		must(t, agent.SetHealth("lake-1", "critical")) // the index moves
		o.never(8*time.Second, "instances went", func() bool { return o.instances("lake") != 3 })
		if len(o.Status().Held) == 0 {
			t.Errorf("nothing is held after the policy became %s; status %+v", rules, o.Status())
		}
		must(t, agent.SetHealth("lake-1", "passing"))
	}
	// The token itself is revoked.
	_, err = agent.API.ACL().TokenDelete(token.AccessorID, nil)
	must(t, err)
	o.within(20*time.Second, "said", o.waiting("403 "))
	if o.instances("lake") != 3 || anonymous.published()+blind.published() > 0 {
		t.Errorf("lake has %d instances; anonymous got %d catalogs, a token without nodes %d", o.instances("lake"), anonymous.published(), blind.published())
	}
	for _, secret := range []string{token.SecretID, "11111111-2222"} {
		if strings.Contains(o.logged()+fmt.Sprint(o.Status()), secret) {
			t.Error("a token is in the log or the status")
		}
	}
}

func TestRealNetworkFaults(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	proxy := newProxy(t, agent.HTTP)
	for n := range 3 {
		must(t, agent.Register(lake(n+1)))
	}
	proxy.late(300 * time.Millisecond)
	o := observe(t, consul.Config{Address: proxy.addr}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	o.ready()
	must(t, agent.Register(lake(4)))
	o.within(soon, "a change, slowly", func() bool { return o.instances("lake") == 4 })
	proxy.late(0)

	proxy.drop()
	must(t, agent.Register(lake(5)))
	o.within(5*time.Second, "a change while connections break", func() bool { return o.instances("lake") == 5 })

	n := o.published()
	proxy.freeze()
	must(t, agent.Register(lake(6)))
	o.never(time.Second, "published", func() bool { return o.published() != n })
	proxy.thaw()
	o.within(soon, "what came late", func() bool { return o.instances("lake") == 6 })
}

func TestRealServerErrors(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	must(t, agent.Register(lake(1)))
	target := &url.URL{Scheme: "http", Host: agent.HTTP}
	forward := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	}
	var broken atomic.Bool
	broken.Store(true)
	var mu sync.Mutex
	refused := map[string]int{} // queries by what they ask for
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			mu.Lock()
			refused[r.URL.RequestURI()]++
			mu.Unlock()
			http.Error(w, "rpc error making call", http.StatusInternalServerError)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	t.Cleanup(proxy.CloseClientConnections)

	o := observe(t, consul.Config{Address: strings.TrimPrefix(proxy.URL, "http://")}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	o.within(soon, "said", o.waiting("list of services: 500 rpc error making call"))
	// What is asked for in turns of its own is counted by itself: each pauses for a
	// second at least.
	mu.Lock()
	clear(refused)
	mu.Unlock()
	began := time.Now()
	time.Sleep(3 * time.Second)
	most := int(time.Since(began)/time.Second) + 1
	mu.Lock()
	for query, n := range refused {
		if n > most {
			t.Errorf("%d times %s in %v to a server that answers 500", n, query, time.Since(began))
		}
	}
	mu.Unlock()
	broken.Store(false)
	o.ready()
	broken.Store(true)
	proxy.CloseClientConnections()
	o.within(5*time.Second, "said again", o.waiting("500"))
	if o.instances("lake") != 1 {
		t.Errorf("lake has %d instances", o.instances("lake"))
	}
}

// An agent that is stopped, not ended, holds its connections and says nothing.
func TestRealAgentHangs(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	must(t, agent.Register(lake(1)))
	o := observe(t, consul.Config{Address: agent.HTTP}, watchconsul.Config{Wait: time.Second}, watchconsul.Demand{MeshOnly: true})
	o.ready()
	must(t, agent.Pause())
	o.within(40*time.Second, "said", o.waiting("service lake: timeout"))
	if o.instances("lake") != 1 || !o.Status().Ready {
		t.Errorf("lake has %d instances; status %+v", o.instances("lake"), o.Status())
	}
	must(t, agent.Resume())
	must(t, agent.Register(lake(2)))
	o.within(30*time.Second, "a change after it went on", func() bool { return o.instances("lake") == 2 })
	o.within(30*time.Second, "well", o.waiting(""))
}

// A token may come to see less of a service that it sees: what it does not see any more
// is kept, whichever of Consul's backends answers, and whether its policy was edited or
// another token stands in its file.
func TestRealATokenThatSeesLess(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"its policy", "its file"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			agent := consulagent.ForTest(t, consulagent.Options{ACLs: true})
			for n := range 4 {
				register := api.CatalogRegistration{
					Node: fmt.Sprintf("machine-%d", n), Address: fmt.Sprintf("10.0.0.%d", n+1),
					Service: &api.AgentService{ID: fmt.Sprintf("lake-%d", n), Service: "lake", Port: 8080, Meta: map[string]string{"mesh_port": "15006"}},
				}
				_, err := agent.API.Catalog().Register(&register, nil)
				must(t, err)
			}
			const all, less = `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`, `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } node "machine-3" { policy = "deny" }`
			file := filepath.Join(t.TempDir(), "token")
			give := func(name, rules string) *api.ACLPolicy {
				policy, _, err := agent.API.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
				must(t, err)
				token, _, err := agent.API.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
				must(t, err)
				must(t, os.WriteFile(file+".new", []byte(token.SecretID), 0o600))
				must(t, os.Rename(file+".new", file))
				return policy
			}
			policy := give("all", all)
			o := observe(t, consul.Config{Address: agent.HTTP, TokenFile: file}, watchconsul.Config{Wait: 2 * time.Second}, watchconsul.Demand{MeshOnly: true})
			o.ready()
			if n := o.instances("lake"); n != 4 {
				t.Fatalf("%d instances", n)
			}
			if how == "its policy" {
				policy.Rules = less
				_, _, err := agent.API.ACL().PolicyUpdate(policy, nil)
				must(t, err)
			} else {
				give("less", less)
			}
			// The index moves, and an instance that it sees goes.
			o.never(5*time.Second, "instances went", func() bool { return o.instances("lake") != 4 })
			_, err := agent.API.Catalog().Deregister(&api.CatalogDeregistration{Node: "machine-0", ServiceID: "lake-0"}, nil)
			must(t, err)
			o.never(5*time.Second, "what it does not see went", func() bool { return o.instances("lake") < 3 })
			if held := fmt.Sprint(o.Status().Held); !strings.Contains(held, "the token may not read all of it") {
				t.Errorf("held: %s", held)
			}
			t.Log(o.Status().Held)
		})
	}
}

// A real Consul understands the list's filter by tags, and an edit of the selection
// needs no restart and no doubt.
func TestRealSelection(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	blue, plain, other := lake(1), lake(2), lake(3)
	blue.Tags, plain.Tags = []string{"blue", "it's"}, []string{"it's"}
	other.Service, other.Tags = "Nomad-client", []string{"blue", "it's"}
	for _, i := range []consulagent.Instance{blue, plain, other} {
		must(t, agent.Register(i))
	}
	must(t, agent.Register(consulagent.Instance{Service: "dome", ID: "dome", Address: "10.0.1.2", Port: 80, MeshPort: 15006}))
	demand := watchconsul.Demand{MeshOnly: true}
	demand.Select = watch.Selection{Tags: []string{"blue", "it's"}, Exclude: []string{"consul", "nomad*"}}
	o := observe(t, consul.Config{Address: agent.HTTP}, watchconsul.Config{}, demand)
	o.ready()
	if o.instances("lake") != 1 || o.instances("dome") != -1 || o.instances("Nomad-client") != -1 {
		t.Fatalf("lake %d, dome %d, Nomad-client %d", o.instances("lake"), o.instances("dome"), o.instances("Nomad-client"))
	}
	o.SetDemand(watchconsul.Demand{MeshOnly: true})
	o.within(soon, "all of it", func() bool {
		return o.instances("lake") == 2 && o.instances("dome") == 1 && o.instances("Nomad-client") == 1
	})
	o.SetDemand(demand)
	took := o.within(soon, "a part again", func() bool {
		return o.instances("lake") == 1 && o.instances("dome") == -1 && o.instances("Nomad-client") == -1
	})
	t.Logf("an edit was in the catalog after %v", took.Round(time.Millisecond))
}
