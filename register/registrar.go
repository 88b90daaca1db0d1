package register

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

// DefaultInterval and DefaultAfter hold where the mesh file says nothing.
const (
	DefaultInterval = 10 * time.Second
	DefaultAfter    = 30 * time.Second
)

const (
	// writers is how many transactions are under way at a time, and batch how many
	// changes one worker takes: what comes meanwhile goes together.
	writers = 4
	batch   = 42
	// dialers is how many ports are dialed at a time, and dialTime how long each may
	// take.
	dialers  = 256
	dialTime = time.Second
)

// Times are what the mesh file says of registrations; a zero value is the default.
type Times struct {
	Interval time.Duration // between two comparisons of all entries with the catalog
	After    time.Duration // from the loss of a proxy to the removal of its entry
}

// Registrar keeps the catalog in step with the proxies that are connected. It is
// safe for concurrent use.
type Registrar struct {
	log   *slog.Logger
	store store
	dial  func(context.Context, netip.AddrPort) reach
	self  string
	agent *agentServices // nil: the catalog has no agents

	// inbox is what was told since the loop last looked: who tells must not wait.
	inboxMu sync.Mutex
	inbox   []func(*machine, time.Time)
	wakeup  chan struct{}

	mu       sync.Mutex // guards all that follows
	machine  *machine
	interval time.Duration
	pending  []change // not given to a writer yet
	writing  int
	reading  map[string]struct{} // services that are being read
	trouble  string              // why nothing is written; empty: all is well
	unread   string              // why the catalog could not be compared last; empty: it was
	stamp    string              // of the last comparison of all
	since    time.Time           // when the session began

	probing  context.Context // of the checks
	stop     context.CancelFunc
	probers  sync.WaitGroup
	probesMu sync.Mutex
	probes   map[string]*probe // by node

	dials    chan struct{} // a token for each dial under way
	counters counters
}

// counters are since the start.
type counters struct {
	writes, conflicts, failures, denials atomic.Uint64
}

// NewConsul returns a registrar that writes to a datacenter of Consul. Self is the
// name of this replica, which no other ever has.
func NewConsul(client *consul.Client, mesh, self string, times Times, log *slog.Logger) *Registrar {
	s := &consulStore{client: client, mesh: mesh, self: self}
	r := newRegistrar(s, self, times, log, dialTCP)
	r.agent = newAgentServices(s, log)
	return r
}

func newRegistrar(s store, self string, times Times, log *slog.Logger, dial func(context.Context, netip.AddrPort) reach) *Registrar {
	r := &Registrar{
		log: log, store: s, dial: dial, self: self, wakeup: make(chan struct{}, 1), machine: newMachine(self),
		reading: make(map[string]struct{}), trouble: "no session yet", dials: make(chan struct{}, dialers),
	}
	r.probes = make(map[string]*probe)
	r.probing, r.stop = context.WithCancel(context.Background())
	r.SetTimes(times)
	return r
}

// SetTimes replaces the times. It may be called at any time.
func (r *Registrar) SetTimes(t Times) {
	if t.Interval <= 0 {
		t.Interval = DefaultInterval
	}
	if t.After <= 0 {
		t.After = DefaultAfter
	}
	r.mu.Lock()
	r.interval = t.Interval
	r.mu.Unlock()
	r.tell(func(m *machine, now time.Time) { m.setAfter(t.After, now) })
}

// Connected is told of a proxy that has its listeners, or of which something has
// changed. It does not wait.
func (r *Registrar) Connected(p Proxy) {
	r.tell(func(m *machine, now time.Time) { m.connected(&p, now) })
}

// Gone is told that the stream of a proxy has ended. It does not wait.
func (r *Registrar) Gone(node string) {
	r.tell(func(m *machine, now time.Time) { m.gone(node, now) })
}

// Leave takes the instance of a proxy out of the rotation, since it is about to end,
// and removes it once its stream has ended; if it is the last that can be called it
// does both only then. It is false if there is no such proxy.
func (r *Registrar) Leave(node string, last bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(time.Now())
	defer r.wake()
	return r.machine.leave(node, last, time.Now())
}

// tell has the loop call f.
func (r *Registrar) tell(f func(*machine, time.Time)) {
	r.inboxMu.Lock()
	r.inbox = append(r.inbox, f)
	r.inboxMu.Unlock()
	r.wake()
}

func (r *Registrar) wake() {
	select {
	case r.wakeup <- struct{}{}:
	default:
	}
}

// take has the machine hear what was told.
func (r *Registrar) take(now time.Time) {
	r.inboxMu.Lock()
	told := r.inbox
	r.inbox = nil
	r.inboxMu.Unlock()
	for _, f := range told {
		f(r.machine, now)
	}
}

// Run keeps the catalog in step until ctx ends. It deregisters nothing then: see
// [Registrar.Release].
func (r *Registrar) Run(ctx context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	defer func() {
		r.stop()
		r.probers.Wait()
		_ = g.Wait()
	}()
	g.Go(func() error {
		r.store.run(ctx, sessionEvents{up: r.sessionUp, down: r.sessionDown, leading: r.leading})
		return nil
	})
	g.Go(func() error { r.compare(ctx); return nil })
	if r.agent != nil {
		g.Go(func() error { r.agent.run(ctx, r.pause); return nil })
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := r.step(ctx, g)
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wakeup:
		case <-timer.C:
		}
	}
}

// Release gives up what says that this replica lives. It is called last of all: the
// others then look after what it registered.
func (r *Registrar) Release(ctx context.Context) {
	r.depart(ctx)
	r.store.release(ctx)
}

// step does what there is to do, and returns when to look again.
func (r *Registrar) step(ctx context.Context, g *errgroup.Group) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.take(now)
	r.machine.elapse(now)
	t := r.machine.take()
	for _, d := range t.dials {
		g.Go(func() error { r.dialOne(ctx, d); return nil })
	}
	r.readServices(ctx, g, t.reads)
	for node := range t.nodes {
		id := r.machine.records[node].want.id
		g.Go(func() error {
			r.dials <- struct{}{}
			state := r.store.readNode(ctx, node, id)
			<-r.dials
			r.tell(func(m *machine, now time.Time) { m.readNode(state, now) })
			return nil
		})
	}
	r.pending = append(r.pending, t.changes...)
	for len(r.pending) > 0 && r.writing < writers {
		n := min(batch, len(r.pending))
		changes := slices.Clone(r.pending[:n])
		r.pending = r.pending[n:]
		r.writing++
		g.Go(func() error { r.write(ctx, changes); return nil })
	}
	return r.machine.next()
}

func (r *Registrar) dialOne(ctx context.Context, d dial) {
	select {
	case r.dials <- struct{}{}:
		defer func() { <-r.dials }()
	case <-ctx.Done():
		return
	}
	got := r.dial(ctx, d.at)
	if ctx.Err() != nil {
		return
	}
	r.tell(func(m *machine, now time.Time) { m.dialed(d.node, d.at, got, now) })
}

// dialTCP opens a connection and closes it.
func dialTCP(ctx context.Context, at netip.AddrPort) reach {
	d := net.Dialer{Timeout: dialTime}
	conn, err := d.DialContext(ctx, "tcp", at.String())
	switch {
	case err == nil:
		_ = conn.Close()
		return answered
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	}
	return silent
}

// readServices reads services, but for those that are being read.
func (r *Registrar) readServices(ctx context.Context, g *errgroup.Group, wanted map[string]struct{}) {
	var services []string
	for s := range wanted {
		if _, ok := r.reading[s]; !ok {
			r.reading[s] = struct{}{}
			services = append(services, s)
		}
	}
	if len(services) == 0 {
		return
	}
	g.Go(func() error { r.read(ctx, services); return nil })
}

func (r *Registrar) read(ctx context.Context, services []string) {
	p, err := r.store.read(ctx, services)
	if ctx.Err() != nil {
		return
	}
	r.tell(func(m *machine, now time.Time) {
		for _, s := range services {
			delete(r.reading, s)
		}
		if err != nil {
			m.unread(services, "the catalog cannot be read: "+err.Error(), now)
			return
		}
		m.saw(p, now)
	})
}

func (r *Registrar) write(ctx context.Context, changes []change) {
	outcomes := r.store.write(ctx, changes)
	r.mu.Lock()
	r.writing--
	r.mu.Unlock()
	for _, o := range outcomes {
		switch o.result {
		case written:
			r.counters.writes.Add(1)
		case conflict:
			r.counters.conflicts.Add(1)
		case denied:
			r.counters.denials.Add(1)
		case failed:
			r.counters.failures.Add(1)
		}
	}
	r.tell(func(m *machine, now time.Time) {
		for _, o := range outcomes {
			m.wrote(o, now)
		}
	})
}

func (r *Registrar) sessionUp() {
	r.log.Info("registrations are written", "replica", r.self)
	r.mu.Lock()
	r.trouble, r.since, r.stamp = "", time.Now(), ""
	r.mu.Unlock()
	r.tell(func(m *machine, now time.Time) { m.session(true, now) })
	r.agentSession(true, false)
}

func (r *Registrar) sessionDown(why error) {
	r.mu.Lock()
	news := r.trouble != why.Error()
	r.trouble = why.Error()
	r.mu.Unlock()
	if news {
		r.log.Warn("registrations cannot be written: what is in the catalog stays", "reason", why)
	}
	r.tell(func(m *machine, now time.Time) { m.session(false, now) })
	r.agentSession(false, false)
}

func (r *Registrar) leading(is bool) {
	if is {
		r.log.Info("this replica looks after the registrations of those that are gone", "replica", r.self)
	}
	r.tell(func(m *machine, now time.Time) { m.lead(is, nil, now) })
	r.agentSession(true, is)
}

func (r *Registrar) agentSession(up, leads bool) {
	if r.agent != nil {
		r.agent.session(up, leads)
	}
}

// compare compares every entry with the catalog, each interval and a bit more or
// less, so that replicas do not do it all at once.
func (r *Registrar) compare(ctx context.Context) {
	for {
		if !sleep(ctx, r.pause()) {
			return
		}
		r.compareOnce(ctx)
	}
}

func (r *Registrar) pause() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.interval*9/10 + rand.N(r.interval/5+1)
}

func (r *Registrar) compareOnce(ctx context.Context) {
	r.mu.Lock()
	up, last := r.machine.up, r.stamp
	r.mu.Unlock()
	if !up {
		return
	}
	l, err := r.store.look(ctx)
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	r.unread = ""
	if err != nil {
		r.unread = "the registrations could not be compared with the catalog: " + err.Error()
	}
	r.mu.Unlock()
	if err != nil {
		return
	}
	if l.stamp == last {
		r.tell(func(m *machine, now time.Time) { m.sighted(l.alive, now) })
		return
	}
	r.mu.Lock()
	services := r.machine.services()
	r.mu.Unlock()
	for _, s := range l.services {
		services[s] = struct{}{}
	}
	names := make([]string, 0, len(services))
	for s := range services {
		names = append(names, s)
	}
	slices.Sort(names)
	p, err := r.store.read(ctx, names)
	if err != nil {
		return // look says so the next time
	}
	r.mu.Lock()
	r.stamp = l.stamp
	r.mu.Unlock()
	r.tell(func(m *machine, now time.Time) { m.saw(p, now) })
}

// Changed is told of services as those who read the catalog have them now, nil for
// one that it has no more. It does not wait.
func (r *Registrar) Changed(services map[string]*watch.Service) {
	r.tell(func(m *machine, now time.Time) { m.changed(services, now) })
}
