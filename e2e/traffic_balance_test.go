package e2e

import (
	"fmt"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// share is the part of a load's answers that came from one instance.
func share(r traffic.Result, instance string) float64 {
	return float64(r.Instances[instance]) / float64(r.Requests)
}

// In these tests nexus-1 calls, and its sidecar is the one that is looked at.
const caller = "nexus-1"

// inRotation waits until calls to a service reach each of the given instances.
// That the Envoy's admin shows them as healthy does not say that its workers
// know.
func inRotation(t *testing.T, m *harness.Mesh, service string, ids ...string) {
	t.Helper()
	load := traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: traffic.Request{Host: service}, Requests: 10 * len(ids)}
	harness.Eventually(t, service+" is in rotation", 10*time.Second, func() error {
		r := load.Do(t.Context())
		for _, id := range ids {
			if r.Instances[id] == 0 {
				return fmt.Errorf("%s serves nothing: %s", id, r)
			}
		}
		return nil
	})
}

// TestLeastRequestSpreadsAndSparesTheSlow: of two instances that are equal each
// serves about half; of two that are not, the slow one, whose requests stay
// open, gets less. Round robin would pass the first half and fail the second.
func TestLeastRequestSpreadsAndSparesTheSlow(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	slow := m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2")
	load := traffic.Load{
		Addr: m.Sidecar(caller).Outbound(), Request: traffic.Request{Host: "lake_service"}, Concurrency: 8, Requests: 400,
	}

	equal := load.Do(t.Context())
	if equal.Failed() > 0 {
		t.Errorf("equal instances: %s", equal)
	}
	for _, id := range []string{"lake-1", "lake-2"} {
		if got := share(equal, id); got < 0.35 || got > 0.65 {
			t.Errorf("%s served %.0f %% of equal instances: %s", id, 100*got, equal)
		}
	}

	slow.App.Behave(app.Behavior{Delay: 100 * time.Millisecond})
	uneven := load.Do(t.Context())
	if uneven.Failed() > 0 {
		t.Errorf("with a slow instance: %s", uneven)
	}
	// Envoy draws two instances and may draw the same one twice: a quarter of
	// the requests go to the slow one whatever its load. 400 requests scatter
	// by 2 %; round robin would give it 50 %.
	if got := share(uneven, "lake-2"); got == 0 || got > 0.4 {
		t.Errorf("the slow instance served %.0f %%, want some and less than 40: %s", 100*got, uneven)
	}
}
