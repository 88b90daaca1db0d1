package control

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// convergenceTime is for how long a change of the catalog is followed. A proxy
// that has not answered by then counts as that long, and is a case for its status.
const convergenceTime = time.Minute

// convergenceEvery is the least time between two measurements.
const convergenceEvery = 5 * time.Second

// convergence measures how long changes of the catalog take, from when its source
// was told of one to when the last proxy has acknowledged it. It follows one
// change at a time, and one in a while: each has the whole fleet looked at once.
type convergence struct {
	acked   func(context.Context) <-chan struct{}
	observe func(time.Duration)
	busy    atomic.Bool
	last    time.Time // when the last measurement began; only the loop uses it
}

// published is told that a catalog was published, and when its source was told of
// it; zero if that is not known.
func (c *convergence) published(ctx context.Context, learned time.Time) {
	if c == nil || learned.IsZero() || time.Since(c.last) < convergenceEvery || c.busy.Swap(true) {
		return
	}
	c.last = time.Now()
	ctx, stop := context.WithTimeout(ctx, convergenceTime)
	acked := c.acked(ctx)
	go func() {
		defer c.busy.Store(false)
		defer stop()
		select {
		case <-acked:
			c.observe(time.Since(learned))
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				c.observe(convergenceTime) // at least
			}
		}
	}()
}
