package traffic

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Load is a stream of equal requests.
type Load struct {
	Addr        string // of the sidecar
	Request     Request
	Concurrency int     // 4 if 0
	Rate        float64 // requests a second in all; 0: as fast as the answers come
	Requests    int     // stops after so many; 0: at Stop
	Timeout     time.Duration
	HTTP2       bool
}

// keptFailures bounds the failures whose text is kept.
const keptFailures = 20

// Result is what came of a load.
type Result struct {
	Requests  int
	Status    map[int]int
	Errors    int            // requests without an answer
	Instances map[string]int // answers by instance
	Failures  []string       // the first that were not 2xx
	Latencies []time.Duration
	Dials     int
}

// Failed returns how many requests did not end with 2xx.
func (r Result) Failed() int {
	failed := r.Errors
	for status, n := range r.Status {
		if status < 200 || status > 299 {
			failed += n
		}
	}
	return failed
}

// Quantile returns the latency that a share q of the requests stayed below.
func (r Result) Quantile(q float64) time.Duration {
	if len(r.Latencies) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.Latencies))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// String is for messages.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests, %d failed, status %v, errors %d, served by %v, %d connections",
		r.Requests, r.Failed(), r.Status, r.Errors, r.Instances, r.Dials)
	for _, f := range r.Failures {
		b.WriteString("\n  " + f)
	}
	return b.String()
}

// Running is a load under way.
type Running struct {
	client *Client
	load   Load
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	sent   int
	result Result
}

// Start begins a load. It ends with ctx, after Requests, or at Stop; requests
// under way are then answered, not cut.
func (l Load) Start(ctx context.Context) *Running {
	if l.Concurrency == 0 {
		l.Concurrency = 4
	}
	if l.Timeout == 0 {
		l.Timeout = callTimeout
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Running{client: newClient(l.Addr, l.HTTP2), load: l, cancel: cancel, done: make(chan struct{})}
	r.reset()
	var workers sync.WaitGroup
	began := time.Now()
	for range l.Concurrency {
		workers.Go(func() {
			for r.next(ctx, began) {
				r.one(ctx)
			}
		})
	}
	go func() {
		workers.Wait()
		r.client.Close()
		close(r.done)
	}()
	return r
}

// Do runs a load with a number of requests to its end.
func (l Load) Do(ctx context.Context) Result {
	r := l.Start(ctx)
	<-r.done
	return r.Stop()
}

// next waits for the turn of the next request. It is false when there is none.
func (r *Running) next(ctx context.Context, began time.Time) bool {
	r.mu.Lock()
	n := r.sent
	if r.load.Requests > 0 && n >= r.load.Requests {
		r.mu.Unlock()
		return false
	}
	r.sent++
	r.mu.Unlock()
	if r.load.Rate == 0 {
		return ctx.Err() == nil
	}
	// An open loop: a slow answer does not put the later requests off, as long
	// as a worker is free.
	due := time.Until(began.Add(time.Duration(float64(n) / r.load.Rate * float64(time.Second))))
	if due <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(due):
		return true
	}
}

func (r *Running) one(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.load.Timeout)
	defer cancel()
	at := time.Now()
	resp, err := r.client.Do(ctx, r.load.Request)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Requests++
	r.result.Latencies = append(r.result.Latencies, resp.Took)
	failure := ""
	switch {
	case err != nil:
		r.result.Errors++
		failure = err.Error()
	default:
		r.result.Status[resp.Status]++
		if resp.Reply.Instance != "" {
			r.result.Instances[resp.Reply.Instance]++
		}
		if resp.Status < 200 || resp.Status > 299 {
			failure = resp.String()
		}
	}
	if failure != "" && len(r.result.Failures) < keptFailures {
		r.result.Failures = append(r.result.Failures, at.Format("15:04:05.000")+" "+failure)
	}
}

// Snapshot returns the result so far.
func (r *Running) Snapshot() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.copy()
}

// Take returns the result since the last Take, or since the start.
func (r *Running) Take() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.copy()
	r.reset()
	return out
}

func (r *Running) reset() {
	r.result = Result{Status: make(map[int]int), Instances: make(map[string]int)}
}

func (r *Running) copy() Result {
	out := r.result
	out.Status, out.Instances = maps.Clone(out.Status), maps.Clone(out.Instances)
	out.Failures, out.Latencies = slices.Clone(out.Failures), slices.Clone(out.Latencies)
	out.Dials = r.client.Dials()
	return out
}

// Stop ends the load and returns its result since the last Take.
func (r *Running) Stop() Result {
	r.cancel()
	<-r.done
	return r.Snapshot()
}
