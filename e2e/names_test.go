package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/consulagent"
)

// TestANameInAnotherCaseTakesNoCallsFromAService: Consul answers for one name with
// the entries of both. The one is in the file, the other was there first.
func TestANameInAnotherCaseTakesNoCallsFromAService(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Add(harness.Spec{Service: "guest_service", ID: "guest-1"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2")
	lake := m.Load(caller, "lake_service", traffic.Load{Rate: 100})
	guest := m.Load(caller, "guest_service", traffic.Load{Rate: 50})
	passes(t, lake, 20)
	mark := m.Plane.Log.Len()

	// Capitals sort first.
	m.Add(harness.Spec{Service: "Lake_Service", ID: "Lake-3"})
	m.Add(harness.Spec{Service: "Guest_Service", ID: "Guest-2"})
	for _, want := range []string{
		"catalog service lake_service: instance Lake-3 is left out: it is registered as Lake_Service",
		"catalog service guest_service: instance Guest-2 is left out: it is registered as Guest_Service",
	} {
		harness.Eventually(t, "the log names what is left out", 5*time.Second, func() error {
			if n := strings.Count(m.Plane.Log.Since(mark), want); n != 1 {
				return fmt.Errorf("%d times", n)
			}
			return nil
		})
	}
	if n := m.Metrics()["controlplane_catalog_left_out"]; n != 2 {
		t.Errorf("controlplane_catalog_left_out is %v", n)
	}
	passes(t, lake, 60)
	// A caller may write the name as it likes: hosts have no case.
	if r := m.Call(caller, "LAKE_service", "/"); r.Status != 200 {
		t.Errorf("by a name in capitals: %s", r)
	}
	m.Deregister("Lake-3")
	m.Deregister("Guest-2")
	harness.Eventually(t, "nothing is left out", 15*time.Second, func() error {
		if n := m.Metrics()["controlplane_catalog_left_out"]; n != 0 {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
	passes(t, lake, 60)
	for _, l := range []*traffic.Running{lake, guest} {
		r := l.Stop()
		if r.Failed() > 0 || r.Instances["Lake-3"]+r.Instances["Guest-2"] > 0 {
			t.Errorf("%s", r)
		}
	}
}

// TestContainersOfOneMachineThatPublishOnlyTheirSidecarsAreTwo, though they have
// one address and application's port; what else is registered there, and sorts
// first, takes none of them away.
func TestContainersOfOneMachineThatPublishOnlyTheirSidecarsAreTwo(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Ready()
	agent := m.Consul
	register := func(id string, meshPort int) {
		t.Helper()
		err := agent.Register(consulagent.Instance{Service: "lake_service", ID: id, Address: "127.0.0.1", Port: 8080, MeshPort: meshPort})
		if err != nil {
			t.Fatal(err)
		}
	}
	register("a-first", 0)
	for _, id := range []string{"lake-1", "lake-2"} {
		s := m.Prepare(harness.Spec{Service: "lake_service", ID: id})
		m.Launch(s)
		if err := s.Envoy.WaitReady(t.Context(), 15*time.Second); err != nil {
			t.Fatal(err)
		}
		register(id, s.MeshPort)
	}
	mark := m.Plane.Log.Len()
	register("z-again", m.Sidecar("lake-2").MeshPort)
	inRotation(t, m, "lake_service", "lake-1", "lake-2")
	harness.Eventually(t, "the log says which is one with another", 5*time.Second, func() error {
		if !strings.Contains(m.Plane.Log.Since(mark), "instance z-again is left out: it is one with instance lake-2") {
			return fmt.Errorf("it does not")
		}
		return nil
	})
}
