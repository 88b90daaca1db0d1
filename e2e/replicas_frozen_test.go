//go:build slow

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestALeaderThatIsFrozenOrDrainsAsTheOthersSeeIt: of three replicas the one that leads
// is stopped by SIGSTOP, so that its connections stay open and nobody answers on them,
// and later ended by SIGTERM. Its proxies go to the others, another one leads, the one
// that wakes up leads nothing, and no request fails.
func TestALeaderThatIsFrozenOrDrainsAsTheOthersSeeIt(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Flags: electing})
	planes := []*run.ControlPlane{m.Plane, another(t, m, "second"), another(t, m, "third")}
	addresses := planes[1].XDSAddress() + "," + planes[2].XDSAddress()
	const fleet = 6
	for n := range fleet / 2 {
		for _, service := range []string{"nexus", "lake_service"} {
			m.Add(harness.Spec{Service: service, ID: fmt.Sprintf("%s-%d", strings.TrimSuffix(service, "_service"), n+1), Flags: []string{"--xds-address", addresses}})
		}
	}
	settled := func() {
		t.Helper()
		harness.Eventually(t, "each has its share", 2*time.Minute, func() error {
			counts, err := envoysAt(planes)
			if err == nil && (slices.Max(counts) > fleet/3 || slices.Min(counts) < fleet/3) {
				err = fmt.Errorf("they have %d", counts)
			}
			return errors.Join(err, inStep(planes...))
		})
	}
	settled()
	load := m.Load("nexus-1", "lake_service", traffic.Load{Concurrency: 8, Rate: 100})

	// goes ends the leader's service, and says after how long another one leads and all
	// proxies are with the others. A change reaches those meanwhile.
	goes := func(what string, end func(*run.ControlPlane), leads, elsewhere time.Duration) *run.ControlPlane {
		t.Helper()
		leader := leaderOf(t, planes)
		others := slices.DeleteFunc(slices.Clone(planes), func(p *run.ControlPlane) bool { return p == leader })
		began := time.Now()
		end(leader)
		var led, moved time.Duration
		harness.Eventually(t, what+": another one leads, and has its proxies", 2*time.Minute, func() error {
			n, err := leaders(others)
			if err != nil {
				return err
			}
			if led == 0 && n == 1 {
				led = time.Since(began)
			}
			counts, err := envoysAt(others)
			if err != nil {
				return err
			}
			if moved == 0 && counts[0]+counts[1] == fleet {
				moved = time.Since(began)
			}
			if led == 0 || moved == 0 {
				return fmt.Errorf("%d lead, they have %d", n, counts)
			}
			return nil
		})
		t.Logf("measured: %s: another one leads after %.1f s, its proxies are with the others after %.1f s; %d requests, %d failed",
			what, led.Seconds(), moved.Seconds(), load.Snapshot().Requests, load.Snapshot().Failed())
		if led > leads || moved > elsewhere {
			t.Errorf("%s: another one leads after %s, want %s at most; all are elsewhere after %s, want %s", what, led, leads, moved, elsewhere)
		}
		return leader
	}

	// Consul waits for a session's TTL, which it may double, and Envoy for its ping.
	frozen := goes("frozen", func(p *run.ControlPlane) { noError(t, p.Pause()) }, 45*time.Second, 60*time.Second)
	noError(t, frozen.Resume())
	harness.Eventually(t, "the one that wakes up follows", 30*time.Second, func() error { return inStep(planes...) })
	if leaderOf(t, planes) == frozen {
		t.Error("it leads again, though another one does")
	}
	settled()
	drained := goes("SIGTERM", func(p *run.ControlPlane) { noError(t, p.Signal(syscall.SIGTERM)) }, 3*time.Second, 10*time.Second)
	harness.Eventually(t, "it ends", 20*time.Second, func() error {
		if drained.Running() {
			return errors.New("it runs")
		}
		return nil
	})
	if r := load.Stop(); r.Failed() > 0 {
		t.Errorf("requests failed: %s", r)
	}
}
