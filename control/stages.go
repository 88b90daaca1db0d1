package control

import (
	"log/slog"
	"time"

	"datapunk.dev/controlplane/translate"
)

const (
	// stagePoll is how often the fleet is looked at between two stages.
	stagePoll = 50 * time.Millisecond
	// stageCalm is for how long the whole fleet must have a stage. An Envoy
	// acknowledges a listener before it has asked for its certificate.
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
	log     *slog.Logger
	settled func() bool // whether every proxy has what was published

	begun     bool
	at        int // in stageWay
	since     time.Time
	calmSince time.Time // zero: not calm
}

func (s *stages) stage() translate.Stage { return stageWay[s.at] }

// advance goes on towards mTLS on or off, one step at most, if the fleet is
// where the last step left it. It reports whether it did.
func (s *stages) advance(on bool, now time.Time) bool {
	target := 0
	if on {
		target = len(stageWay) - 1
	}
	switch {
	case !s.begun: // of a fleet that is not connected yet, nothing is known
		s.begun, s.at = true, target
		return false
	case s.at == target:
		return false
	case s.stage() != translate.Settled && !s.over(now):
		return false
	case s.at < target:
		s.at++
	default:
		s.at--
	}
	s.since, s.calmSince = now, time.Time{}
	s.log.Info("mTLS changes step by step", "on", on, "step", s.at, "of", len(stageWay)-1)
	return true
}

// over reports whether the stage has had its time.
func (s *stages) over(now time.Time) bool {
	if now.Sub(s.since) >= stagePatience {
		s.log.Warn("mTLS changes though not every proxy has acknowledged the step before: calls to and from those may fail")
		return true
	}
	if !s.settled() {
		s.calmSince = time.Time{}
		return false
	}
	if s.calmSince.IsZero() {
		s.calmSince = now
	}
	return now.Sub(s.calmSince) >= stageCalm
}

// due tells when to look again; nil: nothing is under way.
func (s *stages) due() <-chan time.Time {
	if !s.begun || s.stage() == translate.Settled {
		return nil
	}
	return time.After(stagePoll)
}
