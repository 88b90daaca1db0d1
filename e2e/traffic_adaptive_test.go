package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestANewInstanceTakesItsShareBitByBit: in the first seconds of its window far less
// than the others, and after it as much.
func TestANewInstanceTakesItsShareBitByBit(t *testing.T) {
	const window = 6 * time.Second
	m := harness.Start(t, harness.Options{Mesh: besidesTheExamples, Overlay: fmt.Sprintf(`mesh:
  name: shop
  services: {lake_service: {load_balancing: {slow_start: {window: %s}}}}
`, window)})
	bareApp(t, m, run.Instance{Service: "lake_service", ID: "old"})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	lake := traffic.Request{Host: "lake_service"}
	servedBy(t, m, lake, "old")
	share := func() int {
		r := traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: lake, Requests: 400, Concurrency: 8}.Do(t.Context())
		if r.Failed() > 0 {
			t.Errorf("%s", r)
		}
		return 100 * r.Instances["new"] / r.Requests
	}
	time.Sleep(window) // of the first one, which began with the cluster
	bareApp(t, m, run.Instance{Service: "lake_service", ID: "new"})
	servedBy(t, m, lake, "new", "old")
	if n := share(); n > 35 {
		t.Errorf("at first it took %d %%", n)
	}
	harness.Eventually(t, "it takes its whole share", 3*window, func() error {
		if n := share(); n < 42 || n > 58 {
			return fmt.Errorf("%d %%", n)
		}
		return nil
	})
}

// TestAServiceThatFailsRefusesAPart of the requests before they reach it, and takes all
// again when it is well. An edit of something else does not have it forget.
func TestAServiceThatFailsRefusesAPart(t *testing.T) {
	const text = `mesh:
  services: {lake_service: {retry: {attempts: 0}, outlier_detection: {consecutive_5xx: 0, consecutive_gateway_failure: 0}, admission_control: {window: 2s, min_rps: 1}}}
`
	m := harness.Start(t, harness.Options{Overlay: text})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"}).App
	m.Ready()
	part := func() (reached int) {
		lake.Forget()
		r := traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 300, Rate: 300}.Do(t.Context())
		if n := r.Status[http.StatusOK] + r.Status[http.StatusServiceUnavailable]; n != r.Requests {
			t.Errorf("%s", r)
		}
		return 100 * lake.Count() / r.Requests
	}
	if n := part(); n < 100 {
		t.Errorf("while it is well %d %% come to it", n)
	}
	lake.Behave(app.Behavior{FailRate: 1})
	few := func() error {
		if n := part(); n > 60 {
			return fmt.Errorf("%d %% come to it", n)
		}
		return nil
	}
	harness.Eventually(t, "it is spared", 20*time.Second, few)
	routes := m.Resource("lake-1", "route", "inbound").Updated
	m.Edit(text + "  security: {authorization: {policies: [{name: all, action: ALLOW, principals: [\"spiffe://datapunk/*\"]}, {name: admin, action: DENY, paths: [/admin]}]}}\n")
	harness.Eventually(t, "a policy is edited", 10*time.Second, func() error {
		if m.Resource("lake-1", "route", "inbound").Updated.Equal(routes) {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	if err := few(); err != nil {
		t.Errorf("after an edit of a policy %v", err)
	}
	lake.Behave(app.Behavior{})
	harness.Eventually(t, "it takes all again", 30*time.Second, func() error {
		if n := part(); n < 100 {
			return fmt.Errorf("%d %% come to it", n)
		}
		return nil
	})
}
