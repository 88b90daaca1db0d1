package consul

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"datapunk.dev/controlplane/watch"
)

// shown bounds the lists of a status.
const shown = 100

// Stats are counters since the start, and two gauges.
type Stats struct {
	Queries uint64 // requests sent
	Errors  uint64 // that failed, for whatever reason
	TooMany uint64 // answered 429: Consul's limits
	Wakes   uint64 // blocking queries that came back, with a change or without
	Emitted uint64 // catalogs published
	Held    uint64 // removals that were held, whatever became of them
	// Decided is what became of them.
	Decided map[string]uint64

	// Fresh is when what Consul says was last known not to be old; zero: never yet.
	Fresh time.Time

	OnFallback bool // another of Consul's addresses is asked than the first
	// Datacenters are those that are read, where there are several.
	Datacenters []DatacenterStats

	Services int // watched now
	Cold     int // of those, without a connection of their own
}

type counters struct {
	errors, wakes, emitted, held atomic.Uint64
	services, cold               atomic.Int64
	outcomes                     [len(outcomes)]atomic.Uint64
}

// outcomes are what becomes of a removal that was held.
var outcomes = [...]string{"back", "confirmed", "ordinary", "left", "accepted", "unselected"}

// The words of the log for outcomes.
const (
	isBack       = "back"
	isConfirmed  = "confirmed"
	isOrdinary   = "ordinary now"
	haveLeft     = "their sidecars have left"
	isAccepted   = "accepted by an operator"
	isUnselected = "the mesh file leaves them out"
)

func (c *counters) decided(how string) {
	for i, known := range [len(outcomes)]string{isBack, isConfirmed, isOrdinary, haveLeft, isAccepted, isUnselected} {
		if how == known {
			c.outcomes[i].Add(1)
		}
	}
}

// Stats returns the counters.
func (s *Source) Stats() Stats {
	c, client := &s.stats, s.client.Stats()
	decided := make(map[string]uint64, len(outcomes))
	for i, outcome := range outcomes {
		decided[outcome] = c.outcomes[i].Load()
	}
	s.health.mu.Lock()
	fresh := s.health.freshness.asOf
	s.health.mu.Unlock()
	return Stats{
		Decided: decided, Fresh: fresh, OnFallback: client.OnFallback,
		Queries: client.Requests, Errors: c.errors.Load(), TooMany: client.TooMany, Wakes: c.wakes.Load(),
		Emitted: c.emitted.Load(), Held: c.held.Load(), Services: int(c.services.Load()), Cold: int(c.cold.Load()),
	}
}

// Status returns what the source waits for and holds.
func (s *Source) Status() watch.Status {
	h := s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	st := watch.Status{Ready: h.ready, Mode: h.mode, LastSuccess: h.lastSuccess, Errors: s.stats.errors.Load()}
	for sub := range h.subjects {
		switch {
		case sub.reason != "":
			st.Waiting = append(st.Waiting, sub.name+": "+sub.reason)
		case !sub.heard:
			st.Waiting = append(st.Waiting, sub.name+": no answer yet")
		}
	}
	if h.freshness.why != "" {
		st.Waiting = append(st.Waiting, "fresh answers: "+h.freshness.why)
		if st.LastSuccess.After(h.freshness.asOf) {
			st.LastSuccess = h.freshness.asOf
		}
	}
	for name, what := range h.held {
		st.Held = append(st.Held, fmt.Sprintf("service %s: %s", name, what))
	}
	st.HeldServices = len(h.held)
	st.Waiting, st.Held = abridged(st.Waiting), abridged(st.Held)
	return st
}

func abridged(list []string) []string {
	slices.Sort(list)
	if len(list) > shown {
		list = append(list[:shown:shown], fmt.Sprintf("and %d more", len(list)-shown))
	}
	return list
}

// queryHealth is what the queries say of themselves, each as a subject. A
// reason is logged when the first subject has it and when the last is rid of
// it, not with every try nor for each of a thousand services.
type queryHealth struct {
	log   *slog.Logger
	stats *counters

	mu          sync.Mutex
	subjects    map[*subject]struct{}
	reasons     map[string]int // failing subjects a reason
	held        map[string]string
	removals    map[string]watch.Removal
	ready       bool
	mode        string
	lastSuccess time.Time
	freshness   freshness
	unreadNow   map[string]struct{} // services without a first answer
	unselected  map[string]map[place]struct{}
}

// subject is a query that the source depends on.
type subject struct {
	name   string
	heard  bool
	reason string // why it fails; empty: it does not
}

func newQueryHealth(log *slog.Logger, stats *counters) *queryHealth {
	return &queryHealth{
		log: log, stats: stats,
		subjects: make(map[*subject]struct{}), reasons: make(map[string]int), held: make(map[string]string), removals: make(map[string]watch.Removal),
		unreadNow: make(map[string]struct{}), unselected: make(map[string]map[place]struct{}),
	}
}

func (h *queryHealth) expect(name string) *subject {
	sub := &subject{name: name}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subjects[sub] = struct{}{}
	return sub
}

// forget drops a subject; what it still reports is not heard.
func (h *queryHealth) forget(sub *subject) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clear(sub)
	delete(h.subjects, sub)
}

func (h *queryHealth) failed(sub *subject, err error) {
	h.stats.errors.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	reason := err.Error()
	if _, ok := h.subjects[sub]; !ok || sub.reason == reason {
		return
	}
	h.clear(sub)
	sub.reason = reason
	h.reasons[reason]++
	if h.reasons[reason] == 1 {
		h.log.Warn("consul cannot be read", "reason", reason, "first", sub.name, "last_good_stays", h.ready)
	}
}

func (h *queryHealth) succeeded(sub *subject) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastSuccess = time.Now()
	if _, ok := h.subjects[sub]; !ok {
		return
	}
	sub.heard = true
	h.clear(sub)
}

// clear removes a subject's reason.
func (h *queryHealth) clear(sub *subject) {
	if sub.reason == "" {
		return
	}
	if h.reasons[sub.reason]--; h.reasons[sub.reason] == 0 {
		delete(h.reasons, sub.reason)
		h.log.Info("consul can be read again", "reason", sub.reason, "last", sub.name)
	}
	sub.reason = ""
}

// hold says that removals of a service are held, or with "" that none is.
func (h *queryHealth) hold(service, what string, removal *watch.Removal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if what == "" {
		delete(h.held, service)
		delete(h.removals, service)
		return
	}
	h.held[service] = what
	if removal != nil {
		h.removals[service] = *removal
	}
}

// unread says whether a service has had no answer yet.
func (h *queryHealth) unread(service string, is bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if is {
		h.unreadNow[service] = struct{}{}
	} else {
		delete(h.unreadNow, service)
	}
}

// Unread reports whether a service is wanted and has not been read yet, in the
// datacenter of its instances: that a catalog does not have them says nothing.
func (s *Source) Unread(service, _ string) bool {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	_, unread := s.health.unreadNow[service]
	return unread
}

// leaveOut says which places of a service the mesh file leaves out; nil: none. They
// are not changed after.
func (h *queryHealth) leaveOut(service string, places map[place]struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(places) > 0 {
		h.unselected[service] = places
	} else {
		delete(h.unselected, service)
	}
}

// leaveMoreOut is leaveOut that takes none back.
func (h *queryHealth) leaveMoreOut(service string, places map[place]struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := maps.Clone(places)
	maps.Copy(all, h.unselected[service])
	h.unselected[service] = all
}

// Unselected reports whether Consul has an instance of a service that the mesh file
// leaves out: that a catalog does not have it says where it is.
func (s *Source) Unselected(service, _ string, at watch.Place) bool {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	_, unselected := s.health.unselected[service][at]
	return unselected
}

func (h *queryHealth) setMode(mode string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mode == mode {
		return
	}
	h.mode = mode
	h.log.Info("consul is read", "mode", mode)
}

func (h *queryHealth) setReady() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = true
}

// names says a few of many.
func names(set map[string]struct{}) string {
	const few = 5
	all := slices.Sorted(maps.Keys(set))
	if len(all) > few {
		return fmt.Sprintf("%v and %d more", all[:few], len(all)-few)
	}
	return fmt.Sprint(all)
}
