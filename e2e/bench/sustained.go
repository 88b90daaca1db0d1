package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// sustained is changes at a rate, one service after the other, while earlier
// ones are still on their way. A change has arrived at a stream when the stream
// has that place of the instance or a later one.
type sustained struct {
	title    string
	kind     string
	world    world
	rate     int // changes a second
	seconds  int
	profiles string
}

// sustainedResult is what came of it.
type sustainedResult struct {
	Title string `json:"title"`
	Kind  string `json:"kind"`
	World world  `json:"world"`

	Rate    float64 `json:"rate"` // that was kept, changes a second
	Changes int     `json:"changes"`
	P50     float64 `json:"p50_ms"` // over every (change, stream) pair
	P99     float64 `json:"p99_ms"`
	// Worst is the longest that any stream lacked any change: how far behind
	// the last one ever was.
	Worst    float64 `json:"worst_ms"`
	FirstP50 float64 `json:"first_p50_ms"` // of the changes of the first second
	FirstP99 float64 `json:"first_p99_ms"`
	LastP50  float64 `json:"last_p50_ms"` // of the changes of the last second
	LastP99  float64 `json:"last_p99_ms"`

	RSSStart  float64 `json:"rss_start_mb"`
	RSSMost   float64 `json:"rss_most_mb"`
	RSSEnd    float64 `json:"rss_end_mb"`
	Cores     float64 `json:"cores"` // of the server, on average
	Beside    float64 `json:"consul_cores"`
	Clients   float64 `json:"client_cores"`
	Others    float64 `json:"other_cores"`
	Delivered float64 `json:"delivered"` // assignments, for each (change, stream) pair
	MB        float64 `json:"mb"`        // received by all streams
}

func (m sustained) do(ctx context.Context) (sustainedResult, error) {
	w := m.world
	s, err := startSubject(ctx, m.kind, &w)
	if err != nil {
		return sustainedResult{}, fmt.Errorf("%s: %w", m.kind, err)
	}
	defer s.stop()
	r := sustainedResult{Title: m.title, Kind: m.kind, World: w, Changes: m.rate * m.seconds}
	if err := r.run(ctx, m, s, w); err != nil {
		return r, fmt.Errorf("%s: %w", m.kind, err)
	}
	return r, nil
}

func (r *sustainedResult) run(ctx context.Context, m sustained, s *subject, w world) error {
	f, err := connect(ctx, s, w)
	if err != nil {
		return err
	}
	defer f.stop()
	for i := range r.Changes {
		service, n := i%w.Services, i/w.Services+1
		if err := s.prepare(service, n); err != nil {
			return err
		}
	}
	time.Sleep(settle)
	start, besideStart, err := s.usages()
	if err != nil {
		return err
	}
	stopProfile, err := profileOf(s, m.profiles, m.title)
	if err != nil {
		return err
	}
	mine, received, others := used(), f.bytes.Load(), s.others()
	k := newBooks(w, m.rate, m.seconds)
	f.observe(k.arrived)
	watched, stopWatching := context.WithCancel(ctx)
	var most atomic.Int64
	var background sync.WaitGroup
	background.Go(func() { watchRSS(watched, s, &most) })
	took, err := k.makeChanges(ctx, s.change)
	if err == nil {
		err = k.wait(ctx, f)
	}
	stopWatching()
	background.Wait()
	err = errors.Join(err, stopProfile())
	if err != nil {
		return err
	}
	end, besideEnd, err := s.usages()
	if err != nil {
		return err
	}
	r.Others = others.cores()
	r.Rate = float64(r.Changes) / took.Seconds()
	r.P50, r.P99, r.Worst = k.all.percentile(50), k.all.percentile(99), ms(time.Duration(k.all.most.Load()))
	r.FirstP50, r.FirstP99 = k.first.percentile(50), k.first.percentile(99)
	r.LastP50, r.LastP99 = k.last.percentile(50), k.last.percentile(99)
	r.RSSStart, r.RSSMost, r.RSSEnd = float64(start.RSS)/1e6, float64(most.Load())/1e6, float64(end.RSS)/1e6
	r.Cores, r.Beside = (end.CPU-start.CPU)/took.Seconds(), (besideEnd.CPU-besideStart.CPU)/took.Seconds()
	r.Clients = (used().CPU - mine.CPU) / took.Seconds()
	r.Delivered = float64(k.deliveries.Load()) / float64(k.all.total.Load())
	r.MB = float64(f.bytes.Load()-received) / 1e6
	return nil
}

func watchRSS(ctx context.Context, s *subject, most *atomic.Int64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if u, err := s.usage(nothing); err == nil {
			most.Store(max(most.Load(), u.RSS))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// books says when each change was made, and what each stream has of it.
type books struct {
	w          world
	rate       int
	changes    int
	began      time.Time
	made       [][]atomic.Int64 // by service and place: since began
	has        [][]int          // by stream and service: the place; each stream writes its own
	all        histogram
	first      histogram // of the first second's changes
	last       histogram // of the last second's
	deliveries atomic.Int64
	missing    atomic.Int64 // (stream, service) pairs that lack the last place
	done       chan struct{}
}

func newBooks(w world, rate, seconds int) *books {
	k := &books{w: w, rate: rate, changes: rate * seconds, done: make(chan struct{}), has: make([][]int, w.Streams)}
	for service := range w.Services {
		k.made = append(k.made, make([]atomic.Int64, k.lastPlace(service)+1))
		if k.lastPlace(service) > 0 {
			k.missing.Add(int64(w.subscribers(service)))
		}
	}
	for i := range k.has {
		k.has[i] = make([]int, w.Services)
	}
	return k
}

// lastPlace is where a service's first instance ends.
func (k *books) lastPlace(service int) int {
	return (k.changes - service + k.w.Services - 1) / k.w.Services
}

// makers is how many changes can be under way at once: so many that a slow
// server, and not its being asked, is what holds up a rate.
const makers = 64

// makeChanges makes the changes, each at its time or as soon after as it can
// be made, and those of one service in order. It returns how long that took.
func (k *books) makeChanges(ctx context.Context, change func(service, n int) error) (time.Duration, error) {
	k.began = time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for worker := range makers {
		g.Go(func() error {
			for i := range k.changes {
				service, n := i%k.w.Services, i/k.w.Services+1
				if service%makers != worker {
					continue
				}
				time.Sleep(time.Until(k.began.Add(time.Second * time.Duration(i) / time.Duration(k.rate))))
				if err := ctx.Err(); err != nil {
					return err
				}
				k.made[service][n].Store(int64(time.Since(k.began)))
				if err := change(service, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return time.Since(k.began), err
}

// arrived counts every change that a stream did not have before.
func (k *books) arrived(a arrival) {
	k.deliveries.Add(1)
	had := k.has[a.stream][a.service]
	if a.place <= had {
		return
	}
	k.has[a.stream][a.service] = a.place
	since := a.at.Sub(k.began)
	for n := had + 1; n <= a.place; n++ {
		made := time.Duration(k.made[a.service][n].Load())
		k.all.add(since - made)
		switch i := (n-1)*k.w.Services + a.service; {
		case i < k.rate:
			k.first.add(since - made)
		case i >= k.changes-k.rate:
			k.last.add(since - made)
		}
	}
	if a.place == k.lastPlace(a.service) && k.missing.Add(-1) == 0 {
		close(k.done)
	}
}

// wait waits until every stream has the last state of all.
func (k *books) wait(ctx context.Context, f *fleet) error {
	select {
	case <-k.done:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
		return fmt.Errorf("a minute after the last change %d (stream, service) pairs do not have it", k.missing.Load())
	}
	if err := f.failed.Load(); err != nil {
		return fmt.Errorf("a stream ended: %w", *err)
	}
	return nil
}
