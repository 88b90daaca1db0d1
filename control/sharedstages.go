package control

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"datapunk.dev/controlplane/replica"
	"datapunk.dev/controlplane/translate"
)

// sharedPatience is how long the leader waits for other replicas that do not say that
// their proxies have a stage. Each of them waits no longer than stagePatience itself, but
// for one that holds the mesh file of the stage: it is not waited for longer either.
const sharedPatience = 3 * stagePatience / 2

// sharedStages are the stages of a fleet that several replicas serve. The one that
// leads writes each step, when the proxies of all replicas have the last one; each
// serves what is written, and nothing else. While it cannot be read nothing moves.
type sharedStages struct {
	log *slog.Logger
	// write writes a step of what the view has, if this replica leads.
	write func(ctx context.Context, v *replica.View, next replica.Stages) error
	wake  func() // has the loop look
	said  func() // is told that there is something else to say to the others

	mu       sync.Mutex
	view     *replica.View // nil before the first
	answered bool          // it was asked for, with or without success
	epoch    uint64        // of the last stage that was seen, and when it was
	since    time.Time
	wanted   bool // the loop has said what follows
	target   int  // in stageWay: what the mesh file of this replica asks for
	at       int  // what it serves
	acked    uint64
}

// ready reports whether a first snapshot may be made: one that is made before it is
// known how far the fleet is may be ahead of it.
func (s *sharedStages) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered
}

// seen is told what the replicas share.
func (s *sharedStages) seen(v *replica.View) {
	s.mu.Lock()
	s.view = v
	s.answered = s.answered || v.Stages != nil || v.Answered()
	moved := v.Stages != nil && v.Stages.Epoch != s.epoch
	if moved {
		s.epoch, s.since = v.Stages.Epoch, time.Now()
	}
	s.mu.Unlock()
	s.wake()
}

// follow returns where the fleet is, of which nothing may be known, and is told what
// this replica wants and has.
func (s *sharedStages) follow(target int) (at int, epoch uint64, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted, s.target = true, target
	if s.view == nil || s.view.Stages == nil {
		return 0, s.epoch, false
	}
	at = s.view.Stages.At
	if at < 0 || at >= len(stageWay) {
		return 0, s.epoch, false // of a version that knows more of them
	}
	return at, s.view.Stages.Epoch, true
}

// serves is told what is served.
func (s *sharedStages) serves(at int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = at
}

// has is told that all proxies of this replica have the stage of the epoch, or have
// had their time.
func (s *sharedStages) has(epoch uint64) {
	s.mu.Lock()
	changed := s.acked != epoch
	s.acked = epoch
	s.mu.Unlock()
	if changed {
		s.said()
	}
}

// acknowledged is the epoch of the last stage that all proxies have.
func (s *sharedStages) acknowledged() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// lead takes one step, if this replica leads and there is one to take.
func (s *sharedStages) lead(ctx context.Context) {
	s.mu.Lock()
	v, next, due := s.view, replica.Stages{}, false
	if v != nil && v.Leads && v.Trouble == "" && s.wanted {
		next, due = s.next(v)
	}
	s.mu.Unlock()
	if !due {
		return
	}
	switch err := s.write(ctx, v, next); {
	case err == nil:
		s.log.Info("mTLS changes step by step, on all replicas", "step", next.At, "of", len(stageWay)-1, "epoch", next.Epoch)
	case !errors.Is(err, replica.ErrNotLeading):
		s.log.Warn("the next step of mTLS cannot be written: the fleet stays where it is", "err", err)
	}
}

func (s *sharedStages) next(v *replica.View) (replica.Stages, bool) {
	now := v.Stages
	switch {
	case now == nil:
		return replica.Stages{Epoch: s.epoch + 1, At: s.at}, true
	case now.At == s.target || now.Epoch != s.epoch || now.At < 0 || now.At >= len(stageWay):
		return replica.Stages{}, false
	case stageWay[now.At] != translate.Settled && s.acked != now.Epoch:
		return replica.Stages{}, false // the leader's own ends by itself once it is published
	case stageWay[now.At] != translate.Settled && !othersHave(v) && time.Since(s.since) < sharedPatience:
		return replica.Stages{}, false
	}
	step := 1
	if s.target < now.At {
		step = -1
	}
	return replica.Stages{Epoch: now.Epoch + 1, At: now.At + step}, true
}

// othersHave reports whether the proxies of every other replica have the stage.
func othersHave(v *replica.View) bool {
	for _, m := range v.Others() {
		if m.Stage != v.Stages.Epoch && !m.Draining {
			return false
		}
	}
	return true
}
