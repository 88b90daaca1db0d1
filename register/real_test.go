//go:build component

package register

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/watch"
	watchconsul "datapunk.dev/controlplane/watch/consul"
)

// policy is what docs/security.md says that the token needs.
const aclPolicy = `
node_prefix "mesh-" { policy = "write" }
node_prefix "" { policy = "read" }
service_prefix "" { policy = "write" }
session_prefix "mesh-" { policy = "write" }
key_prefix "controlplane/datapunk/" { policy = "write" }`

// fleet is proxies of some services, each with an address of its own of this machine.
type fleet struct {
	listener net.Listener
	proxies  []Proxy
}

func newFleet(t testing.TB, n, services int) *fleet {
	t.Helper()
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	f := &fleet{listener: l}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	for i := range n {
		f.proxies = append(f.proxies, Proxy{
			Node: fmt.Sprintf("px-%d", i), Service: fmt.Sprintf("s-%d", i%services), Address: netip.AddrFrom4([4]byte{127, 1, byte(i / 250), byte(1 + i%250)}), Port: 8080, MeshPort: port,
			Version: "1.2.3", Zone: "eu-1a", Since: time.Now(),
		})
	}
	return f
}

// closed is a port of this machine where nobody listens.
func closed(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// real is a registrar on a real Consul.
type real struct {
	*Registrar
	stopOnly func()
	kill     func() // as SIGKILL would: nothing is released
	logs     *logs
}

type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func startReal(t testing.TB, at consul.Config, self string, times Times) *real {
	t.Helper()
	at.MaxConnections = 16
	client, err := consul.New(at)
	if err != nil {
		t.Fatal(err)
	}
	r := &real{logs: &logs{}}
	r.Registrar = NewConsul(client, "datapunk", self, times, slog.New(slog.NewTextHandler(r.logs, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	r.stopOnly = sync.OnceFunc(func() { cancel(); <-done })
	r.kill = sync.OnceFunc(func() { r.stopOnly(); client.Close() })
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Logf("%s's log:\n%s", self, r.logs)
		}
	})
	return r
}

// until waits for what must come about.
func until(t testing.TB, what string, within time.Duration, check func() string) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		wrong := check()
		if wrong == "" {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("%s: not within %s: %s", what, within, wrong)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (r *real) held(n int) func() string {
	return func() string {
		if s := r.Status(); s.States[Held] != n || len(s.Trouble) > 0 {
			return fmt.Sprintf("%v %q", s.States, s.Trouble)
		}
		return ""
	}
}

// raftIndex is how far Consul's log is: it passes with every write.
func raftIndex(t testing.TB, a *consulagent.Agent) int {
	t.Helper()
	self, err := a.API.Agent().Self()
	if err != nil {
		t.Fatal(err)
	}
	index, err := strconv.Atoi(fmt.Sprint(self["Stats"]["raft"].(map[string]any)["last_log_index"]))
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// writesOf are the writes of ours, or of what ours bring about, that Consul counted
// lately.
func writesOf(t testing.TB, a *consulagent.Agent) []string {
	t.Helper()
	metrics, err := a.API.Agent().Metrics()
	// Consul cannot write a mean of nothing, which it has for moments at a time.
	for n := 0; err != nil && strings.Contains(err.Error(), "NaN") && n < 40; n++ {
		time.Sleep(500 * time.Millisecond)
		metrics, err = a.API.Agent().Metrics()
	}
	if err != nil {
		t.Fatal(err)
	}
	var writes []string
	for _, s := range metrics.Samples {
		for _, kind := range []string{"txn", "kvs", "session", "register", "deregister"} {
			if s.Name == "consul.fsm."+kind {
				writes = append(writes, fmt.Sprintf("%d %s", s.Count, kind))
			}
		}
	}
	return writes
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestRealFiveThousand: what a large fleet costs, to claim and to hold. The log has
// the figures.
func TestRealFiveThousand(t *testing.T) {
	agent := consulagent.ForTest(t, consulagent.Options{State: true})
	f := newFleet(t, 5000, 100)
	r := startReal(t, consul.Config{Address: agent.HTTP}, "a", Times{})
	until(t, "a session", 10*time.Second, r.held(0))
	before, began := cpu(), raftIndex(t, agent)
	for _, p := range f.proxies {
		r.Connected(p)
	}
	took := until(t, "all are held", time.Minute, r.held(len(f.proxies)))
	t.Logf("5,000 proxies claimed in %s, %s of our CPU, raft from %d to %d", took.Round(time.Millisecond), cpu()-before, began, raftIndex(t, agent))
	if s := r.Status(); s.Writes != 5000 || s.Conflicts+s.Failures != 0 {
		t.Errorf("%+v", s)
	}

	r.compareOnce(t.Context()) // what was just written is read once
	// Consul counts what it writes for 10 s each, and writes something of its own.
	until(t, "Consul has counted the writes", 20*time.Second, func() string {
		if len(writesOf(t, agent)) == 0 {
			return "none"
		}
		return ""
	})
	time.Sleep(15 * time.Second)
	cpu0, began2 := cpu(), time.Now()
	for range 3 { // three comparisons, ten renewals of the session
		time.Sleep(10 * time.Second)
		if w := writesOf(t, agent); len(w) > 0 {
			t.Errorf("Consul writes in the steady state: %v", w)
		}
	}
	share := float64(cpu()-cpu0) / float64(time.Since(began2))
	t.Logf("the steady state costs %.2f %% of a core", 100*share)
	if share > 0.05 {
		t.Errorf("the steady state costs %.1f %% of a core", 100*share)
	}

	// The end of a replica deregisters nothing, and its key goes last. A successor reads it all, and takes it over, by one write each.
	r.stopOnly()
	r.Release(t.Context())
	if keys, _, err := agent.API.KV().Keys("controlplane/datapunk/replicas/", "", nil); err != nil || len(keys) != 0 {
		t.Errorf("keys %v: %v", keys, err)
	}
	r.kill()
	b := startReal(t, consul.Config{Address: agent.HTTP}, "b", Times{})
	until(t, "a session", 10*time.Second, b.held(0))
	for _, p := range f.proxies {
		b.Connected(p)
	}
	took = until(t, "all are held", time.Minute, b.held(len(f.proxies)))
	t.Logf("and taken over in %s", took.Round(time.Millisecond))
	if s := b.Status(); s.Writes != 5000 || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
}

// sight is what a watcher of Consul sees of the fleet.
type sight struct {
	mu       sync.Mutex
	t        testing.TB
	want     int  // so many must be there at every moment, all passing
	on       bool // from now on
	wrong    []string
	catalogs int
	newest   *watch.Catalog
}

func (s *sight) see(c *watch.Catalog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = c
	s.catalogs++
	if !s.on {
		return
	}
	n, ids := 0, make(map[string]bool)
	for svc := range c.Services() {
		for _, i := range svc.Instances {
			if n++; ids[i.ID] {
				s.wrong = append(s.wrong, i.ID+" twice")
			}
			if ids[i.ID] = true; i.Health != watch.Passing {
				s.wrong = append(s.wrong, i.ID+" "+i.Health.String())
			}
		}
	}
	if n != s.want {
		s.wrong = append(s.wrong, fmt.Sprintf("%d instances", n))
	}
}

func (s *sight) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	if s.newest != nil {
		for svc := range s.newest.Services() {
			n += len(svc.Instances)
		}
	}
	return n
}

// guardFrom has the watcher look at every catalog from now on.
func (s *sight) guardFrom(want int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.want, s.on, s.catalogs, s.wrong = want, true, 0, nil
}

func (s *sight) clean() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) > 0 {
		s.t.Errorf("the watcher saw %q", s.wrong[:min(len(s.wrong), 10)])
	}
	s.t.Logf("the watcher had %d catalogs", s.catalogs)
}

func watchConsul(t testing.TB, address string) *sight {
	t.Helper()
	s := &sight{t: t}
	client, err := consul.New(consul.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	src, err := watchconsul.New(client, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true}, slog.New(slog.DiscardHandler), s.see)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = src.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; client.Close() })
	return s
}

// TestRealKilledReplica: a replica dies with 1,000 proxies, which come to another. A
// watcher of Consul sees none of it.
func TestRealKilledReplica(t *testing.T) {
	agent := consulagent.ForTest(t, consulagent.Options{})
	f := newFleet(t, 1000, 100)
	times := Times{Interval: 2 * time.Second, After: 6 * time.Second}
	a := startReal(t, consul.Config{Address: agent.HTTP}, "a", times)
	b := startReal(t, consul.Config{Address: agent.HTTP}, "b", times)
	for _, p := range f.proxies {
		a.Connected(p)
	}
	until(t, "a holds all", 20*time.Second, a.held(1000))
	s := watchConsul(t, agent.HTTP)
	until(t, "the watcher sees all", 20*time.Second, func() string {
		if n := s.count(); n != 1000 {
			return fmt.Sprint(n)
		}
		return ""
	})
	s.guardFrom(1000)
	a.kill()
	for _, p := range f.proxies[:999] { // one has died with it, and has it noticed later
		b.Connected(p)
	}
	took := until(t, "b holds all", 20*time.Second, b.held(999))
	t.Logf("999 proxies taken over in %s", took.Round(time.Millisecond))
	time.Sleep(time.Second) // the watcher has what was written
	s.clean()

	// a's session runs out after 20 s, the last proxy answers a dial: it stays.
	until(t, "b looks after what a left", 40*time.Second, func() string {
		if st := b.Status(); st.States[Unclaimed] != 1 {
			return fmt.Sprintf("%v", st.States)
		}
		return ""
	})
	s.clean()
	b.Leave(f.proxies[0].Node, false) // and it does look
	until(t, "the watcher sees a change", 10*time.Second, func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.catalogs == 0 {
			return "none"
		}
		return ""
	})
	// Late words of the dead replica are not heard.
	if entry, _, err := agent.API.KV().Get("controlplane/datapunk/replicas/a", nil); err != nil || entry != nil {
		t.Errorf("a's key is %v: %v", entry, err)
	}
	late := a.store.write(t.Context(), []change{{kind: put, want: entryOf(&f.proxies[0])}})
	if late[0].result == written {
		t.Error("a dead replica has written")
	}
}

// TestRealKilledProxies: those of one replica die, and are gone in time.
func TestRealKilledProxies(t *testing.T) {
	agent := consulagent.ForTest(t, consulagent.Options{})
	f := newFleet(t, 100, 10)
	after := 5 * time.Second
	r := startReal(t, consul.Config{Address: agent.HTTP}, "a", Times{Interval: time.Second, After: after})
	dead := closed(t)
	for i := range 10 {
		f.proxies[i].MeshPort = dead
	}
	r.dial = func(ctx context.Context, at netip.AddrPort) reach {
		if at.Port() == dead && r.Status().States[Lost] == 0 && r.Status().States[Drain] == 0 {
			return answered // while it lives
		}
		return dialTCP(ctx, at)
	}
	for _, p := range f.proxies {
		r.Connected(p)
	}
	until(t, "all are held", 20*time.Second, r.held(100))
	for i := range 10 {
		r.Gone(f.proxies[i].Node)
	}
	took := until(t, "they are gone", 20*time.Second, func() string {
		services, _, err := agent.API.Catalog().Nodes(&api.QueryOptions{NodeMeta: map[string]string{"managed-by": "controlplane/datapunk"}})
		if err != nil {
			return err.Error()
		}
		if n := len(services) - 1; n != 90 { // and that of the sessions
			return fmt.Sprint(n)
		}
		return ""
	})
	t.Logf("ten dead proxies of 100 gone after %s, deregister_critical_service_after %s", took.Round(10*time.Millisecond), after)
	if took < after || took > after+5*time.Second {
		t.Errorf("gone after %s, want %s and at most 5 s more", took, after)
	}
}

// TestRealConsulFails: whatever becomes of Consul, nothing that lives is lost.
func TestRealConsulFails(t *testing.T) {
	all := func(agent *consulagent.Agent, n int) func() string {
		return func() string {
			nodes, _, err := agent.API.Catalog().Nodes(&api.QueryOptions{NodeMeta: map[string]string{"managed-by": "controlplane/datapunk"}})
			if err != nil {
				return err.Error()
			}
			if len(nodes)-1 != n {
				return fmt.Sprintf("%d nodes", len(nodes)-1)
			}
			return ""
		}
	}
	t.Run("restarted", func(t *testing.T) {
		t.Parallel()
		agent := consulagent.ForTest(t, consulagent.Options{State: true})
		f := newFleet(t, 50, 5)
		r := startReal(t, consul.Config{Address: agent.HTTP}, "a", Times{Interval: time.Second})
		for _, p := range f.proxies {
			r.Connected(p)
		}
		until(t, "all are held", 20*time.Second, r.held(50))
		if err := agent.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		until(t, "all are there", 30*time.Second, all(agent, 50))
		until(t, "all are held", 30*time.Second, r.held(50))
		if s := r.Status(); s.Writes != 50 {
			t.Errorf("%d writes", s.Writes)
		}
	})
	t.Run("wiped", func(t *testing.T) {
		t.Parallel()
		agent := consulagent.ForTest(t, consulagent.Options{})
		f := newFleet(t, 50, 5)
		r := startReal(t, consul.Config{Address: agent.HTTP}, "a", Times{Interval: time.Second})
		for _, p := range f.proxies {
			r.Connected(p)
		}
		until(t, "all are held", 20*time.Second, r.held(50))
		if err := agent.Restart(t.Context()); err != nil { // its state was in memory
			t.Fatal(err)
		}
		took := until(t, "all are there again", 30*time.Second, all(agent, 50))
		t.Logf("registered again %s after Consul was back, empty", took.Round(10*time.Millisecond))
	})
	t.Run("restored from a snapshot of before", func(t *testing.T) {
		t.Parallel()
		agent := consulagent.ForTest(t, consulagent.Options{State: true})
		f := newFleet(t, 50, 5)
		r := startReal(t, consul.Config{Address: agent.HTTP}, "a", Times{Interval: time.Second})
		for _, p := range f.proxies[:20] {
			r.Connected(p)
		}
		until(t, "some are held", 20*time.Second, r.held(20))
		snapshot, _, err := agent.API.Snapshot().Save(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = snapshot.Close() }()
		for _, p := range f.proxies[20:] {
			r.Connected(p)
		}
		until(t, "all are held", 20*time.Second, r.held(50))
		if err := agent.API.Snapshot().Restore(nil, snapshot); err != nil {
			t.Fatal(err)
		}
		until(t, "all are there again", 40*time.Second, all(agent, 50))
		until(t, "all are held", 20*time.Second, r.held(50))
	})
	t.Run("without a leader", func(t *testing.T) {
		t.Parallel()
		agent := consulagent.ForTest(t, consulagent.Options{NoLeader: true})
		f := newFleet(t, 5, 1)
		r := startReal(t, consul.Config{Address: agent.HTTP}, "a", Times{Interval: time.Second})
		r.Connected(f.proxies[0])
		until(t, "it says so", 40*time.Second, func() string {
			s := r.Status()
			if strings.Contains(strings.Join(s.Trouble, " "), "no leader") && s.States[Claim] == 1 {
				return ""
			}
			return fmt.Sprintf("%+v", s)
		})
	})
	t.Run("slow, and then away for a while", func(t *testing.T) {
		t.Parallel()
		agent := consulagent.ForTest(t, consulagent.Options{})
		var lag, away atomic.Int64
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: agent.HTTP})
		proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // of requests that were given up
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			time.Sleep(time.Duration(lag.Load()))
			if away.Load() > 0 {
				panic(http.ErrAbortHandler)
			}
			proxy.ServeHTTP(w, req)
		}))
		t.Cleanup(front.Close)
		lag.Store(int64(300 * time.Millisecond))
		f := newFleet(t, 50, 5)
		r := startReal(t, consul.Config{Address: strings.TrimPrefix(front.URL, "http://")}, "a", Times{Interval: time.Second, After: 2 * time.Second})
		for _, p := range f.proxies {
			r.Connected(p)
		}
		until(t, "all are held", 30*time.Second, r.held(50))
		away.Store(1)
		for _, p := range f.proxies[:25] { // their streams end while nobody can write
			r.Gone(p.Node)
		}
		until(t, "it says so", 30*time.Second, func() string {
			if len(r.Status().Trouble) == 0 {
				return "no trouble"
			}
			return ""
		})
		for _, p := range f.proxies[:25] {
			r.Connected(p)
		}
		away.Store(0)
		until(t, "all are held", 40*time.Second, r.held(50))
		if wrong := all(agent, 50)(); wrong != "" {
			t.Error(wrong)
		}
	})
}

// TestRealToken: the policy of docs/security.md is enough; without a right of it the
// status says which; revoked, nothing is lost.
func TestRealToken(t *testing.T) {
	agent := consulagent.ForTest(t, consulagent.Options{ACLs: true})
	newToken := func(name, rules string) *api.ACLToken {
		if _, _, err := agent.API.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil); err != nil {
			t.Fatal(err)
		}
		token, _, err := agent.API.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{Name: name}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	file := filepath.Join(t.TempDir(), "token")
	use := func(token *api.ACLToken) {
		if err := os.WriteFile(file, []byte(token.SecretID), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	narrow := newToken("narrow", strings.Replace(aclPolicy, `service_prefix "" { policy = "write" }`, `service "s-0" { policy = "write" } service_prefix "" { policy = "read" }`, 1))
	use(narrow)
	f := newFleet(t, 10, 2)
	r := startReal(t, consul.Config{Address: agent.HTTP, TokenFile: file}, "a", Times{Interval: time.Second})
	for _, p := range f.proxies {
		r.Connected(p)
	}
	until(t, "those of s-0 are held", 20*time.Second, func() string {
		denied := 0
		for _, reg := range r.List() {
			if strings.Contains(reg.Reason, "may not register it") && strings.Contains(reg.Reason, "s-1") {
				denied++
			}
		}
		if s := r.Status(); s.States[Held] != 5 || denied != 5 {
			return fmt.Sprintf("%v, %d denied: %+v", s.States, denied, r.List())
		}
		return ""
	})
	use(newToken("whole", aclPolicy))
	until(t, "all are held", 30*time.Second, r.held(10))
	if s := r.Status(); s.Denials < 5 {
		t.Errorf("%+v", s)
	}

	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tokens, _, err := agent.API.ACL().TokenList(nil)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(tokens, func(e *api.ACLTokenListEntry) bool { return e.SecretID == string(token) })
	if _, err := agent.API.ACL().TokenDelete(tokens[i].AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "it says so", 60*time.Second, func() string {
		if len(r.Status().Trouble) == 0 {
			return "no trouble"
		}
		return ""
	})
	nodes, _, err := agent.API.Catalog().Nodes(&api.QueryOptions{NodeMeta: map[string]string{"managed-by": "controlplane/datapunk"}})
	if err != nil || len(nodes) != 11 {
		t.Errorf("%d nodes: %v", len(nodes), err)
	}
	t.Logf("with a revoked token: %q", r.Status().Trouble)
}

// TestRealForeign: what others made in Consul, on nodes and in services, stays.
func TestRealForeign(t *testing.T) {
	agent := consulagent.ForTest(t, consulagent.Options{})
	f := newFleet(t, 3, 1)
	if err := agent.Register(consulagent.Instance{Service: "s-0", ID: "by-hand", Address: f.proxies[0].Address.String(), Port: int(f.proxies[0].Port), MeshPort: int(f.proxies[0].MeshPort)}); err != nil {
		t.Fatal(err)
	}
	_, err := agent.API.Catalog().Register(&api.CatalogRegistration{Node: "mesh-px-1", Address: "10.1.1.1", SkipNodeUpdate: false}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := startReal(t, consul.Config{Address: agent.HTTP}, "a", Times{Interval: time.Second})
	for _, p := range f.proxies {
		r.Connected(p)
	}
	until(t, "two are foreign, and one is held", 20*time.Second, func() string {
		if s := r.Status(); s.States[Foreign] != 2 || s.States[Held] != 1 {
			return fmt.Sprintf("%v", s.States)
		}
		return ""
	})
	r.compareOnce(t.Context())
	if node, _, err := agent.API.Catalog().Node("mesh-px-1", nil); err != nil || node.Node.Address != "10.1.1.1" || len(node.Services) > 0 {
		t.Errorf("%+v: %v", node, err)
	}
	// The first is taken away by hand, the second too: now they are ours to register.
	if err := agent.Deregister("by-hand"); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.API.Catalog().Deregister(&api.CatalogDeregistration{Node: "mesh-px-1"}, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "all are held", 20*time.Second, r.held(3))
	// An operator's mark is not taken off, nor is it a change to put right.
	check := &api.AgentCheck{Node: "mesh-px-0", CheckID: "_service_maintenance:px-0", Name: "by hand", Status: "critical", ServiceID: "px-0", ServiceName: "s-0"}
	if _, err := agent.API.Catalog().Register(&api.CatalogRegistration{Node: "mesh-px-0", SkipNodeUpdate: true, Check: check}, nil); err != nil {
		t.Fatal(err)
	}
	writes := r.Status().Writes
	r.compareOnce(t.Context())
	until(t, "all are held", 20*time.Second, r.held(3))
	if got := r.Status().Writes; got != writes {
		t.Errorf("%d writes after an operator's mark", got-writes)
	}
}
