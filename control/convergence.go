package control

import (
	"context"
	"sync/atomic"
	"time"
)

// convergenceTime is for how long a change of the catalog is followed. A proxy
// that has not answered by then is a case for its status and not for a histogram.
const convergenceTime = time.Minute

// convergence measures how long changes of the catalog take, from when its source
// was told of one to when the last proxy has acknowledged it. It follows one
// change at a time: what comes meanwhile is not measured, and costs nothing.
type convergence struct {
	acked   func(context.Context) <-chan struct{}
	observe func(time.Duration)
	busy    atomic.Bool
}

// published is told that a catalog was published, and when its source was told of
// it; zero if that is not known.
func (c *convergence) published(ctx context.Context, learned time.Time) {
	if c == nil || learned.IsZero() || c.busy.Swap(true) {
		return
	}
	ctx, stop := context.WithTimeout(ctx, convergenceTime)
	acked := c.acked(ctx)
	go func() {
		defer c.busy.Store(false)
		defer stop()
		select {
		case <-acked:
			c.observe(time.Since(learned))
		case <-ctx.Done():
		}
	}()
}
