package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/consulagent"
)

// TestTwoDatacenters drives the example of the guide with two Consuls that are joined
// over WAN: calls go to the other datacenter and back, without a failure, and what is
// there is called too while nobody can say of it anything new, and after a restart.
func TestTwoDatacenters(t *testing.T) {
	m := harness.New(t, harness.Options{Mesh: besidesTheExamples, Overlay: example(t, "datacenters"), Consul: true, Datacenter: "dc1"})
	other := consulagent.ForTest(t, consulagent.Options{Datacenter: "dc2", Node: "two", WAN: m.Consul})
	other.WaitFederated(t, m.Consul)
	abroad := run.NewConsulRegistry(other.API)
	t.Cleanup(func() { noError(t, abroad.Close()) })
	start := func(at run.Registry, id, zone string) {
		a, err := app.Start("lake", id, 0)
		noError(t, err)
		t.Cleanup(a.Die)
		noError(t, at.Register(run.Instance{Service: "lake", ID: id, Port: a.Port(), Zone: zone}))
	}
	start(m.Registry, "one-a", "a")
	start(m.Registry, "one-b", "b")
	start(abroad, "two-a", "a")
	m.StartPlane()
	m.Add(harness.Spec{Service: "nexus", ID: caller, Zone: "a", Flags: []string{"--region", "dc1"}, Unregistered: true})
	m.Ready()
	lake := traffic.Request{Host: "lake"}
	servedBy(t, m, lake, "one-a")
	load := m.Load(caller, "lake", traffic.Load{Concurrency: 4, Rate: 200})

	t.Run("there and back", func(t *testing.T) {
		m.SetHealth("one-a", run.Critical)
		m.SetHealth("one-b", run.Critical)
		servedBy(t, m, lake, "two-a")
		m.SetHealth("one-b", run.Passing)
		m.SetHealth("one-a", run.Passing)
		servedBy(t, m, lake, "one-a")
	})

	says := func(text string) func() error {
		return func() error {
			_, r, err := m.Plane.Readyz()
			if err == nil && !strings.Contains(fmt.Sprint(r.Holding), text) {
				err = fmt.Errorf("/readyz: %+v", r)
			}
			return err
		}
	}
	t.Run("the other one's Consul dies", func(t *testing.T) {
		other.Kill()
		harness.Eventually(t, "that is said", 20*time.Second, says("datacenter dc2: list of services: "))
		if ready := m.Metrics()[`controlplane_consul_datacenter_ready{datacenter="dc2"}`]; ready != 0 {
			t.Errorf("the metric says that it is ready: %v", ready)
		}
		m.SetHealth("one-a", run.Critical)
		m.SetHealth("one-b", run.Critical)
		servedBy(t, m, lake, "two-a")
	})

	t.Run("and the control plane starts anew", func(t *testing.T) {
		noError(t, m.Plane.Stop())
		m.StartPlane()
		harness.Eventually(t, "what is kept is said", 20*time.Second, says("1 of lake"))
		noError(t, m.Plane.WaitSynced(t.Context(), 20*time.Second, caller))
		servedBy(t, m, lake, "two-a")
		m.SetHealth("one-b", run.Passing)
		m.SetHealth("one-a", run.Passing)
		servedBy(t, m, lake, "one-a")
	})
	if r := load.Stop(); r.Failed() > 0 || r.Requests < 200 || r.Instances["two-a"] == 0 {
		t.Errorf("%s", r)
	}
}
