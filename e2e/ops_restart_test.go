package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// speaksSotW makes a sidecar speak the state-of-the-world protocol.
func speaksSotW(_ *harness.Sidecar, printed string) string {
	return strings.ReplaceAll(printed, "DELTA_GRPC", "GRPC")
}

// restartMesh is two of nexus and two of lake_service.
func restartMesh(t *testing.T, bootstrap func(*harness.Sidecar, string) string) *harness.Mesh {
	t.Helper()
	m := harness.Start(t, harness.Options{})
	for _, id := range []string{"nexus-1", "nexus-2"} {
		m.Add(harness.Spec{Service: "nexus", ID: id, Bootstrap: bootstrap})
	}
	for _, id := range []string{"lake-1", "lake-2"} {
		m.Add(harness.Spec{Service: "lake_service", ID: id, Bootstrap: bootstrap})
	}
	m.Ready()
	return m
}

// pushes returns the responses that the control plane sent since its start, by
// type, and fails if it does not count them.
func pushes(t *testing.T, m *harness.Mesh) map[string]int {
	t.Helper()
	out := make(map[string]int)
	metrics := m.Metrics()
	for _, typ := range []string{"cluster", "endpoint", "listener", "route", "secret"} {
		n, ok := metrics[fmt.Sprintf("controlplane_xds_pushes_total{type=%q}", typ)]
		if !ok {
			t.Fatalf("no counter of the pushes of %s", typ)
		}
		out[typ] = int(n)
	}
	return out
}

// updates returns how often an Envoy was sent something and took it.
func updates(m *harness.Mesh, id string) map[string]int {
	out := make(map[string]int)
	for name, n := range m.Stats(id) {
		if strings.HasSuffix(name, ".update_success") && !strings.HasPrefix(name, "cluster.") || strings.HasSuffix(name, ".cluster_updated") {
			out[name] = int(n)
		}
	}
	return out
}

// reconnected waits until every proxy is back since a time, and has all that
// it should.
func reconnected(t *testing.T, m *harness.Mesh, since time.Time) {
	t.Helper()
	harness.Eventually(t, "every proxy is back", 20*time.Second, func() error {
		proxies, err := m.Plane.Proxies()
		if err != nil {
			return err
		}
		for _, s := range m.Sidecars() {
			p, ok := proxies[s.ID]
			if !ok || p.Connected.Before(since) {
				return fmt.Errorf("%s is not back", s.ID)
			}
			if err := p.Synced(); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestControlPlaneKilledUnderLoadFailsNoRequestAndSendsNothingAgain(t *testing.T) {
	t.Parallel()
	m := restartMesh(t, nil)
	before := make(map[string]map[string]int)
	for _, s := range m.Sidecars() {
		before[s.ID] = updates(m, s.ID)
		if before[s.ID]["cluster_manager.cds.update_success"] == 0 || before[s.ID]["listener_manager.lds.update_success"] == 0 {
			t.Fatalf("%s: no count of updates: %v", s.ID, before[s.ID])
		}
	}
	killUnderLoad(t, m)
	for typ, n := range pushes(t, m) {
		if n != 0 {
			t.Errorf("after its restart it sent %d responses of %s to proxies that have it all", n, typ)
		}
	}
	for _, s := range m.Sidecars() {
		if after := updates(m, s.ID); !maps.Equal(before[s.ID], after) {
			t.Errorf("%s took an update: %v, before the restart %v", s.ID, after, before[s.ID])
		}
	}
	// And what was not sent is shown as what it has, all the same.
	for node, p := range m.Proxies() {
		for _, typ := range []string{"cluster", "endpoint", "listener", "route", "secret"} {
			if s := p.Types[typ]; s.State != "SYNCED" || s.Sent == "" || s.Sent != s.Acknowledged {
				t.Errorf("%s: %s is %+v", node, typ, s)
			}
		}
	}
}

// TestControlPlaneKilledUnderLoadSendsSotWOnlyWhatItMust: "it is generally not
// safe" to leave out what was asked for by name, since the version does not say
// of which names it is. Clusters and listeners are asked for by wildcard.
func TestControlPlaneKilledUnderLoadSendsSotWOnlyWhatItMust(t *testing.T) {
	t.Parallel()
	m := restartMesh(t, speaksSotW)
	killUnderLoad(t, m)
	sent := pushes(t, m)
	if sent["cluster"] != 0 || sent["listener"] != 0 {
		t.Errorf("it sent clusters or listeners to proxies that have them all: %v", sent)
	}
	if n := len(m.Sidecars()); sent["endpoint"] > n || sent["route"] > n || sent["secret"] > 2*n {
		t.Errorf("it sent more than one response to each subscription: %v", sent)
	}
	for node, p := range m.Proxies() {
		if p.Protocol != "sotw" {
			t.Errorf("%s speaks %s: this shows nothing", node, p.Protocol)
		}
	}
}

// killUnderLoad kills the control plane and starts it again, and checks that
// no request fails and that no resource in any Envoy moves.
func killUnderLoad(t *testing.T, m *harness.Mesh) {
	t.Helper()
	versions := make(map[string]map[string]string)
	for _, s := range m.Sidecars() {
		versions[s.ID] = m.Dump(s.ID).Versions()
	}
	for typ, n := range pushes(t, m) {
		if n == 0 {
			t.Fatalf("the first control plane sent no %s: its counter shows nothing", typ)
		}
	}
	loads := []*traffic.Running{
		m.Load("nexus-1", "lake_service", traffic.Load{Rate: 150}),
		m.Load("nexus-2", "lake_service", traffic.Load{Rate: 150}),
	}
	sent := func(n int) {
		harness.Eventually(t, "the load goes on", 10*time.Second, func() error {
			for _, l := range loads {
				if got := l.Snapshot().Requests; got < n {
					return fmt.Errorf("%d requests", got)
				}
			}
			return nil
		})
	}
	sent(100)
	m.Plane.Kill()
	killed := time.Now()
	sent(250) // most of them without a control plane
	m.StartPlane()
	reconnected(t, m, killed)
	t.Logf("all proxies were back %s after the kill", time.Since(killed).Round(time.Millisecond))
	sent(loads[0].Snapshot().Requests + 150)

	for i, l := range loads {
		r := l.Stop()
		if r.Failed() != 0 || r.Instances["lake-1"] == 0 || r.Instances["lake-2"] == 0 {
			t.Errorf("load %d: %s", i, r)
		}
	}
	for _, s := range m.Sidecars() {
		if after := m.Dump(s.ID).Versions(); !maps.Equal(versions[s.ID], after) {
			t.Errorf("%s: versions %v, before the restart %v", s.ID, after, versions[s.ID])
		}
	}
}

// TestChangeWhileTheControlPlaneIsAwayIsAllThatItSendsAfterwards: the versions
// that the proxies show when they come back are compared, not assumed.
func TestChangeWhileTheControlPlaneIsAwayIsAllThatItSendsAfterwards(t *testing.T) {
	m := restartMesh(t, nil)
	if err := m.Plane.Stop(); err != nil { // and not killed, this time
		t.Fatal(err)
	}
	stopped := time.Now()
	m.SetHealth("lake-2", run.Critical)
	m.EditSeed("max_requests: 2048", "max_requests: 77") // of stream_service
	m.StartPlane()
	reconnected(t, m, stopped)
	for _, id := range []string{"nexus-1", "nexus-2"} {
		harness.Eventually(t, id+" has both changes", 10*time.Second, func() error {
			if got := m.Resource(id, "cluster", "stream_service").Field("circuit_breakers.thresholds.0.max_requests"); got != 77.0 {
				return fmt.Errorf("max_requests of stream_service is %v", got)
			}
			if states := m.Resource(id, "endpoint", "lake_service").Find("health_status"); !slices.Contains(states, any("UNHEALTHY")) {
				return fmt.Errorf("health of lake_service: %v", states)
			}
			return nil
		})
	}
	sent := pushes(t, m)
	if sent["listener"] != 0 || sent["route"] != 0 || sent["secret"] != 0 {
		t.Errorf("it sent more than what changed: %v", sent)
	}
	if sent["cluster"] != len(m.Sidecars()) || sent["endpoint"] == 0 {
		t.Errorf("it sent %v, want clusters once to each of %d proxies, and endpoints", sent, len(m.Sidecars()))
	}
}
