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
	b := s.board
	b.mu.Lock()
	defer b.mu.Unlock()
	st := watch.Status{Ready: b.ready, Mode: b.mode, LastSuccess: b.lastSuccess, Errors: s.stats.errors.Load()}
	for sub := range b.subjects {
		switch {
		case sub.reason != "":
			st.Waiting = append(st.Waiting, sub.name+": "+sub.reason)
		case !sub.heard:
			st.Waiting = append(st.Waiting, sub.name+": no answer yet")
		}
	}
	for name, what := range b.held {
		st.Held = append(st.Held, fmt.Sprintf("service %s: %s", name, what))
	}
	st.HeldServices = len(b.held)
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

// board is what the queries say of themselves. Each has a subject on it; a
// reason is logged when the first subject has it and when the last is rid of
// it, not with every try nor for each of a thousand services.
type board struct {
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

func newBoard(log *slog.Logger, stats *counters) *board {
	return &board{
		log: log, stats: stats,
		subjects: make(map[*subject]struct{}), reasons: make(map[string]int), held: make(map[string]string),
	}
}

func (b *board) expect(name string) *subject {
	sub := &subject{name: name}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subjects[sub] = struct{}{}
	return sub
}

// forget takes a subject off; what it still reports is not heard.
func (b *board) forget(sub *subject) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear(sub)
	delete(b.subjects, sub)
}

func (b *board) failed(sub *subject, err error) {
	b.stats.errors.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	reason := err.Error()
	if _, ok := b.subjects[sub]; !ok || sub.reason == reason {
		return
	}
	b.clear(sub)
	sub.reason = reason
	b.reasons[reason]++
	if b.reasons[reason] == 1 {
		b.log.Warn("consul cannot be read", "reason", reason, "first", sub.name, "last_good_stays", b.ready)
	}
}

func (b *board) succeeded(sub *subject) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastSuccess = time.Now()
	if _, ok := b.subjects[sub]; !ok {
		return
	}
	sub.heard = true
	b.clear(sub)
}

// clear removes a subject's reason.
func (b *board) clear(sub *subject) {
	if sub.reason == "" {
		return
	}
	if b.reasons[sub.reason]--; b.reasons[sub.reason] == 0 {
		delete(b.reasons, sub.reason)
		b.log.Info("consul can be read again", "reason", sub.reason, "last", sub.name)
	}
	sub.reason = ""
}

// hold says that removals of a service are held, or with "" that none is.
func (b *board) hold(service, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if what == "" {
		delete(b.held, service)
		return
	}
	b.held[service] = what
}

func (b *board) setMode(mode string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mode == mode {
		return
	}
	b.mode = mode
	b.log.Info("consul is read", "mode", mode)
}

func (b *board) setReady() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = true
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
