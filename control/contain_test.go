package control

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// panicky is a loop whose translation panics when the input is bad.
func panicky(t *testing.T, bad func(in translate.Input) bool) (*Loop, *[]*translate.Snapshot, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	var got []*translate.Snapshot
	l := NewLoop(slog.New(slog.NewTextHandler(&log, nil)), func(s *translate.Snapshot, _ xds.Snapshot) { got = append(got, s) }, answered)
	l.translate = func(last *translate.Snapshot, in translate.Input) *translate.Snapshot {
		if bad(in) {
			panic("no such luck")
		}
		return translate.Translate(last, in)
	}
	run(t, l.Run)
	return l, &got, &log
}

func TestAMeshFileThatPanicsLeavesTheLastOneInForceAndTheCatalogGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, got, log := panicky(t, func(in translate.Input) bool { return in.Mesh.Version == "bad" })
		good := mesh(t, plain)
		catalog := watch.NewCatalog().Update([]*watch.Service{service("a", 1000)}, nil)
		l.SetMesh(good)
		l.SetCatalog(catalog)
		synctest.Wait()

		l.SetMesh(mesh(t, strings.Replace(plain, "name: datapunk", "name: datapunk, version: bad", 1)))
		synctest.Wait()
		status := l.Status()
		if status.Mesh != good || status.Failure == nil || status.Failure.Kept != "mesh file" || !strings.Contains(status.Failure.Cause, "no such luck") || status.Panics != 1 {
			t.Errorf("status %+v, failure %v", status, status.Failure)
		}
		for i := range uint16(100) {
			catalog = catalog.Update([]*watch.Service{service("a", 2000+i)}, nil)
			l.SetCatalog(catalog)
			synctest.Wait()
		}
		if last := (*got)[len(*got)-1]; last.Input.Catalog.Service("a").Instances[0].Port != 2099 || last.Input.Mesh != good {
			t.Error("the catalog does not go on")
		}
		if n := strings.Count(log.String(), "an input panics"); n != 1 {
			t.Errorf("said %d times", n)
		}
		time.Sleep(sayPanicAgain)
		l.SetCatalog(catalog.Update([]*watch.Service{service("a", 3000)}, nil))
		synctest.Wait()
		if behind := time.Since(l.Status().Behind); behind != sayPanicAgain {
			t.Errorf("the newest input has not been in force for %s, want %s", behind, sayPanicAgain)
		}
		if n := strings.Count(log.String(), "an input panics"); n != 2 {
			t.Errorf("said %d times, a while later", n)
		}

		next := mesh(t, plain+"\n")
		l.SetMesh(next)
		synctest.Wait()
		if status := l.Status(); status.Mesh != next || status.Failure != nil || !status.Behind.IsZero() {
			t.Errorf("the next file is not in force: %v, behind since %s", status.Failure, status.Behind)
		}
		if !strings.Contains(log.String(), "made of the newest input again") {
			t.Errorf("the end is not said:\n%s", log)
		}
	})
}

func TestACatalogThatPanicsHoldsUpNoMeshFileAndIsComparedWholeAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, got, _ := panicky(t, func(in translate.Input) bool { return in.Catalog.Service("bad") != nil })
		first := watch.NewCatalog().Update([]*watch.Service{service("a", 1000)}, nil)
		l.SetMesh(mesh(t, plain))
		l.SetFleet(resource.NewFleet(resource.Profile{Service: "web"}))
		l.SetCatalog(first)
		synctest.Wait()
		second := first.Update([]*watch.Service{service("bad", 1), service("b", 2000)}, nil)
		l.SetCatalog(second)
		synctest.Wait()
		edited := mesh(t, plain+"\n")
		l.SetMesh(edited)
		synctest.Wait()
		if s := l.Status(); s.Mesh != edited || s.Failure == nil || s.Failure.Kept != "catalog" || s.Snapshot.Input.Catalog != first {
			t.Errorf("failure %v", s.Failure)
		}
		l.SetCatalog(second.Update(nil, []string{"bad"}))
		synctest.Wait()
		last := (*got)[len(*got)-1]
		if l.Status().Failure != nil || !sees(last, resource.Profile{Service: "web"}, "b") {
			t.Errorf("what came with the bad one is not there: %v", l.Status().Failure)
		}
	})
}

func TestAProfileThatPanicsHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := resource.Profile{Service: "bad"}, resource.Profile{Service: "web"}
		l, _, _ := panicky(t, func(in translate.Input) bool {
			for p := range in.Fleet.Profiles() {
				if p == bad {
					return true
				}
			}
			return false
		})
		l.SetMesh(mesh(t, plain))
		l.SetFleet(resource.NewFleet(good))
		l.SetCatalog(watch.NewCatalog())
		synctest.Wait()
		l.SetFleet(resource.NewFleet(good, bad))
		l.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("a", 1000)}, nil))
		synctest.Wait()
		if s := l.Status(); s.Failure == nil || s.Failure.Kept != "fleet" || !sees(s.Snapshot, good, "a") {
			t.Errorf("failure %v", s.Failure)
		}
	})
}

func TestAFirstInputThatPanicsIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, got, _ := panicky(t, func(in translate.Input) bool { return in.Catalog.Len() == 0 })
		l.SetMesh(mesh(t, plain))
		l.SetCatalog(watch.NewCatalog())
		synctest.Wait()
		if s := l.Status(); len(*got) != 0 || s.Snapshot != nil || s.Failure == nil {
			t.Errorf("%d snapshots, failure %v", len(*got), s.Failure)
		}
		l.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("a", 1000)}, nil))
		synctest.Wait()
		if s := l.Status(); len(*got) != 1 || s.Failure != nil {
			t.Errorf("%d snapshots, failure %v", len(*got), s.Failure)
		}
	})
}

// After a publication that panicked nobody knows who has what.
func TestAPublicationThatPanicsIsMadeGoodByTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		var got *translate.Snapshot
		l := NewLoop(slog.New(slog.DiscardHandler), func(s *translate.Snapshot, _ xds.Snapshot) {
			if calls++; calls == 2 {
				panic("half way")
			}
			got = s
		}, answered)
		run(t, l.Run)
		a, b := resource.Profile{Service: "a"}, resource.Profile{Service: "b"}
		l.SetFleet(resource.NewFleet(a, b))
		l.SetMesh(mesh(t, plain))
		catalog := watch.NewCatalog().Update([]*watch.Service{service("a", 1000)}, nil)
		l.SetCatalog(catalog)
		synctest.Wait()
		l.SetCatalog(catalog.Update([]*watch.Service{service("a", 2000)}, nil))
		synctest.Wait()
		if s := l.Status(); s.Failure == nil || !strings.Contains(s.Failure.Cause, "half way") {
			t.Errorf("failure %v", s.Failure)
		}
		l.SetMesh(mesh(t, plain+"\n"))
		synctest.Wait()
		if l.Status().Failure != nil || len(got.ChangedViews) != 2 {
			t.Errorf("%d views are named, want both; failure %v", len(got.ChangedViews), l.Status().Failure)
		}
	})
}

// sees reports whether the proxies of a profile have a cluster of the name.
func sees(s *translate.Snapshot, p resource.Profile, cluster string) bool {
	scope := s.Scope(s.View(p).Scope)
	return scope.Sets.Get(resource.Cluster, cluster) != nil
}
