package register

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// checkedLake is a proxy whose application is checked.
func checkedLake() Proxy {
	p := lake(1)
	p.Checked = true
	return p
}

// reports has what stands beside an application report its health every second,
// until the test ends or stop is called.
func (r *replica) reports(n int, health func() Health) (stop func()) {
	done, began := make(chan struct{}), time.Now()
	go func() {
		for {
			r.Reported(Report{Node: lake(n).Node, Service: "lake", Health: health(), Began: began})
			select {
			case <-done:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return func() { close(done); synctest.Wait() }
}

func always(h Health) func() Health { return func() Health { return h } }

// app is what the catalog says of an application.
func (f *fakeCatalog) app(node string) Health {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.nodes[node]; s != nil {
		return s.app
	}
	return "not there"
}

func (f *fakeCatalog) wantApp(node string, want Health) {
	f.t.Helper()
	if got := f.app(node); got != want {
		f.t.Errorf("the application of %s is %q, want %q", node, got, want)
	}
}

// An application that is checked is critical until somebody has said that it is not.
// Each change is one write, and in between there is none.
func TestEachChangeOfAnApplicationIsOneWrite(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		var health atomic.Value
		health.Store(Passing)
		a.Connected(checkedLake())
		a.Connected(lake(2))
		after(time.Second)
		f.wantApp("mesh-lake-1", Critical)
		f.wantApp("mesh-lake-2", "")
		defer a.reports(1, func() Health { return health.Load().(Health) })()
		after(1500 * time.Millisecond)
		f.wantApp("mesh-lake-1", Passing)
		for _, next := range []Health{Critical, Warning, Passing} {
			before := f.written()
			health.Store(next)
			after(1100 * time.Millisecond)
			f.wantApp("mesh-lake-1", next)
			after(time.Minute)
			if got := f.written() - before; got != 1 {
				t.Errorf("%s: %d writes, want 1", next, got)
			}
		}
		a.want("lake-1", Held)
	})
}

// What is known when its entry is written stands in it from the start.
func TestAnApplicationThatIsKnownBeginsAsItIs(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		a.reaches(nobody)
		a.Connected(checkedLake())
		defer a.reports(1, always(Passing))()
		after(5 * time.Second)
		f.want()
		a.reaches(anyone)
		after(2100 * time.Millisecond)
		f.wantApp("mesh-lake-1", Passing)
		if got := f.written(); got != 1 {
			t.Errorf("%d writes, want 1", got)
		}
	})
}

// An Envoy's reports may go to another replica than its stream. Whoever gets them
// writes them, and the owner stays.
func TestReportsAtAnotherReplica(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a, b := f.start("a", Times{}), f.start("b", Times{})
		after(time.Second)
		stop := b.reports(1, always(Passing))
		after(time.Second)
		a.Connected(checkedLake())
		after(11 * time.Second)
		f.wantApp("mesh-lake-1", Passing)
		if owner := f.owner("mesh-lake-1"); owner != "a" {
			t.Errorf("the owner is %s", owner)
		}
		stop()

		// They move: what the next one has of it may be old.
		stop = a.reports(1, always(Critical))
		after(time.Second)
		f.wantApp("mesh-lake-1", Critical)
		stop()
		defer b.reports(1, always(Passing))()
		after(time.Second)
		f.wantApp("mesh-lake-1", Passing)
		written := f.written()
		after(time.Minute)
		if got := f.written(); got != written {
			t.Errorf("%d writes more", got-written)
		}
	})
}

// An edit that asks for a check takes nobody out before it was made; one that ends it
// removes what it said.
func TestAnEditOfTheCheckOfAnApplication(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		p := lake(1)
		a.Connected(p)
		after(time.Second)
		p.Checked = true
		a.Connected(p)
		after(time.Second)
		f.wantApp("mesh-lake-1", "")
		stop := a.reports(1, always(Critical))
		after(time.Second)
		f.wantApp("mesh-lake-1", Critical)
		p.Checked = false
		a.Connected(p)
		after(5 * time.Second)
		f.wantApp("mesh-lake-1", "")
		stop()
	})
}

// What is there is not touched while nobody says anything: replicas that start anew,
// and Envoys whose stream moves, are no change.
func TestAReplicaThatStartsLeavesApplicationsAsTheyAre(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		a.Connected(checkedLake())
		stop := a.reports(1, always(Warning))
		after(2 * time.Second)
		stop()
		a.die()
		b := f.start("b", Times{})
		b.Connected(checkedLake())
		after(time.Minute)
		f.wantApp("mesh-lake-1", Warning)
		if owner := f.owner("mesh-lake-1"); owner != "b" {
			t.Errorf("the owner is %s", owner)
		}
	})
}

// Reports of what is not registered, or is another's, write nothing.
func TestReportsOfWhatIsNotRegistered(t *testing.T) {
	run(t, func(t *testing.T, f *fakeCatalog) {
		a := f.start("a", Times{})
		f.others["mesh-lake-1"] = &stored{entry: entryOf(new(lake(1))), index: 1}
		defer a.reports(1, always(Critical))()
		defer a.reports(2, always(Critical))()
		after(time.Minute)
		if got := f.written(); got != 0 || !slices.Equal(f.ids("lake"), []string{"lake-1"}) {
			t.Errorf("%d writes: %v", got, f.ids("lake"))
		}
		if n := len(a.machine.reports); n != 2 {
			t.Errorf("%d reports are kept", n)
		}
	})
}
