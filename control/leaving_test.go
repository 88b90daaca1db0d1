package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/watch"
)

// leavingTest is a leaving whose catalogs are published when the test says.
type leavingTest struct {
	*leaving
	handed []*watch.Catalog
}

func newLeavingTest() *leavingTest {
	l := new(leavingTest)
	l.leaving = newLeaving(slog.New(slog.DiscardHandler), func(c *watch.Catalog) { l.handed = append(l.handed, c) })
	return l
}

func (l *leavingTest) newest() *watch.Catalog { return l.handed[len(l.handed)-1] }

func serviceAt(name string, health watch.Health, ports ...uint16) *watch.Service {
	s := &watch.Service{Name: name}
	for _, port := range ports {
		s.Instances = append(s.Instances, &watch.Instance{ID: name, Address: netip.MustParseAddr("10.0.0.1"), MeshPort: port, Health: health, Weight: 1})
	}
	return s
}

// wantAt compares the mesh ports of the instances that callers see.
func wantAt(t *testing.T, c *watch.Catalog, name string, want ...uint16) {
	t.Helper()
	var got []uint16
	if s := c.Service(name); s != nil {
		for _, i := range s.Instances {
			got = append(got, i.MeshPort)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s is at %v, want %v", name, got, want)
	}
}

func place(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port)
}

// now is a context that does not wait.
func now() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestAnInstanceThatLeavesIsNotCalledUntilItIsBack(t *testing.T) {
	l := newLeavingTest()
	base := watch.NewCatalog().Update([]*watch.Service{serviceAt("lake", watch.Passing, 1, 2), serviceAt("web", watch.Passing, 1)}, nil)
	l.SetCatalog(base)
	if l.newest() != base {
		t.Error("a catalog that nothing is laid over is another one")
	}
	if !l.Leave(now(), "lake-1", "lake", place(1)) {
		t.Fatal("it is not known")
	}
	wantAt(t, l.newest(), "lake", 2)
	wantAt(t, l.newest(), "web", 1)
	wantAt(t, base, "lake", 1, 2) // which others hold

	// What the catalog says meanwhile goes through, and its work stays in
	// proportion to the change.
	before := l.newest()
	l.SetCatalog(base.Update([]*watch.Service{serviceAt("web", watch.Critical, 1)}, nil))
	wantAt(t, l.newest(), "lake", 2)
	if h := l.newest().Service("web").Instances[0].Health; h != watch.Critical {
		t.Errorf("web is %v", h)
	}
	if changed, known := l.newest().ChangedSince(before); !known || len(changed) != 1 || changed[0] != "web" {
		t.Errorf("changed: %v, %v", changed, known)
	}
	if !l.Return("lake-1") || l.Return("lake-1") {
		t.Error("it returns once")
	}
	wantAt(t, l.newest(), "lake", 1, 2)
}

// TestTheLastToLeaveIsCalledToItsEnd: there is nobody else.
func TestTheLastToLeaveIsCalledToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeavingTest()
		all := serviceAt("lake", watch.Passing, 1, 2, 3)
		all.Instances = append(all.Instances, serviceAt("lake", watch.Critical, 4).Instances...)
		l.SetCatalog(watch.NewCatalog().Update([]*watch.Service{all}, nil))
		for n, want := range [][]uint16{{2, 3, 4}, {3, 4}, {3, 4}, {3}} {
			port := uint16(n + 1)
			l.Leave(now(), fmt.Sprintf("lake-%d", port), "lake", place(port))
			time.Sleep(time.Second)
			wantAt(t, l.newest(), "lake", want...)
		}
		if l.Stays("lake-1") || !l.Stays("lake-3") {
			t.Error("it is not lake-3 that stays")
		}
		l.Return("lake-1")
		wantAt(t, l.newest(), "lake", 1)
	})
}

func TestAMarkEndsWithTheInstance(t *testing.T) {
	l := newLeavingTest()
	base := watch.NewCatalog().Update([]*watch.Service{serviceAt("lake", watch.Passing, 1, 2)}, nil)
	l.SetCatalog(base)
	l.Leave(now(), "lake-1", "lake", place(1))
	gone := base.Update([]*watch.Service{serviceAt("lake", watch.Passing, 2)}, nil)
	l.SetCatalog(gone)
	if len(l.Marks()) != 0 {
		t.Errorf("marks %v", l.Marks())
	}
	l.SetCatalog(gone.Update([]*watch.Service{serviceAt("lake", watch.Passing, 1, 2)}, nil))
	wantAt(t, l.newest(), "lake", 1, 2)
}

func TestWhatTheCatalogDoesNotHaveDoesNotLeave(t *testing.T) {
	l := newLeavingTest()
	if l.Leave(now(), "lake-1", "lake", place(1)) {
		t.Error("before the first catalog")
	}
	l.SetCatalog(watch.NewCatalog().Update([]*watch.Service{serviceAt("lake", watch.Passing, 1)}, nil))
	for _, tt := range []struct {
		service string
		port    uint16
	}{{"lake", 2}, {"web", 1}} {
		if l.Leave(now(), "x", tt.service, place(tt.port)) {
			t.Errorf("%+v leaves", tt)
		}
	}
	if len(l.handed) != 1 {
		t.Errorf("%d catalogs were handed on", len(l.handed))
	}
}

// TestAnotherSourceKeepsTheMarks: also one whose catalog descends from nothing.
func TestAnotherSourceKeepsTheMarks(t *testing.T) {
	l := newLeavingTest()
	l.SetCatalog(watch.NewCatalog().Update([]*watch.Service{serviceAt("lake", watch.Passing, 1, 2), serviceAt("old", watch.Passing, 1)}, nil))
	l.Leave(now(), "lake-1", "lake", place(1))
	l.SetCatalog(watch.NewCatalog().Update([]*watch.Service{serviceAt("lake", watch.Passing, 1, 3), serviceAt("new", watch.Passing, 1)}, nil))
	wantAt(t, l.newest(), "lake", 3)
	wantAt(t, l.newest(), "new", 1)
	wantAt(t, l.newest(), "old")
}

func TestALeaveWaitsUntilItIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeavingTest()
		l.SetCatalog(watch.NewCatalog().Update([]*watch.Service{serviceAt("lake", watch.Passing, 1, 2)}, nil))
		first := l.newest()
		var left bool
		go func() { l.Leave(t.Context(), "lake-1", "lake", place(1)); left = true }()
		synctest.Wait()
		l.Published(first)
		synctest.Wait()
		if left {
			t.Fatal("before its catalog is published")
		}
		// One that came after it stands for it.
		l.SetCatalog(l.base.Update([]*watch.Service{serviceAt("web", watch.Passing, 1)}, nil))
		l.Published(l.newest())
		synctest.Wait()
		if !left {
			t.Fatal("it waits for ever")
		}
		// And again, which changes nothing, waits for nothing.
		if !l.Leave(t.Context(), "lake-1", "lake", place(1)) {
			t.Error("it is not known")
		}
	})
}
