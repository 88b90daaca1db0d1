package replica

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/consul"
)

// start runs replicas at one Consul, in a bubble.
func start(t *testing.T, f *fakeKV, names ...string) []*one {
	t.Helper()
	all := make([]*one, 0, len(names))
	for _, name := range names {
		o := newOne(t, name, func(o *one) *consul.Client { return f.client(t, o.isCut) })
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { o.Run(ctx) })
		o.stop = func() { cancel(); done.Wait() }
		t.Cleanup(o.stop)
		all = append(all, o)
		time.Sleep(2 * beat) // the first leads
	}
	return all
}

func members(v *View) []string {
	names := make([]string, 0, len(v.Members))
	for _, m := range v.Members {
		names = append(names, m.Name)
	}
	return names
}

func leaders(all []*one) (names []string) {
	for _, o := range all {
		if o.View().Leads {
			names = append(names, o.self)
		}
	}
	return names
}

func wantLeader(t *testing.T, when string, all []*one, want string) {
	t.Helper()
	if got := leaders(all); !slices.Equal(got, []string{want}) {
		t.Errorf("%s: %v lead, want %s", when, got, want)
	}
	for _, o := range all {
		if v := o.View(); v.Trouble == "" && v.Leader != want {
			t.Errorf("%s: to %s %q leads, want %s", when, o.self, v.Leader, want)
		}
	}
}

func TestReplicasKnowOfEachOtherAndOneLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := start(t, newFakeKV(), "a", "b", "c")
		wantLeader(t, "at first", all, "a")
		for _, o := range all {
			if got := members(o.View()); !slices.Equal(got, []string{"a", "b", "c"}) || o.View().Trouble != "" {
				t.Errorf("%s knows %v, trouble %q", o.self, got, o.View().Trouble)
			}
		}
		all[1].be(func(m *Member) { m.Streams = 7 })
		time.Sleep(beat)
		if m := all[2].View().Member("b"); m == nil || m.Streams != 7 || m.Address != "b:18000" {
			t.Errorf("c knows of b %+v", m)
		}
	})
}

func TestNothingIsWrittenWhileNothingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeKV()
		start(t, f, "a", "b")
		before := f.written()
		time.Sleep(time.Hour)
		if n := f.written() - before; n != 0 {
			t.Errorf("%d writes in an hour in which nothing changed", n)
		}
	})
}

// One that ends gives its place up at once, one that is killed when its session is
// over.
func TestAnotherReplicaLeadsWhenTheLeaderIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := start(t, newFakeKV(), "a", "b", "c")
		all[0].stop()
		all[0].Release()
		time.Sleep(3 * beat)
		if len(leaders(all[1:])) != 1 || len(members(all[1].View())) != 2 {
			t.Errorf("after a release %v lead %v", leaders(all[1:]), members(all[1].View()))
		}
		killed := all[1:]
		if all[2].View().Leads {
			killed = []*one{all[2], all[1]}
		}
		killed[0].stop()
		time.Sleep(2*sessionTTL + 3*beat)
		wantLeader(t, "after a kill", killed[1:], killed[1].self)
	})
}

// One that drains tells the others, and lets another one lead before it has ended.
func TestALeaderThatDrainsLetsAnotherLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := start(t, newFakeKV(), "a", "b")
		wantLeader(t, "at first", all, "a")
		all[0].be(func(m *Member) { m.Draining = true })
		time.Sleep(4 * beat)
		wantLeader(t, "while it drains", all, "b")
		if m := all[1].View().Member("a"); m == nil || !m.Draining {
			t.Errorf("b knows of a %+v", m)
		}
	})
}

// A token that may not write the keys leaves a replica alone, which it says.
func TestWithoutTheRightToWriteAReplicaIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeKV()
		f.denied = true
		all := start(t, f, "a")
		if v := all[0].View(); v.Leads || !strings.Contains(v.Trouble, "Permission denied") {
			t.Errorf("%+v", v)
		}
		f.mu.Lock()
		f.denied = false
		f.mu.Unlock()
		time.Sleep(2*again + 2*beat)
		if v := all[0].View(); !v.Leads || v.Trouble != "" {
			t.Errorf("with the right: %+v", v)
		}
	})
}

// A session that could not be kept is not left behind: it would hold the replica's key.
func TestNoSessionIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeKV()
		all := start(t, f, "a")
		f.mu.Lock()
		f.keys["controlplane/datapunk/fleet/members/a"].Session = "s0" // somebody else has it
		f.sessions["s0"] = time.Now().Add(time.Hour)
		f.mu.Unlock()
		all[0].be(func(m *Member) { m.Streams = 1 })
		time.Sleep(10 * again)
		f.mu.Lock()
		defer f.mu.Unlock()
		if n := len(f.sessions); n > 2 {
			t.Errorf("%d sessions", n)
		}
	})
}

// A leader that was paused for a minute still believes that it leads when it goes
// on. What it writes is refused.
func TestALeaderThatWasPausedWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := start(t, newFakeKV(), "a", "b")
		old := all[0].View()
		if err := all[0].WriteStages(t.Context(), old, Stages{Epoch: 1, At: 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(beat)
		old = all[0].View()
		all[0].stop() // it does nothing for a minute, not even renew
		time.Sleep(time.Minute)
		wantLeader(t, "meanwhile", all[1:], "b")
		if err := all[1].WriteStages(t.Context(), all[1].View(), Stages{Epoch: 2, At: 2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(beat)
		if !old.Leads {
			t.Fatal("the paused one does not believe that it leads: the test shows nothing")
		}
		if err := all[0].WriteStages(t.Context(), old, Stages{Epoch: 2, At: 0}); !errors.Is(err, ErrNotLeading) {
			t.Errorf("the paused one's write: %v", err)
		}
		if s := all[1].View().Stages; s == nil || s.At != 2 || s.By != "b" {
			t.Errorf("stages: %+v", s)
		}
	})
}

// Nor does a leader write over what it has not seen.
func TestALeaderWritesOverWhatItHasSeenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := start(t, newFakeKV(), "a")
		old := all[0].View()
		if err := all[0].WriteStages(t.Context(), old, Stages{Epoch: 1}); err != nil {
			t.Fatal(err)
		}
		if err := all[0].WriteStages(t.Context(), old, Stages{Epoch: 1, At: 3}); !errors.Is(err, ErrNotLeading) {
			t.Errorf("the second write of one view: %v", err)
		}
	})
}

// Without Consul all is as it was last, nobody leads, and it says why.
func TestWithoutConsulWhatWasSharedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeKV()
		all := start(t, f, "a", "b")
		if err := all[0].WriteStages(t.Context(), all[0].View(), Stages{Epoch: 1, At: 2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(beat)
		f.setAway(true)
		time.Sleep(time.Minute)
		for _, o := range all {
			v := o.View()
			if v.Leads || v.Trouble == "" || v.Stages == nil || v.Stages.At != 2 || len(v.Members) != 2 {
				t.Errorf("%s: %+v", o.self, v)
			}
		}
		f.setAway(false)
		time.Sleep(time.Minute)
		if len(leaders(all)) != 1 || len(all[0].View().Members) != 2 {
			t.Errorf("when it is back %v lead %v", leaders(all), members(all[0].View()))
		}
		f.wipe()
		time.Sleep(time.Minute)
		if v := all[0].View(); len(leaders(all)) != 1 || len(v.Members) != 2 || v.Stages != nil || v.Trouble != "" {
			t.Errorf("of a Consul that was wiped %v lead, and a knows %+v", leaders(all), v)
		}
	})
}

// One that is cut off does not lead any more, before another one does.
func TestALeaderThatIsCutOffStepsDownFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := start(t, newFakeKV(), "a", "b")
		all[0].setCut(true)
		for range 60 {
			time.Sleep(time.Second)
			if n := leaders(all); len(n) > 1 {
				t.Fatalf("%v lead", n)
			}
		}
		wantLeader(t, "in the end", all, "b")
		all[0].setCut(false)
		time.Sleep(10 * time.Second)
		wantLeader(t, "when it is back", all, "b")
		if got := members(all[1].View()); len(got) != 2 {
			t.Errorf("b knows %v", got)
		}
	})
}
