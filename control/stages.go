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
	// stagePatience is how long a stage that is published waits for proxies that do
	// not acknowledge it. The others need not stay on the way because of them.
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

	// shared is what the replicas of the fleet agree on; nil: this one is alone.
	shared *sharedStages

	begun bool
	at    int    // in stageWay
	epoch uint64 // of the shared stage that it is at

	// Of the stage that the fleet is at; nil where none is under way.
	isPublished chan struct{} // closed when it is
	over        chan bool     // its end: whether every proxy has it
	drop        func()        // has nobody wait for it any more
}

func (s *stages) stage() translate.Stage { return stageWay[s.at] }

// advance goes on towards mTLS on or off, one step at most, if the fleet is
// where the last step left it. It reports whether it did.
func (s *stages) advance(ctx context.Context, on bool) bool {
	target := 0
	if on {
		target = len(stageWay) - 1
	}
	if s.shared != nil {
		return s.follow(ctx, target)
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

// follow goes where the replicas are. A mesh file that is ahead of them, or behind,
// is served so that it fits both: sidecars take mTLS and plaintext.
func (s *stages) follow(ctx context.Context, target int) bool {
	at, epoch, known := s.shared.follow(target)
	begun := s.begun
	s.begun = true
	switch {
	case known:
	case !begun:
		at, epoch = target, s.epoch
	default:
		at, epoch = s.at, s.epoch
	}
	if target > 0 {
		at = max(at, 1)
	} else {
		at = min(at, len(stageWay)-2)
	}
	defer s.shared.serves(at)
	if begun && at == s.at && epoch == s.epoch {
		return false
	}
	moved, served := at != s.at || !begun, s.isPublished == nil
	s.at, s.epoch = at, epoch
	s.end()
	if moved && begun {
		s.log.Info("mTLS changes step by step", "on", target > 0, "step", s.at, "of", len(stageWay)-1, "epoch", epoch)
	}
	if s.stage() == translate.Settled {
		s.shared.has(epoch) // nothing waits for it
		return moved
	}
	s.begin(ctx)
	if !moved && served {
		s.published(s.stage())
		return false
	}
	return true
}

// begin has over say when the fleet has the stage, or has had its time. That begins when
// the stage is published: the mesh file that it goes with may be held.
func (s *stages) begin(ctx context.Context) {
	isPublished, over := make(chan struct{}), make(chan bool, 1)
	ctx, s.drop = context.WithCancel(ctx)
	s.isPublished, s.over = isPublished, over
	go func() {
		if !within(ctx, isPublished) {
			return
		}
		patient, cancel := context.WithTimeout(ctx, stagePatience)
		defer cancel()
		acked := within(patient, s.acked(patient)) && within(patient, time.After(stageCalm)) && within(patient, s.acked(patient))
		if ctx.Err() == nil {
			over <- acked
		}
	}()
}

// end forgets the stage that is under way, if one is.
func (s *stages) end() {
	if s.drop != nil {
		s.drop()
	}
	s.isPublished, s.over, s.drop = nil, nil, nil
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
	s.end()
	if s.shared != nil {
		s.shared.has(s.epoch)
	}
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
