package register

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeCatalog is a catalog that several replicas write to, as Consul is one.
type fakeCatalog struct {
	t testing.TB

	mu      sync.Mutex
	index   uint64
	nodes   map[string]*stored
	others  map[string]*stored // what is not ours
	alive   map[string]struct{}
	sweeper string
	writes  int
	away    bool            // nobody can reach it
	cut     map[string]bool // nor can these replicas
	deny    map[string]bool // services that the token may not write
	forgets bool            // answers to a write are lost
	history []string        // what a watcher saw
}

func newFakeCatalog(t testing.TB) *fakeCatalog {
	return &fakeCatalog{
		t: t, nodes: make(map[string]*stored), others: make(map[string]*stored), alive: make(map[string]struct{}),
		cut: make(map[string]bool), deny: make(map[string]bool),
	}
}

// ids are the instances of a service as those who read the catalog have them, with
// those that are in maintenance in brackets.
func (f *fakeCatalog) ids(service string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.idsLocked(service)
}

func (f *fakeCatalog) idsLocked(service string) []string {
	ids := []string{}
	for _, from := range []map[string]*stored{f.nodes, f.others} {
		for _, node := range slices.Sorted(maps.Keys(from)) {
			s := from[node]
			switch {
			case s.service != service || s.index == 0:
			case s.draining:
				ids = append(ids, "("+s.id+")")
			default:
				ids = append(ids, s.id)
			}
		}
	}
	return ids
}

func (f *fakeCatalog) owner(node string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.nodes[node]; s != nil {
		return s.owner
	}
	return ""
}

func (f *fakeCatalog) written() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// replica is a registrar on the catalog.
type replica struct {
	*Registrar
	f       *fakeCatalog
	stop    context.CancelFunc
	session bool // it has one
	network func(netip.AddrPort) reach
}

// start starts a replica. Every port answers, unless the test says otherwise.
func (f *fakeCatalog) start(name string, times Times) *replica {
	r := &replica{f: f, network: func(netip.AddrPort) reach { return answered }}
	r.Registrar = newRegistrar(r, name, times, slog.New(slog.DiscardHandler), func(_ context.Context, at netip.AddrPort) reach {
		f.mu.Lock()
		defer f.mu.Unlock()
		return r.network(at)
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	r.stop = func() { stop(); <-done }
	go func() { defer close(done); r.Run(ctx) }()
	f.t.Cleanup(r.stop)
	return r
}

// reaches sets what the replica's dials come to.
func (r *replica) reaches(network func(netip.AddrPort) reach) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.network = network
}

func (r *replica) reachable() error {
	if r.f.away || r.f.cut[r.self] {
		return errors.New("connection refused")
	}
	return nil
}

// run implements store: a session lives for 20 s without Consul.
func (r *replica) run(ctx context.Context, on sessionEvents) {
	var lost time.Time
	for {
		r.f.mu.Lock()
		err := r.reachable()
		switch {
		case err == nil && !r.session:
			r.session, lost = true, time.Time{}
			r.f.alive[r.self] = struct{}{}
			on.up()
		case err != nil && lost.IsZero():
			lost = time.Now()
		case err != nil && r.session && time.Since(lost) >= 10*time.Second:
			r.session = false
			on.down(err)
		case err == nil:
			lost = time.Time{}
		}
		if err != nil && !lost.IsZero() && time.Since(lost) >= 20*time.Second {
			delete(r.f.alive, r.self)
			if r.f.sweeper == r.self {
				r.f.sweeper = ""
			}
		}
		if r.session && r.f.sweeper == "" {
			r.f.sweeper = r.self
			on.leading(true)
		}
		r.f.mu.Unlock()
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

// die ends a replica as SIGKILL does: its key stays for 20 s.
func (r *replica) die() {
	r.stop()
	time.AfterFunc(20*time.Second, func() { r.release(context.Background()) })
}

func (r *replica) release(context.Context) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	delete(r.f.alive, r.self)
	if r.f.sweeper == r.self {
		r.f.sweeper = ""
	}
}

func (r *replica) write(_ context.Context, changes []change) []outcome {
	time.Sleep(time.Millisecond)
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	var outcomes []outcome
	for _, c := range changes {
		outcomes = append(outcomes, r.writeOne(c))
	}
	return outcomes
}

func (r *replica) writeOne(c change) outcome {
	f, node := r.f, c.want.node
	o := outcome{node: node, kind: c.kind}
	if err := r.reachable(); err != nil || !r.session {
		o.result, o.why = failed, "no session"
		return o
	}
	if f.deny[c.want.service] {
		o.result, o.why = denied, "Permission denied"
		return o
	}
	there := f.nodes[node]
	_, other := f.others[node]
	index := uint64(0)
	if there != nil {
		index = there.index
	}
	if c.kind == assess && there != nil && !other {
		index = c.have.index // a check has none of its own
	}
	if other || (c.have == nil) != (there == nil) || c.have != nil && c.have.index != index {
		o.result = conflict
		return o
	}
	f.index++
	f.writes++
	next := &stored{entry: c.want, owner: r.self, index: f.index, nodeIndex: f.index, nodeAddr: c.want.address}
	switch c.kind {
	case put:
		f.nodes[node] = next
	case assess:
		copied := *there
		copied.app = c.want.app
		f.nodes[node], next = &copied, &copied
	case mark:
		next.entry, next.draining = c.have.entry, true
		f.nodes[node] = next
	case remove:
		next = &stored{entry: c.have.entry, owner: c.have.owner, nodeIndex: there.nodeIndex}
		f.nodes[node] = next
	case removeNode:
		delete(f.nodes, node)
		next = nil
	}
	if f.history = append(f.history, fmt.Sprint(f.idsLocked(c.want.service))); next != nil {
		copied := *next
		o.stored = &copied
	}
	if f.forgets {
		return outcome{node: node, kind: c.kind, result: failed, why: "timeout"}
	}
	return o
}

func (r *replica) read(_ context.Context, services []string) (picture, error) {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.reachable(); err != nil {
		return picture{}, err
	}
	p := picture{at: time.Now(), services: services, foreign: make(map[place]string), alive: maps.Clone(f.alive)}
	for _, s := range f.nodes {
		if slices.Contains(services, s.service) && s.index > 0 {
			copied := *s
			p.stored = append(p.stored, &copied)
		}
	}
	for node, s := range f.others {
		if slices.Contains(services, s.service) {
			p.foreign[s.place()] = "registered by others: " + s.id + " on node " + node
		}
	}
	return p, nil
}

func (r *replica) readNode(_ context.Context, node, id string) nodeState {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.reachable(); err != nil {
		return nodeState{node: node, err: err.Error()}
	}
	if _, ok := f.others[node]; ok {
		return nodeState{node: node, foreign: "the node " + node + " is not ours"}
	}
	s := f.nodes[node]
	if s == nil {
		return nodeState{node: node, missing: true}
	}
	copied := *s
	return nodeState{node: node, stored: &copied}
}

func (r *replica) look(context.Context) (look, error) {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.reachable(); err != nil {
		return look{}, err
	}
	services := make(map[string]struct{})
	for _, s := range f.nodes {
		services[s.service] = struct{}{}
	}
	return look{fmt.Sprint(f.index), slices.Collect(maps.Keys(services)), maps.Clone(f.alive)}, nil
}

// lake is the proxy with that number.
func lake(n int) Proxy {
	return Proxy{
		Node: fmt.Sprintf("lake-%d", n), Service: "lake", Address: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}),
		Port: 8080, MeshPort: 20000, Since: time.Now(),
	}
}

// after lets time pass, and everything happen that happens in it.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// state is that of a proxy, as it is listed.
func (r *replica) state(id string) Registration {
	for _, reg := range r.List() {
		if reg.ID == id {
			return reg
		}
	}
	return Registration{State: "none"}
}

func (r *replica) want(id string, s State) {
	r.f.t.Helper()
	if got := r.state(id); got.State != s {
		r.f.t.Errorf("%s is %s (%s), want %s", id, got.State, got.Reason, s)
	}
}

func (f *fakeCatalog) want(ids ...string) {
	f.t.Helper()
	if got := f.ids("lake"); !slices.Equal(got, append([]string{}, ids...)) {
		f.t.Errorf("the catalog has %v, want %v", got, ids)
	}
}
