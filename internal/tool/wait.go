package tool

import (
	"context"
	"fmt"
	"time"
)

// pollInterval is how often a condition is looked at.
const pollInterval = 20 * time.Millisecond

// Until calls check until it returns nil. When ctx or the time is over first,
// the error says what was waited for and what check said last.
func Until(ctx context.Context, what string, timeout time.Duration, check func() error) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; last seen: %w", what, context.Cause(ctx), err)
		case <-deadline.C:
			return fmt.Errorf("%s: not within %s; last seen: %w", what, timeout, err)
		case <-tick.C:
		}
	}
}
