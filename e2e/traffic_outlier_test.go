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

// host returns what the caller knows of an instance.
func host(m *harness.Mesh, instance *harness.Sidecar) (run.Host, error) {
	clusters, err := m.Sidecar(caller).Envoy.Clusters()
	if err != nil {
		return run.Host{}, err
	}
	for _, h := range clusters[instance.Service].Hosts {
		if h.Address.Socket.Port == instance.MeshPort {
			return h, nil
		}
	}
	return run.Host{}, fmt.Errorf("%s does not know %s", caller, instance.ID)
}

// ejected returns an error that says whether outlier detection has taken an
// instance out, unless it is as wanted.
func ejected(m *harness.Mesh, instance *harness.Sidecar, want bool) error {
	h, err := host(m, instance)
	if err == nil && h.Health.FailedOutlierCheck != want {
		err = fmt.Errorf("%s: failed_outlier_check is %t", instance.ID, !want)
	}
	return err
}

// TestInstanceThatAnswers5xxIsEjectedAndComesBack: callers see none of it.
func TestInstanceThatAnswers5xxIsEjectedAndComesBack(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: `mesh:
  circuit_breakers:
    default:
      outlier_detection: {consecutive_5xx: 4, consecutive_gateway_failure: 0, interval: 500ms, base_ejection_time: 1500ms}
  policies:
    retry: {backoff: {base_interval: 10ms}}
`})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	bad := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2")

	load := m.Load(caller, "lake_service", traffic.Load{Concurrency: 2, Rate: 100})
	bad.App.Forget()
	bad.App.Behave(app.Behavior{FailRate: 1, FailStatus: 500})
	harness.Eventually(t, "lake-1 is ejected", 5*time.Second, func() error { return ejected(m, bad, true) })
	if n := bad.App.Count(); n < 4 || n > 8 {
		t.Errorf("lake-1 was ejected after %d bad answers, want 4 and what was under way", n)
	}
	bad.App.Forget()
	load.Take()
	harness.Eventually(t, "fifty requests pass", 5*time.Second, func() error {
		if r := load.Snapshot(); r.Requests < 50 {
			return fmt.Errorf("%d did", r.Requests)
		}
		return nil
	})
	if err := ejected(m, bad, true); err != nil {
		t.Fatal(err)
	}
	// The workers of the caller may hear of it a moment later.
	if n := bad.App.Count(); n > 2 {
		t.Errorf("lake-1 got %d requests while it was ejected", n)
	}

	bad.App.Behave(app.Behavior{})
	harness.Eventually(t, "lake-1 comes back", 5*time.Second, func() error { return ejected(m, bad, false) })
	load.Take()
	harness.Eventually(t, "lake-1 serves again", 5*time.Second, func() error {
		if r := load.Snapshot(); r.Instances["lake-1"] < 20 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	if r := load.Stop(); r.Failed() > 0 {
		t.Errorf("after it came back: %s", r)
	}
	if n := m.Stats(caller)["cluster.lake_service.outlier_detection.ejections_enforced_consecutive_5xx"]; n == 0 {
		t.Error("no ejection counts as one for consecutive 5xx")
	}
}
