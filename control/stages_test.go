package control

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

const (
	permissive = "mesh: {name: datapunk, security: {mtls: {mode: permissive}}}"
	strict     = "mesh: {name: datapunk}"
	silent     = true
)

// staged is a loop with what it published.
type staged struct {
	*Loop
	t     *testing.T
	fleet fleet

	mu        sync.Mutex
	published []translate.Stage
}

// fleet is proxies that answer at once, or not while they are silent.
type fleet struct {
	mu     sync.Mutex
	silent bool
	asked  []chan struct{} // meanwhile
}

func (f *fleet) acked(context.Context) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{})
	if f.silent {
		f.asked = append(f.asked, c)
	} else {
		close(c)
	}
	return c
}

func (f *fleet) be(silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent = silent
	if !silent {
		for _, c := range f.asked {
			close(c)
		}
		f.asked = nil
	}
}

func startStaged(t *testing.T, file string) *staged {
	t.Helper()
	s := &staged{t: t}
	s.Loop = NewLoop(slog.New(slog.DiscardHandler), func(next *translate.Snapshot, _ xds.Snapshot) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.published = append(s.published, next.Input.Stage)
	}, s.fleet.acked)
	run(t, s.Run)
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
	if !slices.Equal(s.published, want) {
		s.t.Errorf("%s: published stages %v, want %v", when, s.published, want)
	}
	s.published = nil
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
		s.fleet.be(silent)
		s.edit(strict)
		s.expect("at once", translate.Listening)
		time.Sleep(stagePatience / 2)
		s.expect("some have not acknowledged")
		s.fleet.be(!silent)
		time.Sleep(stageCalm / 2)
		s.expect("all have, a moment ago")
		s.fleet.be(silent) // they have asked for certificates
		time.Sleep(10 * stageCalm)
		s.expect("and have not all of them")
		s.fleet.be(!silent)
		s.expect("now they have", translate.Calling)
		s.fleet.be(silent)
		time.Sleep(stagePatience)
		s.expect("some never will", translate.Settled)
	})
}

func TestStagesGoBackWhenTheEditDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStaged(t, plain)
		s.edit(strict)
		time.Sleep(3 * stageCalm / 2)
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
		s.fleet.be(silent)
		s.edit(permissive)
		s.expect("at once", translate.Listening)
		s.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("a", 1000)}, nil))
		s.expect("the catalog", translate.Listening)
	})
}
