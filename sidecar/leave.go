package sidecar

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"datapunk.dev/controlplane/sidecar/api"
)

// leave has an Envoy end without a failed request: first nobody calls it any
// more, then what is under way ends, then it ends. It takes as long as the
// control planes and DrainTime allow.
func (p *Proxy) leave(e *envoy, forGood bool) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime+p.DrainTime+callTime)
	defer cancel()
	p.sayLeave(ctx)
	if !e.running() {
		return
	}
	told := time.Now()
	if err := p.admin.drain(ctx); err != nil {
		p.Log.Warn("Envoy was not told to drain", "err", err)
	}
	left := p.awaitQuiet(ctx, e)
	if left > 0 {
		p.Log.Warn("requests are still under way, and are cut", "requests", left, "drain_time", p.DrainTime)
	}
	e.stop()
	p.Log.Info("the proxy has left", "for_good", forGood, "told_in", told.Sub(began).Round(time.Millisecond), "drained_in", time.Since(told).Round(time.Millisecond))
}

// sayLeave returns when nobody calls the place any more, as far as the control
// planes know.
func (p *Proxy) sayLeave(ctx context.Context) {
	var mu sync.Mutex
	known, waiting := false, 0
	err := p.asNode(ctx, leaveTime, p.planes.each, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		left, err := api.Leave(ctx, conn, &p.place)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		known = known || left.Known
		if left.Known && !left.Acknowledged {
			waiting++
		}
		return nil
	})
	switch {
	case err != nil:
		p.Log.Warn("not every control plane was told that this proxy leaves", "err", err)
	case !known:
		p.Log.Info("the catalog does not have this proxy: nobody calls it")
	case waiting > 0:
		p.Log.Warn("not every caller has acknowledged that this proxy leaves")
	}
}

// awaitQuiet waits until nothing was under way for a moment, or DrainTime is
// over. It returns what still is.
func (p *Proxy) awaitQuiet(ctx context.Context, e *envoy) (left int) {
	deadline := time.Now().Add(p.DrainTime)
	quiet, said := time.Now(), time.Now()
	again := make(chan struct{}, 1)
	again <- struct{}{}
	saying, stop := context.WithCancel(ctx)
	defer func() { stop(); <-again }() // what is said is said before the next Envoy is there
	for time.Now().Before(deadline) && e.running() {
		n, err := p.admin.busy(ctx)
		if err != nil {
			p.Log.Warn("Envoy does not say what is under way", "err", err)
		}
		if left = n; n > 0 || err != nil {
			quiet = time.Now()
		}
		if time.Since(quiet) >= settleTime {
			return 0
		}
		if time.Since(said) >= againTime {
			said = time.Now()
			select {
			case <-again:
				go func() { p.sayLeave(saying); again <- struct{}{} }()
			default: // it is being said
			}
		}
		select {
		case <-ctx.Done():
			return left
		case <-e.done:
			return 0
		case <-time.After(pollTime):
		}
	}
	return left
}
