package control

import (
	"context"
	"log/slog"
	"time"

	"datapunk.dev/controlplane/translate"
)

const (
	// stageCalm is how long after the whole fleet has a stage it is asked again. An
	// Envoy acknowledges a listener before it has asked for its certificate.
	stageCalm = 300 * time.Millisecond
	// stagePatience is how long a stage waits for proxies that do not
	// acknowledge it. The others need not stay on the way because of them.
	stagePatience = 20 * time.Second
)

// The way from mTLS off, its first place, to on, its last.
var stageWay = [...]translate.Stage{translate.Settled, translate.Listening, translate.Calling, translate.Settled}

// stages takes the fleet from mTLS off to on and back, so that no call between
// sidecars fails because one of the two has the edit before the other.
type stages struct {
	log *slog.Logger
	// acked returns a channel that is closed when every proxy has answered what is
	// published.
	acked func(context.Context) <-chan struct{}

	begun bool
	at    int // in stageWay

	// Of the stage that the fleet is at; nil where none is under way.
	isPublished chan struct{} // closed when it is
	over        chan bool     // its end: whether every proxy has it
}

func (s *stages) stage() translate.Stage { return stageWay[s.at] }

// advance goes on towards mTLS on or off, one step at most, if the fleet is
// where the last step left it. It reports whether it did.
func (s *stages) advance(ctx context.Context, on bool) bool {
	target := 0
	if on {
		target = len(stageWay) - 1
	}
	switch {
	case !s.begun: // of a fleet that is not connected yet, nothing is known
		s.begun, s.at = true, target
		return false
	case s.at == target || s.over != nil:
		return false
	case s.at < target:
		s.at++
	default:
		s.at--
	}
	s.log.Info("mTLS changes step by step", "on", on, "step", s.at, "of", len(stageWay)-1)
	if s.stage() != translate.Settled {
		s.begin(ctx)
	}
	return true
}

// begin has over say when the fleet has the stage, or has had its time.
func (s *stages) begin(ctx context.Context) {
	isPublished, over := make(chan struct{}), make(chan bool, 1)
	s.isPublished, s.over = isPublished, over
	go func() {
		ctx, cancel := context.WithTimeout(ctx, stagePatience)
		defer cancel()
		over <- within(ctx, isPublished) && within(ctx, s.acked(ctx)) && within(ctx, time.After(stageCalm)) && within(ctx, s.acked(ctx))
	}()
}

// published is told the stage of a snapshot that was handed on.
func (s *stages) published(stage translate.Stage) {
	if s.isPublished != nil && stage == s.stage() {
		close(s.isPublished)
		s.isPublished = nil
	}
}

// ended is told what over said.
func (s *stages) ended(acked bool) {
	s.isPublished, s.over = nil, nil
	if !acked {
		s.log.Warn("mTLS changes though not every proxy has acknowledged the step before: calls to and from those may fail")
	}
}

// within waits for a channel, and is false if ctx ends before that.
func within[T any](ctx context.Context, c <-chan T) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}
