package control

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
)

const (
	permissive = "mesh: {name: datapunk, security: {mtls: {mode: permissive}}}"
	strict     = "mesh: {name: datapunk}"
)

// staged is a loop with what it published.
type staged struct {
	*Loop
	t       *testing.T
	settled atomic.Bool

	mu     sync.Mutex
	stages []translate.Stage
}

func startStaged(t *testing.T, file string) *staged {
	t.Helper()
	s := &staged{t: t}
	s.settled.Store(true)
	s.Loop = NewLoop(slog.New(slog.DiscardHandler), func(next *translate.Snapshot) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stages = append(s.stages, next.Input.Stage)
	}, s.settled.Load)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s.SetCatalog(watch.NewCatalog())
	s.SetMesh(mesh(t, file))
	synctest.Wait()
	s.expect("at first", translate.Settled)
	return s
}

// expect checks what was published since it was last called.
func (s *staged) expect(when string, want ...translate.Stage) {
	s.t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.stages, want) {
		s.t.Errorf("%s: published stages %v, want %v", when, s.stages, want)
	}
	s.stages = nil
}

func (s *staged) edit(file string) {
	s.t.Helper()
	s.SetMesh(mesh(s.t, file))
	synctest.Wait()
}

func TestMTLSComesAndGoesInStages(t *testing.T) {
	for _, on := range []string{permissive, strict} {
		synctest.Test(t, func(t *testing.T) {
			s := startStaged(t, plain)
			s.edit(on)
			s.expect("at once", translate.Listening)
			time.Sleep(10 * stageCalm)
			s.expect("on", translate.Calling, translate.Settled)
			s.edit(plain)
			s.expect("at once", translate.Calling)
			time.Sleep(10 * stageCalm)
			s.expect("off", translate.Listening, translate.Settled)
			time.Sleep(time.Hour)
			s.expect("from then on")
		})
	}
}

func TestWhatIsNoChangeOfMTLSHasNoStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStaged(t, strict)
		for _, file := range []string{permissive, strict, strict + "\n"} {
			s.edit(file)
			s.expect("an edit", translate.Settled)
		}
	})
}

func TestNextStageWaitsForTheFleetButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStaged(t, plain)
		s.settled.Store(false)
		s.edit(strict)
		s.expect("at once", translate.Listening)
		time.Sleep(stagePatience - time.Second)
		s.expect("some have not acknowledged")
		s.settled.Store(true)
		time.Sleep(stageCalm / 2)
		s.expect("all have, a moment ago")
		s.settled.Store(false) // a new one, say
		time.Sleep(2 * stagePoll)
		s.settled.Store(true)
		time.Sleep(stageCalm / 2)
		s.expect("and again")
		time.Sleep(stageCalm)
		s.expect("for long enough", translate.Calling)
		s.settled.Store(false)
		time.Sleep(stagePatience + stagePoll)
		s.expect("some never will", translate.Settled)
	})
}

func TestStagesGoBackWhenTheEditDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStaged(t, plain)
		s.edit(strict)
		time.Sleep(2 * stageCalm)
		s.expect("under way", translate.Listening, translate.Calling)
		s.edit(plain)
		time.Sleep(10 * stageCalm)
		// The edit is translated at the stage where it finds the fleet.
		s.expect("and back", translate.Calling, translate.Listening, translate.Settled)
	})
}

func TestOtherInputIsNotHeldUpByAStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStaged(t, plain)
		s.settled.Store(false)
		s.edit(permissive)
		s.expect("at once", translate.Listening)
		s.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("a", 1000)}, nil))
		s.expect("the catalog", translate.Listening)
	})
}
