package e2e

import (
	"fmt"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// retries is how often nexus's sidecar tried a request to a service again.
func retries(m *harness.Mesh, service string) uint64 {
	return m.Stats(caller)["cluster."+service+".upstream_rq_retry"]
}

// TestInstanceThatDiesOrHangsIsOutBeforeTheCatalogNotices: with the operators'
// own numbers and a catalog that calls every instance passing all along. Each
// death has a service of its own with two instances, under load; the second
// instance dies.
func TestInstanceThatDiesOrHangsIsOutBeforeTheCatalogNotices(t *testing.T) {
	deaths := []struct {
		service string
		what    string
		die     func(*harness.Sidecar) error
		within  time.Duration // out of rotation
		failed  int           // requests at most, until then
	}{
		{"power_cut", "app and sidecar are killed", func(s *harness.Sidecar) error { s.Kill(); return nil }, 3 * time.Second, 3},
		{"dead_app", "the app dies behind its sidecar", func(s *harness.Sidecar) error { s.App.Die(); return nil }, 3 * time.Second, 3},
		// Each try may take 2 s, and all that are open end together: more of
		// them than the seed's max_retries of 3 cannot all be tried again.
		{"frozen", "the sidecar is frozen", func(s *harness.Sidecar) error { return s.Envoy.Pause() }, 10 * time.Second, 6},
		{"hung_app", "the app hangs behind its sidecar", func(s *harness.Sidecar) error { s.App.Behave(app.Behavior{Hang: true}); return nil }, 10 * time.Second, 6},
	}

	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	for _, d := range deaths {
		m.Add(harness.Spec{Service: d.service, ID: d.service + "-1"})
		m.Add(harness.Spec{Service: d.service, ID: d.service + "-2"})
	}
	m.Ready()

	t.Run("all", func(t *testing.T) {
		for _, d := range deaths {
			t.Run(d.service, func(t *testing.T) {
				t.Parallel()
				victim := m.Sidecar(d.service + "-2")
				inRotation(t, m, d.service, d.service+"-1", d.service+"-2")
				load := m.Load(caller, d.service, traffic.Load{Concurrency: 8, Rate: 60})
				if err := d.die(victim); err != nil {
					t.Fatal(err)
				}
				harness.Eventually(t, d.what+": it is out of rotation", d.within, func() error {
					return ejected(m, victim, true)
				})
				// Every second request would meet it first. What was open or
				// waited for its retry may still do so.
				failed := load.Take().Failed()
				before := retries(m, d.service)
				harness.Eventually(t, d.what+": sixty requests in a row do not meet it", 15*time.Second, func() error {
					if r := load.Snapshot(); r.Requests < 60 {
						return fmt.Errorf("%s", r)
					}
					r, now := load.Take(), retries(m, d.service)
					met := now - before
					before = now
					failed += r.Failed()
					if met > 0 || r.Failed() > 0 || r.Instances[victim.ID] > 0 {
						return fmt.Errorf("%d did: %s", met, r)
					}
					return nil
				})
				load.Stop()
				if failed > d.failed {
					t.Errorf("%s: %d requests failed, want at most %d", d.what, failed, d.failed)
				}
				if h, err := host(m, victim); err != nil || h.Health.EDS != "HEALTHY" {
					t.Errorf("%s: the catalog noticed (%s, %v): this shows nothing", d.what, h.Health.EDS, err)
				}
			})
		}
	})
}
