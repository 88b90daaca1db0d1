package e2e

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// subsetsFile has a service that is called in parts, and one that is to fail where
// its part is empty. Nothing is retried but for what the tests are about.
const subsetsFile = `mesh:
  name: subsets
  circuit_breakers: {default: {outlier_detection: {consecutive_5xx: 0, consecutive_gateway_failure: 0}}}
  services:
    lake:
      subsets: {stable: {}, canary: {}}
      default_subset: stable
    strict:
      subsets: {stable: {}, canary: {}}
      default_subset: stable
      on_empty_subset: fail
  security: {mtls: {mode: permissive}, authorization: {enabled: false}}
`

// bare starts an application without a sidecar, and registers it.
func bare(t *testing.T, m *harness.Mesh, service, id string, tags ...string) run.Instance {
	t.Helper()
	a, err := app.Start(service, id, 0)
	noError(t, err)
	t.Cleanup(a.Die)
	i := run.Instance{Service: service, ID: id, Port: a.Port(), Tags: tags}
	noError(t, m.Registry.Register(i))
	return i
}

// servedBy waits until a row of requests is served by exactly these instances.
func servedBy(t *testing.T, m *harness.Mesh, r traffic.Request, ids ...string) {
	t.Helper()
	servedFrom(t, m, caller, r, ids...)
}

// servedFrom is servedBy for another caller.
func servedFrom(t *testing.T, m *harness.Mesh, caller string, r traffic.Request, ids ...string) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%s %s is served by %v alone", r.Host, r.Path, ids), 10*time.Second, func() error {
		seen := make(map[string]bool)
		for range 20 {
			resp := m.Do(caller, r)
			if resp.Status != 200 {
				return fmt.Errorf("%s", resp)
			}
			seen[resp.Reply.Instance] = true
		}
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, ids) {
			return fmt.Errorf("by %v", got)
		}
		return nil
	})
}

// TestAServiceIsCalledInParts: what leads to a subset goes to its instances, as
// they come and go, and where nobody is left to where the file says.
func TestAServiceIsCalledInParts(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: subsetsFile})
	lake1 := bare(t, m, "lake", "lake-1", "stable")
	bare(t, m, "lake", "lake-2", "canary")
	bare(t, m, "strict", "strict-1", "stable")
	bare(t, m, "strict", "strict-2", "canary")
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	lake, strict := traffic.Request{Host: "lake"}, traffic.Request{Host: "strict"}
	servedBy(t, m, lake, "lake-1")
	servedBy(t, m, strict, "strict-1")

	t.Run("instances that change it cost no request", func(t *testing.T) {
		load := m.Load(caller, "lake", traffic.Load{Concurrency: 4, Rate: 200})
		for range 5 {
			lake1.Tags = []string{"canary"} // and now stable is empty
			noError(t, m.Registry.Register(lake1))
			servedBy(t, m, lake, "lake-1", "lake-2")
			lake1.Tags = []string{"stable"}
			noError(t, m.Registry.Register(lake1))
			servedBy(t, m, lake, "lake-1")
		}
		if r := load.Stop(); r.Failed() > 0 || r.Requests < 100 {
			t.Errorf("%s", r)
		}
	})

	t.Run("an instance that is sick", func(t *testing.T) {
		load := m.Load(caller, "lake", traffic.Load{Concurrency: 4, Rate: 200})
		m.SetHealth("lake-1", run.Critical)
		servedBy(t, m, lake, "lake-2")
		m.SetHealth("lake-1", run.Passing)
		servedBy(t, m, lake, "lake-1")
		if r := load.Stop(); r.Failed() > 0 {
			t.Errorf("%s", r)
		}
	})

	t.Run("nobody, and it is to fail", func(t *testing.T) {
		m.Deregister("strict-1")
		harness.Eventually(t, "strict fails", 10*time.Second, func() error {
			if r := m.Do(caller, strict); r.Status != 503 {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
	})

	if stats := m.Stats(caller); stats["cluster.lake|stable|fallback.upstream_rq_200"] == 0 || stats["cluster.lake|stable.upstream_rq_total"] == 0 {
		t.Errorf("the parts are not counted apart: %v", stats.Prefix("cluster.lake|stable"))
	}
}
