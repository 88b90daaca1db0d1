package consul

import (
	"context"
	"errors"
	"fmt"
	"time"

	"datapunk.dev/controlplane/consul"
)

// A Consul server that has lost its leader goes on answering reads that any server may
// answer, from what it knew then; a held query of a service that is served by the
// streaming backend does so even when no server is left. And a Consul that is frozen
// takes connections and says nothing, while blocking queries wait for a minute anyway.
// So one small read each [freshEvery], which no backend holds, says how old the answers
// are, and whether there are any.

const (
	freshEvery = 5 * time.Second
	// freshTime is how long that read may take, and a leader may be looked for. With
	// freshEvery it is how soon a Consul is noticed that takes connections and does not
	// answer, or has lost its leader.
	freshTime = 5 * time.Second
	// staleAfter is how long ago a server may have heard from its leader, which it does
	// several times a second.
	staleAfter = 10 * time.Second
	// freshPause is the least between two of those reads: a failing query has one made at
	// once.
	freshPause = time.Second
)

// errStale is an answer of a server that is out of touch with its leader.
var errStale = errors.New("its servers are out of touch with their leader")

// watchFreshness looks how fresh Consul's answers are until ctx ends.
func (s *Source) watchFreshness(ctx context.Context) {
	last := s.client.Address()
	for sleepUntil(ctx, freshEvery-freshPause, s.doubtful) {
		at, began := s.client.Address(), time.Now()
		if at != last {
			s.log.Warn("another of Consul's addresses is asked", "last", last, "now", at)
			last = at
		}
		asOf, err := s.freshness(ctx, query{path: healthPath(canary)}, freshTime)
		if errors.Is(err, errStale) {
			// An agent leaves a server that has no leader when it asks for one.
			if s.cfg.Consistency == "stale" {
				if now, asked := s.askLeader(ctx, func() { s.health.fresh(asOf, outOfTouch(at, asOf)) }); asked == nil {
					asOf, err = now, nil
					s.client.MoveOn(at) // what waits there is asked anew
				}
			}
			if err != nil && s.client.Alternatives() > 0 {
				s.client.MoveOn(at)
			}
		}
		if ctx.Err() != nil {
			return
		}
		var status *consul.StatusError
		switch {
		case err == nil:
			s.health.fresh(asOf, "")
		case errors.Is(err, errStale):
			s.health.fresh(asOf, outOfTouch(at, asOf))
		case errors.As(err, &status), errors.Is(err, consul.ErrMoved), s.client.Heard().After(began):
			// It answers; what it refuses its queries say for themselves.
		case consul.IsTimeout(err):
			s.health.fresh(time.Time{}, at+" takes connections and does not answer")
			if s.client.Alternatives() > 0 {
				s.client.MoveOn(at)
			}
		}
		if !sleep(ctx, freshPause) {
			return
		}
	}
}

// outOfTouch is what is said of an address whose answers are of that time.
func outOfTouch(at string, asOf time.Time) string {
	return fmt.Sprintf("%s has heard from no leader since %s: what it says may be old", at, asOf.UTC().Format(time.RFC3339))
}

// askLeader makes a read that needs a leader. A server that has none looks for one for
// 7 s and more, and one whose leader is frozen waits for its answer as long as it is let:
// late is called when an election would be over. It has returned before askLeader does.
func (s *Source) askLeader(ctx context.Context, late func()) (time.Time, error) {
	type answer struct {
		asOf time.Time
		err  error
	}
	answered := make(chan answer, 1)
	go func() { // ended by the client's own limit, if by nothing else
		asOf, err := s.freshness(ctx, query{path: healthPath(canary), leader: true}, 0)
		answered <- answer{asOf, err}
	}()
	select {
	case a := <-answered:
		return a.asOf, a.err
	case <-time.After(freshTime):
		late()
	}
	a := <-answered
	return a.asOf, a.err
}

// freshness makes a read, and returns from when on what it says may be old.
func (s *Source) freshness(ctx context.Context, q query, limit time.Duration) (time.Time, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	a, err := s.get(ctx, q)
	if err != nil {
		return time.Time{}, err
	}
	return s.ageOf(a)
}

// ageOf says from when on what an answer says may be old, of one that no streaming
// backend gave.
func (s *Source) ageOf(a *consul.Answer) (time.Time, error) {
	asOf := time.Now().Add(-a.LastContact)
	if !a.KnownLeader || a.LastContact > staleAfter {
		return asOf, errStale
	}
	return asOf, nil
}

// freshness is what is known of how old Consul's answers are.
type freshness struct {
	asOf time.Time // they were not old then
	why  string    // they may be now; empty: they are not
}

// fresh takes in how fresh Consul's answers are; a zero time says nothing of it.
func (h *queryHealth) fresh(asOf time.Time, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if asOf.After(h.freshness.asOf) {
		h.freshness.asOf = asOf
	}
	was := h.freshness.why
	h.freshness.why = why
	switch {
	case why == "" && was != "":
		h.log.Info("consul's answers are fresh again")
	case why != "" && was == "":
		h.log.Warn("consul's answers may be old", "reason", why)
	}
}
