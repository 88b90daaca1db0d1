package consul

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"

	"datapunk.dev/controlplane/consul"
)

const (
	minBackoff = 100 * time.Millisecond // after a broken connection
	minRefused = time.Second            // after an answer that refuses: the server is busy enough
	maxBackoff = 10 * time.Second

	// A watch whose index moves all the time asks this often a second, after a
	// burst. The limit stands after an event: it delays none that comes alone.
	pollRate  = 4
	pollBurst = 5

	// maxReads is how many reads that do not block run at once.
	maxReads = 8
)

// poll follows one blocking query until ctx ends, and hands each answer to
// take. An answer that take refuses counts as an error.
func (s *Source) poll(ctx context.Context, about *subject, q query, limit *rate.Limiter, take func(*consul.Answer) error) {
	var (
		wait backoff
		last uint64
	)
	for {
		q.index = last
		a, err := s.get(ctx, q)
		if err == nil {
			q.expect = len(a.Body)
			err = s.contained(func() error { return take(a) })
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, consul.ErrMoved) {
			last = 0
			continue
		}
		if err != nil {
			// The index may be of a state that the next server never had, and
			// a query that waits for it would sleep through every change.
			last = 0
			s.health.failed(about, err)
			ask(s.doubtful)
			if !sleep(ctx, wait.next(err)) {
				return
			}
			continue
		}
		wait.reset()
		s.health.succeeded(about)
		if last > 0 {
			s.stats.wakes.Add(1)
		}
		if a.Index < last {
			last = 0 // "Reset the index if it goes backwards"
		} else {
			last = a.Index
		}
		if limit.Wait(ctx) != nil {
			return
		}
	}
}

// reread reads a service that has no connection of its own, now and whenever
// it is poked, and once a wait besides.
func (s *Source) reread(ctx context.Context, svc *service, q query, take func(*consul.Answer) error) {
	limit := rate.NewLimiter(pollRate, pollBurst)
	var wait backoff
	for {
		began := time.Now()
		a, err := s.read(ctx, q)
		if err == nil {
			q.expect = len(a.Body)
			err = s.contained(func() error { return take(a) })
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, consul.ErrMoved) {
			continue
		}
		if err != nil {
			s.health.failed(svc.about, err)
			if !sleep(ctx, wait.next(err)) {
				return
			}
			continue
		}
		wait.reset()
		s.health.succeeded(svc.about)
		var behind bool
		if s.done(ctx, func() { behind = s.behind(svc, began, q.leader) }) != nil {
			return
		}
		if q.leader = behind; behind {
			continue
		}
		if limit.Wait(ctx) != nil {
			return
		}
		if !sleepUntil(ctx, s.cfg.Wait-rand.N(s.cfg.Wait/8), svc.poked) {
			return
		}
	}
}

// read makes a request that does not block. Few run at once, so that they
// have their connections beside the blocking ones.
func (s *Source) read(ctx context.Context, q query) (*consul.Answer, error) {
	select {
	case s.readSlots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.readSlots }()
	return s.get(ctx, q)
}

// backoff is decorrelated jitter: each pause is drawn between the least one and
// three times the last.
type backoff struct{ last time.Duration }

func (b *backoff) next(err error) time.Duration {
	least := minBackoff
	var refused *refusal
	var status *consul.StatusError
	if errors.As(err, &refused) || errors.As(err, &status) {
		least = minRefused
	}
	high := max(3*b.last, 2*least)
	b.last = min(least+rand.N(high-least), maxBackoff)
	return b.last
}

func (b *backoff) reset() { b.last = 0 }

// sleep is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// sleepUntil is sleep that ends at once when it is asked to.
func sleepUntil(ctx context.Context, d time.Duration, asked <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-asked:
	case <-t.C:
	}
	return true
}
