package register

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"datapunk.dev/controlplane/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func nobody(netip.AddrPort) reach  { return refused }
func nothing(netip.AddrPort) reach { return silent }
func anyone(netip.AddrPort) reach  { return answered }

// run runs a test on a catalog, in a time of its own.
func run(t *testing.T, test func(t *testing.T, f *fakeCatalog)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newFakeCatalog(t)) })
}

// A proxy is in the catalog once its port answers, and not before.
func TestAProxyIsRegisteredOnceItsPortAnswers(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		a.reaches(nobody)
		a.Connected(lake(1))
		after(5 * time.Second)
		f.want()
		a.want("lake-1", New)
		if reason := a.state("lake-1").Reason; !strings.Contains(reason, "10.0.0.1:20000 does not answer") {
			t.Errorf("the reason is %q", reason)
		}
		a.reaches(anyone)
		after(2100 * time.Millisecond)
		f.want("lake-1")
		a.want("lake-1", Held)
		if got := a.state("lake-1"); got.Owner != "a" || got.Since.IsZero() {
			t.Errorf("%+v", got)
		}
	})
}

// A port that opens while it is dialed is found within a quarter of the time that it took.
func TestAPortThatOpensIsFoundSoon(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		after(time.Second)
		opens := time.Now().Add(300 * time.Millisecond)
		a.reaches(func(netip.AddrPort) reach {
			if time.Now().Before(opens) {
				return refused
			}
			return answered
		})
		a.Connected(lake(1))
		after(380 * time.Millisecond)
		f.want("lake-1")
	})
}

// In the steady state nothing is written, however often it is compared.
func TestNothingIsWrittenWhileNothingChanges(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		for n := range 100 {
			a.Connected(lake(n))
		}
		after(time.Second)
		written := f.written()
		for n := range 100 { // as an edit of the mesh file does
			p := lake(n)
			a.Connected(p)
		}
		after(time.Hour)
		if got := f.written(); got != written || got != 100 {
			t.Errorf("%d writes, want %d and 100", got, written)
		}
	})
}

// What somebody changes or removes is put right at the next comparison.
func TestADriftIsPutRight(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{Interval: 5 * time.Second})
		a.Connected(lake(1))
		a.Connected(lake(2))
		after(time.Second)
		f.mu.Lock()
		delete(f.nodes, "mesh-lake-1")
		drifted := *f.nodes["mesh-lake-2"]
		f.index++
		drifted.port, drifted.index = 1, f.index
		f.nodes["mesh-lake-2"] = &drifted
		f.mu.Unlock()
		after(6 * time.Second)
		f.want("lake-1", "lake-2")
		if got := f.nodes["mesh-lake-2"].port; got != 8080 {
			t.Errorf("port %d", got)
		}
	})
}

// A dead proxy takes no new calls after half of the time, at most 15 s and what three
// dials take, and is gone when all of it has passed.
func TestADeadProxyIsDrainedAndThenRemoved(t *testing.T) {
	for _, c := range []struct{ after, drained, gone time.Duration }{
		{0, 17 * time.Second, 30 * time.Second},
		{time.Second, 700 * time.Millisecond, time.Second},
		{4 * time.Second, 2800 * time.Millisecond, 4 * time.Second},
		{10 * time.Minute, 17 * time.Second, 10 * time.Minute},
	} {
		t.Run(c.after.String(), func(t *testing.T) {
			run(t, func(t *testing.T, f *fakeCatalog) {
				a := f.start("a", Times{After: c.after})
				a.Connected(lake(1))
				a.Connected(lake(2))
				after(time.Second)
				a.reaches(nobody)
				a.Gone("lake-1")
				after(c.drained - 300*time.Millisecond)
				f.want("lake-1", "lake-2")
				after(350 * time.Millisecond)
				f.want("(lake-1)", "lake-2")
				a.want("lake-1", Drain)
				after(c.gone - c.drained - 150*time.Millisecond)
				f.want("(lake-1)", "lake-2")
				after(200 * time.Millisecond)
				f.want("lake-2")
				after(time.Second)
				if f.nodes["mesh-lake-1"] != nil {
					t.Error("its node is there")
				}
				a.want("lake-1", "none")
			})
		})
	}
}

// One that comes back, to this replica or another, has never been away.
func TestAProxyThatComesBackIsNotTouched(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a, b := f.start("a", Times{}), f.start("b", Times{})
		p := lake(1)
		a.Connected(p)
		after(time.Second)
		a.Gone("lake-1")
		after(5 * time.Second)
		a.Connected(p)
		after(time.Minute)
		if f.written() != 1 {
			t.Errorf("%d writes", f.written())
		}
		a.Gone("lake-1")
		after(time.Second)
		b.Connected(p)
		after(time.Minute)
		if f.written() != 2 || f.owner("mesh-lake-1") != "b" {
			t.Errorf("%d writes, its owner is %s", f.written(), f.owner("mesh-lake-1"))
		}
		a.want("lake-1", Held) // b's
		if slices.ContainsFunc(f.history, func(ids string) bool { return ids != "[lake-1]" }) {
			t.Errorf("a watcher saw %v", f.history)
		}
	})
}

// One whose port answers though no replica has its stream lives: it stays, and is shown.
func TestALostProxyWhosePortAnswersStays(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		a.Connected(lake(1))
		after(time.Second)
		a.Gone("lake-1")
		after(time.Hour)
		f.want("lake-1")
		a.want("lake-1", Unclaimed)
		if s := a.Status(); s.States[Unclaimed] != 1 {
			t.Errorf("%+v", s)
		}
		a.reaches(nobody)
		after(time.Minute)
		f.want()
	})
}

// A replica that is killed leaves 1,000 proxies, which come to another one within
// seconds. At no moment one is absent, there twice, or in maintenance.
func TestAKilledReplicaIsNoticedByNobody(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a, b := f.start("a", Times{}), f.start("b", Times{})
		const n = 1000
		for i := range n {
			a.Connected(lake(i))
		}
		after(5 * time.Second)
		all := f.ids("lake")
		f.history = nil
		a.die()
		b.reaches(func(at netip.AddrPort) reach {
			if at == lakeAt(n-1) || at == lakeAt(n-2) {
				return refused // these two died with it
			}
			return answered
		})
		for i := range n - 2 {
			after(5 * time.Millisecond)
			b.Connected(lake(i))
		}
		after(10 * time.Second)
		for _, seen := range f.history {
			if seen != fmt.Sprint(all) {
				t.Fatalf("a watcher saw %d of %d instances, or others", len(strings.Fields(seen)), len(all))
			}
		}
		after(time.Minute)
		if got := f.ids("lake"); len(got) != n-2 {
			t.Errorf("%d instances, want those that live, %d", len(got), n-2)
		}
	})
}

func lakeAt(n int) netip.AddrPort { p := lake(n); return p.at() }

// A replica that Consul does not hear from writes nothing, whatever it finds, and the
// others remove nobody whose port answers.
func TestAReplicaThatIsCutOffFromConsulRemovesNobody(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		b := f.start("b", Times{})
		for i := range 10 {
			a.Connected(lake(i))
		}
		after(time.Second)
		all := f.ids("lake")
		f.mu.Lock()
		f.cut["a"] = true
		f.mu.Unlock()
		after(30 * time.Second) // b leads now
		a.reaches(nobody)
		for i := range 5 {
			a.Gone(fmt.Sprintf("lake-%d", i))
		}
		after(10 * time.Minute)
		f.want(all...)
		if s := a.Status(); len(s.Trouble) == 0 {
			t.Error("its status says nothing")
		}
		if s := b.Status(); !s.Sweeper || s.States[Unclaimed] != 10 {
			t.Errorf("%+v", s)
		}
		f.mu.Lock()
		f.cut["a"] = false
		f.mu.Unlock()
		a.reaches(anyone)
		after(time.Minute)
		f.want(all...)
		if s := a.Status(); len(s.Trouble) > 0 || s.States[Held] != 5 {
			t.Errorf("%+v", s)
		}
	})
}

// A replica whose own network is gone finds all its proxies dead. It believes that of
// few, and of those whose host says so.
func TestManyThatAreSilentAtOnceStay(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		for i := range 20 {
			a.Connected(lake(i))
		}
		after(time.Second)
		a.reaches(func(at netip.AddrPort) reach {
			if at == lakeAt(0) {
				return refused
			}
			return silent
		})
		for i := range 20 {
			a.Gone(fmt.Sprintf("lake-%d", i))
		}
		after(10 * time.Minute)
		if got := f.ids("lake"); len(got) != 19 {
			t.Errorf("%v stay, want all but lake-0, whose host refuses", got)
		}
		if s := a.Status(); s.Held != 19 {
			t.Errorf("%+v", s)
		}
		if r := a.state("lake-7").Reason; !strings.Contains(r, "19 of the 19 instances of lake do not answer") {
			t.Errorf("%s", r)
		}
		for i := range 20 {
			a.Connected(lake(i))
		}
		a.reaches(anyone)
		after(time.Minute)
		if got := f.ids("lake"); len(got) != 20 || a.Status().Held != 0 {
			t.Errorf("%v, %+v", got, a.Status())
		}
	})
}

// One of several may go without a word; and many may be gone in truth, as a replica
// knows that is in touch with more than those.
func TestSilentOnesAreBelievedInTheEnd(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		for i := range 20 {
			a.Connected(lake(i))
		}
		after(time.Second)
		a.reaches(nothing)
		a.Gone("lake-0")
		after(31 * time.Second)
		if got := f.ids("lake"); len(got) != 19 {
			t.Errorf("%v after one has died", got)
		}
		after(2 * time.Minute)
		for i := range 8 {
			a.Gone(fmt.Sprintf("lake-%d", i+1))
		}
		after(4 * time.Minute)
		if got := f.ids("lake"); len(got) != 19 {
			t.Errorf("%v while eight are doubted", got)
		}
		after(2 * time.Minute)
		if got := f.ids("lake"); len(got) != 11 {
			t.Errorf("%v after eight have died", got)
		}
	})
}

// What others made is never written, neither a node of the name nor an instance at the
// same place; it is shown, and when it is gone the proxy is registered.
func TestWhatOthersMadeIsNotTouched(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		p1, p2 := lake(1), lake(2)
		e1, e2 := entryOf(&p1), entryOf(&p2)
		e1.service = "another"
		f.others["mesh-lake-1"] = &stored{entry: e1, index: 1} // somebody's node of that name
		e2.node, e2.id = "host-7", "by-hand"
		f.others["host-7"] = &stored{entry: e2, index: 2}
		a.Connected(p1)
		a.Connected(p2)
		after(time.Minute)
		f.want("by-hand")
		for id, why := range map[string]string{"lake-1": "the node mesh-lake-1 is not ours", "lake-2": "registered by others: by-hand on node host-7"} {
			a.want(id, Foreign)
			if got := a.state(id).Reason; got != why {
				t.Errorf("%s: %q, want %q", id, got, why)
			}
		}
		if f.written() != 0 {
			t.Errorf("%d writes", f.written())
		}
		f.mu.Lock()
		clear(f.others)
		f.index++
		f.mu.Unlock()
		a.Changed(map[string]*watch.Service{"lake": {Name: "lake"}})
		after(12 * time.Second)
		f.want("lake-1", "lake-2")
	})
}

// Who registers by hand what is registered already has the last word.
func TestARegistrationByHandReplacesOurs(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		p := lake(1)
		a.Connected(p)
		after(time.Second)
		e := entryOf(&p)
		e.node, e.id = "host-7", "by-hand"
		f.mu.Lock()
		f.index++
		f.others["host-7"] = &stored{entry: e, index: f.index}
		f.mu.Unlock()
		after(15 * time.Second)
		f.want("by-hand")
		a.want("lake-1", Foreign)
	})
}

// What a dead replica left is taken out by the one that sweeps, also if that has
// started after all of it.
func TestWhatADeadReplicaLeftIsSwept(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		for i := range 10 {
			a.Connected(lake(i))
		}
		after(time.Second)
		a.die()
		after(time.Minute) // nobody is there
		if got := f.ids("lake"); len(got) != 10 {
			t.Errorf("%v while all control planes are down", got)
		}
		b := f.start("b", Times{})
		b.reaches(nobody)
		after(14 * time.Second)
		if got := f.ids("lake"); len(got) != 10 {
			t.Errorf("%v while the proxies may be on their way", got)
		}
		for i := range 5 {
			b.reaches(func(at netip.AddrPort) reach {
				if at.Addr().As4()[3] < 5 {
					return answered
				}
				return refused
			})
			b.Connected(lake(i))
		}
		after(time.Minute)
		f.want("lake-0", "lake-1", "lake-2", "lake-3", "lake-4")
	})
}

// One that says that it leaves is out of the rotation at once, and out of the catalog
// with its stream. If it comes back it is back.
func TestAnOrderlyLeave(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		p := lake(1)
		a.Connected(p)
		a.Connected(lake(2))
		after(time.Second)
		if !a.Leave("lake-1", false) || a.Leave("lake-9", false) {
			t.Error("whether there is such a proxy")
		}
		after(10 * time.Millisecond)
		f.want("(lake-1)", "lake-2")
		a.Connected(p) // an edit of the mesh file: it has not come back
		after(5 * time.Second)
		f.want("(lake-1)", "lake-2")
		a.Gone("lake-1")
		after(100 * time.Millisecond)
		f.want("lake-2")
		again := lake(1)
		a.Connected(again)
		after(100 * time.Millisecond)
		f.want("lake-1", "lake-2")

		a.Leave("lake-1", false)
		after(29 * time.Second)
		f.want("(lake-1)", "lake-2")
		after(2 * time.Second) // its stream goes on: that is its own affair
		f.want("lake-2")
	})
}

// The last that can be called stays as it is until its stream ends, however long that
// takes, and is then out of the catalog at once. It goes sooner if another comes.
func TestTheLastStaysUntilItHasEnded(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		a.Connected(lake(1))
		after(time.Second)
		a.Leave("lake-1", true)
		after(time.Hour)
		f.want("lake-1")
		a.want("lake-1", Held)
		if reason := a.state("lake-1").Reason; !strings.Contains(reason, "it leaves") {
			t.Errorf("the reason is %q", reason)
		}
		a.Gone("lake-1")
		after(100 * time.Millisecond)
		f.want()

		a.Connected(lake(1))
		after(time.Second)
		a.Leave("lake-1", true)
		a.Connected(lake(2))
		after(time.Second)
		a.Leave("lake-1", false) // it says so again
		after(100 * time.Millisecond)
		f.want("(lake-1)", "lake-2")
	})
}

// An edit of deregister_critical_service_after holds for those that are lost already.
func TestAnEditOfTheTimesHoldsAtOnce(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{After: time.Hour})
		a.Connected(lake(1))
		after(time.Second)
		a.reaches(nobody)
		a.Gone("lake-1")
		after(time.Minute)
		f.want("(lake-1)")
		a.SetTimes(Times{After: 90 * time.Second})
		after(20 * time.Second)
		f.want("(lake-1)")
		after(11 * time.Second)
		f.want()
	})
}

// Without Consul nothing is lost: what came meanwhile is registered when it is back.
func TestConsulAway(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		a.Connected(lake(1))
		after(time.Second)
		f.mu.Lock()
		f.away = true
		f.mu.Unlock()
		a.Connected(lake(2))
		after(time.Minute)
		f.want("lake-1")
		a.want("lake-1", Held)
		a.want("lake-2", Claim)
		f.mu.Lock()
		f.away = false
		clear(f.nodes) // and everything is wiped
		clear(f.alive)
		f.mu.Unlock()
		after(5 * time.Second)
		f.want("lake-1", "lake-2")
	})
}

// A write whose answer is lost is found by reading what there is.
func TestAWriteWithoutAnAnswer(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		after(time.Second)
		f.mu.Lock()
		f.forgets = true
		f.mu.Unlock()
		a.Connected(lake(1))
		after(500 * time.Millisecond)
		a.want("lake-1", Claim)
		f.mu.Lock()
		f.forgets = false
		f.mu.Unlock()
		after(2 * time.Second)
		a.want("lake-1", Held)
		f.want("lake-1")
		if f.written() != 1 {
			t.Errorf("%d writes", f.written())
		}
	})
}

// What the token may not write is shown, and holds up nobody else.
func TestATokenThatMayNot(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		f.deny["secret"] = true
		p := lake(1)
		p.Service = "secret"
		a.Connected(p)
		a.Connected(lake(2))
		after(time.Second)
		f.want("lake-2")
		a.want("lake-1", Claim)
		if r := a.state("lake-1").Reason; r != "Permission denied" {
			t.Errorf("%q", r)
		}
		f.mu.Lock()
		f.deny["secret"] = false
		f.mu.Unlock()
		after(11 * time.Second)
		a.want("lake-1", Held)
	})
}

// A proxy that restarts somewhere else, or under another service, is one entry.
func TestAProxyThatMoves(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		p := lake(1)
		a.Connected(p)
		after(time.Second)
		a.Gone("lake-1")
		p.Address, p.Since = netip.MustParseAddr("10.9.9.9"), time.Now()
		a.Connected(p)
		after(time.Second)
		f.want("lake-1")
		if got := f.nodes["mesh-lake-1"].address; got != "10.9.9.9" {
			t.Errorf("address %s", got)
		}
		p.Service = "pond" // consul_service was edited
		a.Connected(p)
		after(time.Second)
		f.want()
		if got := f.ids("pond"); !slices.Equal(got, []string{"lake-1"}) {
			t.Errorf("pond has %v", got)
		}
	})
}

// Consul ignores the case of names, and takes other letters for no harm's sake.
func TestNodeNames(t *testing.T) {
	seen := make(map[string]string)
	for _, id := range []string{"px-a", "px-A", "PX-A", "a.b", "a_b", "a/b", strings.Repeat("x", 300), strings.Repeat("x", 301)} {
		name := nodeName(id)
		if before, ok := seen[strings.ToLower(name)]; ok {
			t.Errorf("%.20q and %.20q are both %s", id, before, name)
		}
		if seen[strings.ToLower(name)] = id; len(name) > 128 || strings.ToLower(name) != name {
			t.Errorf("%s", name)
		}
	}
}

// A replica is in the catalog itself, with what it says of its readiness, and takes
// itself out when it ends; killed, it is swept like a proxy.
func TestAReplicaRegistersItself(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		me := func(id string, h Health) []Instance {
			return []Instance{{ID: id, Service: "lake", Address: "10.1.1.1", Port: 18000, Health: h}}
		}
		a, b := f.start("a", Times{}), f.start("b", Times{})
		a.Keep(me("a", Critical), nil)
		b.Keep(me("b", Passing), nil)
		after(time.Second)
		f.want("a", "b")
		if h := f.nodes["mesh-a"].health; h != Critical {
			t.Errorf("a is %s", h)
		}
		a.Keep(me("a", Passing), nil)
		after(time.Second)
		if h := f.nodes["mesh-a"].health; h != Passing {
			t.Errorf("a is %s", h)
		}
		b.Keep(nil, nil) // an edit: it is wanted no more
		after(time.Second)
		f.want("a")
		b.Keep(me("b", Passing), nil)
		after(time.Second)
		f.want("a", "b")
		a.stop()
		a.Release(t.Context())
		f.want("b")
		if f.nodes["mesh-a"] != nil {
			t.Error("its node is there")
		}
		b.die()
		c := f.start("c", Times{})
		c.reaches(nobody)
		after(2 * time.Minute)
		f.want()
	})
}

// What the mesh file registers is looked after by one replica, and by the next if that
// is gone.
func TestWhatTheFileRegisters(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		shared := []Instance{{ID: "db-1", Service: "lake", Address: "10.2.2.2", Port: 5432, Health: Passing}}
		a := f.start("a", Times{})
		after(2 * time.Second)
		b := f.start("b", Times{})
		a.Keep(nil, shared)
		b.Keep(nil, shared)
		after(time.Second)
		f.want("db-1")
		if f.written() != 1 || f.owner("mesh-db-1") != "a" {
			t.Errorf("%d writes, its owner is %s", f.written(), f.owner("mesh-db-1"))
		}
		a.die()
		after(time.Minute)
		f.want("db-1")
		if f.owner("mesh-db-1") != "b" || slices.ContainsFunc(f.history, func(ids string) bool { return ids != "[db-1]" }) {
			t.Errorf("its owner is %s, a watcher saw %v", f.owner("mesh-db-1"), f.history)
		}
		b.Keep(nil, nil)
		after(time.Second)
		f.want()
	})
}
