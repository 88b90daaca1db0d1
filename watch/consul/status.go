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

	Services int // watched now
	Cold     int // of those, without a connection of their own
}

type counters struct {
	errors, wakes, emitted, held atomic.Uint64
	services, cold               atomic.Int64
}

// Stats returns the counters.
func (s *Source) Stats() Stats {
	c, client := &s.stats, s.client.Stats()
	return Stats{
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
	ready       bool
	mode        string
	lastSuccess time.Time
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
		subjects: make(map[*subject]struct{}), reasons: make(map[string]int), held: make(map[string]string),
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
func (h *queryHealth) hold(service, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if what == "" {
		delete(h.held, service)
		return
	}
	h.held[service] = what
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
