package e2e

import (
	"fmt"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestASubsetThatIsEjectedCostsNoRequest: a canary that fails is tried again at the
// stable ones, ejected, and then not asked; its share goes there and back.
func TestASubsetThatIsEjectedCostsNoRequest(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: besidesTheExamples, Overlay: `mesh:
  name: shop
  circuit_breakers: {default: {outlier_detection: {consecutive_5xx: 3, interval: 500ms, base_ejection_time: 2s, max_ejection_time: 2s}}}
  services:
    lake_service:
      subsets: {stable: {version: "1"}, canary: {}}
      default_subset: stable
      retry: {attempts: 1, methods: [GET], conditions: [5xx], backoff: {base_interval: 1ms}}
  routes: [{name: canary, service: lake_service, split: [{subset: stable, weight: 70}, {subset: canary, weight: 30}]}]
`})
	bareApp(t, m, run.Instance{Service: "lake_service", ID: "stable-1", Meta: map[string]string{"version": "1"}})
	bareApp(t, m, run.Instance{Service: "lake_service", ID: "stable-2", Meta: map[string]string{"version": "1"}})
	canary := bareApp(t, m, run.Instance{Service: "lake_service", ID: "canary", Tags: []string{"canary"}, Meta: map[string]string{"version": "2"}})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	servedBy(t, m, traffic.Request{Host: "lake_service"}, "canary", "stable-1", "stable-2")

	load := m.Load(caller, "lake_service", traffic.Load{Concurrency: 4, Rate: 200})
	canary.Behave(app.Behavior{FailRate: 1})
	ejections := func() uint64 {
		return m.Stats(caller)["cluster.lake_service|canary.outlier_detection.ejections_active"]
	}
	harness.Eventually(t, "it is ejected", 10*time.Second, func() error {
		if ejections() != 1 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	canary.Forget()
	time.Sleep(500 * time.Millisecond)
	if n := canary.Count(); n > 20 {
		t.Errorf("%d requests came to it while it was out", n)
	}
	canary.Behave(app.Behavior{})
	harness.Eventually(t, "it is back", 20*time.Second, func() error {
		if n := ejections(); n != 0 {
			return fmt.Errorf("%d are out", n)
		}
		return nil
	})
	canary.Forget()
	harness.Eventually(t, "it has its share", 10*time.Second, func() error {
		if n := canary.Count(); n < 20 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	if r := load.Stop(); r.Failed() > 0 || r.Requests < 500 {
		t.Errorf("%s", r)
	}
}
