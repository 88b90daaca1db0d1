package register

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/watch"
)

// localLake is a catalog in a file, which is empty, with a registrar beside it. It
// returns what callers are told of lake-1.
func localLake(t *testing.T) (r *replica, health func() string) {
	t.Helper()
	var mu sync.Mutex
	last := watch.NewCatalog()
	m := NewMerged(func(c *watch.Catalog) { mu.Lock(); last = c; mu.Unlock() })
	m.Enable(true)
	m.SetCatalog(watch.NewCatalog())
	local := NewLocal(m, "a", Times{}, slog.New(slog.DiscardHandler))
	local.dial = func(context.Context, netip.AddrPort) reach { return answered }
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); local.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return &replica{Registrar: local}, func() string {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if s := last.Service("lake"); s != nil && len(s.Instances) == 1 {
			return s.Instances[0].Health.String()
		}
		return "not there"
	}
}

// Beside a catalog in a file too, an application that is checked is called once
// somebody has said that it is well, and what is said of it reaches its callers.
func TestAnApplicationBesideACatalogInAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, health := localLake(t)
		r.Connected(checkedLake())
		after(5 * time.Second)
		if got := health(); got != "not there" {
			t.Errorf("before anybody has said so it is %s", got)
		}
		says := Critical
		var mu sync.Mutex
		stop := r.reports(1, func() Health { mu.Lock(); defer mu.Unlock(); return says })
		for _, next := range []struct {
			said Health
			want watch.Health
		}{{Critical, watch.Critical}, {Passing, watch.Passing}, {Warning, watch.Warning}, {Critical, watch.Critical}} {
			mu.Lock()
			says = next.said
			mu.Unlock()
			after(1100 * time.Millisecond)
			if got := health(); got != next.want.String() {
				t.Errorf("%s is said: it is %s", next.said, got)
			}
		}
		after(time.Minute)
		if got := health(); got != watch.Critical.String() {
			t.Errorf("after a minute it is %s", got)
		}
		// From here on its Envoy tells another replica, which has a catalog of its own.
		stop()
		after(15 * time.Second)
		if got := health(); got != watch.Passing.String() {
			t.Errorf("when nobody says anything any more it is %s", got)
		}
	})
}

// One of which nothing is heard here is passing while its stream lives, as one that
// is not checked: its reports go to another replica, and stay there.
func TestAnApplicationOfWhichAnotherReplicaHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, health := localLake(t)
		r.Connected(checkedLake())
		after(9 * time.Second)
		if got := health(); got != "not there" {
			t.Errorf("it is not waited for: %s", got)
		}
		after(2 * time.Second)
		if got := health(); got != watch.Passing.String() {
			t.Errorf("it is %s", got)
		}
		defer r.reports(1, always(Critical))()
		after(time.Second)
		if got := health(); got != watch.Critical.String() {
			t.Errorf("once it is heard it is %s", got)
		}
	})
}
