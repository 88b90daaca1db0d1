package control

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

const (
	// convergenceTime is for how long a change is followed. A proxy that has not
	// answered by then counts as that long, and is a case for its status.
	convergenceTime = time.Minute
	// convergenceEvery is the least time between two changes of the catalog that are
	// followed: there may be a thousand a second, and each has streams look at it.
	convergenceEvery = time.Second
	// maxConvergences is how many changes are followed at once.
	maxConvergences = 4
)

// convergence measures how long changes of one kind take: from when they happened to
// when the last proxy that they concern has acknowledged them.
type convergence struct {
	// acked returns a channel that is closed when those proxies have; nil if the last
	// publication concerns none.
	acked    func(context.Context) <-chan struct{}
	observe  func(time.Duration)
	every    time.Duration // the least between two that are followed
	followed atomic.Int32
	last     time.Time // when the last one began to be; only the loop uses it
}

// published is told that a change was published, and when it happened; zero if that
// is not known.
func (c *convergence) published(ctx context.Context, happened time.Time) {
	if c == nil || happened.IsZero() || time.Since(c.last) < c.every || c.followed.Load() >= maxConvergences {
		return
	}
	ctx, stop := context.WithTimeout(ctx, convergenceTime)
	acked := c.acked(ctx)
	if acked == nil {
		stop()
		return
	}
	c.last = time.Now()
	c.followed.Add(1)
	go func() {
		defer c.followed.Add(-1)
		defer stop()
		select {
		case <-acked:
			c.observe(time.Since(happened))
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				c.observe(convergenceTime) // at least
			}
		}
	}()
}
