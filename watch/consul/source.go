package consul

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

// patience is how long the first catalog waits for each service to be read, once
// they are known, as long as most can be read: one that cannot must not keep the others from
// being served.
const patience = 15 * time.Second

// batch bounds how many events one catalog takes in, so that a storm of them
// cannot hold it back.
const batch = 1024

// Source reads the catalog of a Consul datacenter. All state is owned by the
// goroutine of Run; queries hand it what they learn as events.
type Source struct {
	cfg     Config
	log     *slog.Logger
	publish func(*watch.Catalog)
	client  *consul.Client
	stats   counters
	health  *queryHealth
	// panicked is whether the log has had a panic.
	panicked  atomic.Bool
	readSlots chan struct{} // a token for each read that does not block

	events    chan func()
	demanded  chan struct{} // wanted has changed
	moved     chan struct{} // what is known of sidecars has changed
	doubtful  chan struct{} // a query has failed: Consul may be away
	mu        sync.Mutex
	wanted    Demand
	sawCanary atomic.Bool // the token could once see Consul's own service
	reading   atomic.Pointer[reading]

	// Of the goroutine of Run:
	ctx       context.Context
	wg        sync.WaitGroup
	demand    Demand
	named     map[string]struct{}
	listed    map[string]struct{} // nil: there was no list yet
	listIndex uint64
	listLimit *rate.Limiter
	tags      map[string]uint64 // a hash of those that the list has of each service
	stopList  context.CancelFunc
	restored  time.Time // when the list's index last went back
	http2     bool
	services  map[string]*service
	unsynced  int // services without a first answer
	instances int // in all services
	removals  removals
	holding   map[*service]struct{} // those with a hold
	owners    map[origin]*service   // which service each entry was last seen to be of
	cold      int
	trigger   *trigger                 // nil: every service has a watch of its own
	answers   map[instanceKey]*service // whose answer last had each instance
	seed      maphash.Seed
	advised   bool
	dirty     map[string]struct{} // changed since the last catalog
	learned   time.Time           // when the first of them was told of
	catalog   *watch.Catalog
	ready     bool
	overdue   bool // what has not been read by now is not waited for any more

	heldNow     map[string]struct{}            // since the last log line
	releasedNow map[string]map[string]struct{} // the same, by how
}

// service is one that is watched.
type service struct {
	name    string
	about   *subject
	ctx     context.Context
	stop    context.CancelFunc
	cold    bool
	poked   chan struct{}
	release context.CancelFunc // stops its loop, to start another

	synced bool
	known  *watch.Service   // what readers have of it; nil before the first answer
	from   map[place]origin // the entries that its instances are
	index  uint64           // of the last answer that was believed
	whole  time.Time        // when an answer last lacked nothing
	hold   *hold
	// filtered says that the token does not see all of what is known of it, as it may
	// never have.
	filtered bool

	// What services without a watch of their own are read again for, and who gets
	// one: see trigger and watches.
	seen           seenChecks
	at             uint64    // the index of the last answer
	read           time.Time // when the last read that does not block began
	excused        [2]excuse
	activity       activity
	claims, yields bool
}

// New returns a source that hands each new catalog to publish. An error means
// that the configuration cannot work; whether Consul answers is found by Run.
func New(client *consul.Client, cfg Config, demand Demand, log *slog.Logger, publish func(*watch.Catalog)) (*Source, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	log = log.With("consul", client.Address())
	if cfg.Datacenter != "" {
		log = log.With("datacenter", cfg.Datacenter)
	}
	s := &Source{
		client: client, cfg: cfg, log: log, publish: publish,
		readSlots:   make(chan struct{}, maxReads),
		events:      make(chan func()),
		demanded:    make(chan struct{}, 1),
		moved:       make(chan struct{}, 1),
		doubtful:    make(chan struct{}, 1),
		wanted:      demand.clone(),
		services:    make(map[string]*service),
		holding:     make(map[*service]struct{}),
		owners:      make(map[origin]*service),
		dirty:       make(map[string]struct{}),
		heldNow:     make(map[string]struct{}),
		releasedNow: make(map[string]map[string]struct{}),
		catalog:     watch.NewCatalog(),
		listLimit:   rate.NewLimiter(pollRate, pollBurst),
		answers:     make(map[instanceKey]*service),
		seed:        maphash.MakeSeed(),
	}
	s.health = newQueryHealth(log, &s.stats)
	s.reading.Store(&reading{cfg.Datacenter, demand.NodeMeta})
	return s, nil
}

// Run publishes the catalog and every later state of it until ctx ends, and
// then returns nil. It may be called once.
func (s *Source) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	s.ctx = ctx
	defer s.wg.Wait()
	defer cancel()
	s.wg.Go(func() { s.watchFreshness(ctx) })
	s.applyDemand()
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-s.events:
			s.step(f)
		case <-s.demanded:
			s.step(s.applyDemand)
		case <-s.moved:
			s.step(s.reconsider)
		}
		s.drain()
		s.step(s.emit)
	}
}

// drain takes the events that came while others were at work, into the same
// catalog.
func (s *Source) drain() {
	for range batch {
		select {
		case f := <-s.events:
			s.step(f)
		default:
			return
		}
	}
}

// do has the goroutine of Run call f. The error is ctx's.
func (s *Source) do(ctx context.Context, f func()) error {
	select {
	case s.events <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// done is do that waits until f has been called.
func (s *Source) done(ctx context.Context, f func()) error {
	called := make(chan struct{})
	if err := s.do(ctx, func() { defer close(called); f() }); err != nil {
		return err
	}
	select {
	case <-called:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start watches a service, with a connection of its own or without.
func (s *Source) start(name string, cold bool) {
	svc := &service{name: name, about: s.health.expect("service " + name), poked: make(chan struct{}, 1)}
	svc.ctx, svc.stop = context.WithCancel(s.ctx)
	s.services[name] = svc
	s.unsynced++
	s.health.unread(name, true)
	s.stats.services.Add(1)
	s.follow(svc, cold)
}

// follow starts the loop of a service, with a connection of its own or without.
func (s *Source) follow(svc *service, cold bool) {
	if svc.cold = cold; cold {
		s.cold++
		s.stats.cold.Add(1)
	}
	ctx, release := context.WithCancel(svc.ctx)
	svc.release = release
	q := query{path: healthPath(svc.name)}
	take := func(a *consul.Answer) error {
		var entries []entry
		if err := a.Decode(&entries); err != nil {
			return err
		}
		seen := readEntries(svc.name, entries, *s.reading.Load(), a)
		var checks seenChecks
		if !a.HTTP2 { // or there is no service without a watch
			checks = checksOf(s.seed, entries)
		}
		taken := make(chan error, 1)
		err := s.do(ctx, func() {
			taken <- s.contained(func() error {
				if ctx.Err() == nil && !s.believable(svc, a, len(entries)) {
					return errNodes
				}
				if ctx.Err() == nil {
					s.health.succeeded(svc.about) // a status that is ready lacks no answer
					s.took(svc, checks, a.Index)
					s.answered(svc, seen)
					s.yield(svc)
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		select {
		case err = <-taken:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.wg.Go(func() {
		defer release()
		if cold {
			s.reread(ctx, svc, q, take)
			return
		}
		s.poll(ctx, svc.about, q, rate.NewLimiter(pollRate, pollBurst), take)
	})
}

// errNodes is the answer to a token that sees a service and not its instances.
var errNodes = &refusal{"the token may read the service and none of its nodes: it needs node:read"}

// believable reports whether a first answer is one: to a token without
// node:read, every service is there and has no instances. Later ones are the
// guard's to judge.
func (s *Source) believable(svc *service, a *consul.Answer, entries int) bool {
	_, listed := s.listed[svc.name]
	return svc.synced || !listed || !a.Filtered || entries > 0
}

func healthPath(service string) string { return "/v1/health/service/" + url.PathEscape(service) }

// answered takes an answer of a service's watch.
func (s *Source) answered(svc *service, seen answer) {
	seen.choose(s.demand.Select)
	if !svc.synced {
		svc.synced = true
		s.unsynced--
		s.health.unread(svc.name, false)
		s.accept(svc, seen)
		s.balance()
	} else {
		s.judge(svc, seen)
	}
	s.settle(svc)
}

// settle drops the service if it has come to that, and gives its connection to
// another.
func (s *Source) settle(svc *service) {
	if s.dropUnwanted(svc) {
		s.balance()
	}
}

// accept believes an answer.
func (s *Source) accept(svc *service, seen answer) {
	s.health.leaveOut(svc.name, seen.unselected)
	s.setKnown(svc, seen.service, seen.from)
	svc.index, svc.whole, svc.filtered = seen.index, time.Now(), seen.filtered
}

// setKnown changes what readers have of a service.
func (s *Source) setKnown(svc *service, known *watch.Service, from map[place]origin) {
	s.own(svc, from)
	if svc.known != nil {
		if svc.known.Equal(known) {
			return
		}
		s.instances -= len(svc.known.Instances)
		svc.activity.note(time.Now())
	}
	s.instances += len(known.Instances)
	svc.known = known
	s.claim(svc)
	s.changed(svc.name)
}

// dropUnwanted stops watching a service that is neither named nor in the list,
// once its own watch says that the list is right.
func (s *Source) dropUnwanted(svc *service) bool {
	_, named := s.named[svc.name]
	_, listed := s.listed[svc.name]
	if named || listed || svc.hold != nil || s.services[svc.name] != svc {
		return false
	}
	if svc.known != nil {
		for _, i := range svc.known.Instances {
			if !s.demand.MeshOnly || i.MeshPort > 0 {
				return false
			}
		}
	}
	s.drop(svc)
	return true
}

// drop stops watching a service.
func (s *Source) drop(svc *service) {
	if svc.known != nil {
		s.instances -= len(svc.known.Instances)
	}
	s.own(svc, nil)
	svc.stop()
	s.health.forget(svc.about)
	s.health.leaveOut(svc.name, nil)
	delete(s.services, svc.name)
	s.took(svc, seenChecks{}, 0)
	s.stats.services.Add(-1)
	if !svc.synced {
		s.unsynced--
		s.health.unread(svc.name, false)
	}
	if svc.cold {
		s.cold--
		s.stats.cold.Add(-1)
	}
	s.changed(svc.name)
}

// changed notes that a service is not as the last catalog has it.
func (s *Source) changed(name string) {
	if len(s.dirty) == 0 {
		s.learned = time.Now()
	}
	s.dirty[name] = struct{}{}
}

// emit publishes what has changed, once everything that is wanted is known, or has been
// waited for.
func (s *Source) emit() {
	s.logHolds()
	if s.listed == nil || !s.ready && s.unsynced > 0 && (!s.overdue || !s.mostRead()) {
		return
	}
	var put []*watch.Service
	var remove []string
	for name := range s.dirty {
		svc := s.services[name]
		switch {
		case svc == nil, svc.known != nil && svc.known.Empty() && svc.known.Unselected == "":
			remove = append(remove, name)
		case svc.known != nil:
			put = append(put, svc.known)
		}
	}
	clear(s.dirty)
	next := s.catalog.Update(put, remove)
	if next == s.catalog && s.ready {
		return
	}
	s.catalog = next.LearnedAt(s.learned)
	if !s.ready {
		s.ready = true
		s.health.setReady()
		if s.unsynced > 0 {
			s.log.Warn("the catalog begins without the services that cannot be read", "services", next.Len(), "instances", s.instances, "unread", s.unsynced)
		} else {
			s.log.Info("catalog complete", "services", next.Len(), "instances", s.instances)
		}
	}
	s.stats.emitted.Add(1)
	s.publish(s.catalog)
}

// mostRead reports whether more of the listed services have been read than not.
func (s *Source) mostRead() bool {
	balance := 0
	for name := range s.listed {
		if svc := s.services[name]; svc != nil && svc.synced {
			balance++
		} else {
			balance--
		}
	}
	return balance > 0
}

// logHolds says what came to be held, or stopped being so, since it last did.
func (s *Source) logHolds() {
	if len(s.heldNow) > 0 {
		s.log.Warn("removals held until they are confirmed", "services", names(s.heldNow))
		clear(s.heldNow)
	}
	for how, set := range s.releasedNow {
		s.log.Info("removals held no longer", "services", names(set), "how", how)
	}
	clear(s.releasedNow)
}
