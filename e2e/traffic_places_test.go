package e2e

import (
	"fmt"
	"testing"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// placesFile has an instance out as soon as it refuses, so that the tries of one
// request get past a place of two that died; and has a request tried again that was
// under way at one that dies, which is for GETs as these.
const placesFile = `mesh:
  name: places
  circuit_breakers: {default: {outlier_detection: {consecutive_5xx: 1, base_ejection_time: 1s, interval: 500ms}}}
  policies: {retry: {attempts: 3, conditions: [connect-failure, refused-stream, reset], methods: [GET]}}
  load_balancing: {locality: %s}
  security: {mtls: {mode: permissive}, authorization: {enabled: false}}
`

// somewhere is an application without a sidecar in some place, that dies and returns.
type somewhere struct {
	run.Instance
	app *app.App
}

func standing(t *testing.T, m *harness.Mesh, id, datacenter, zone string) *somewhere {
	t.Helper()
	s := &somewhere{Instance: run.Instance{Service: "lake", ID: id, Datacenter: datacenter, Zone: zone}}
	s.up(t, 0)
	s.Port = s.app.Port()
	noError(t, m.Registry.Register(s.Instance))
	return s
}

func (s *somewhere) up(t *testing.T, port int) {
	t.Helper()
	a, err := app.Start(s.Service, s.ID, port)
	noError(t, err)
	s.app = a
	t.Cleanup(a.Die)
}

// TestAZoneIsPreferredWhileItLives: callers in each zone have their own instances, those
// of the other when these are out, whoever says so, and their own again.
func TestAZoneIsPreferredWhileItLives(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: fmt.Sprintf(placesFile, "{mode: prefer_local}")})
	standing(t, m, "a-1", "", "a")
	standing(t, m, "a-2", "", "a")
	b := []*somewhere{standing(t, m, "b-1", "", "b"), standing(t, m, "b-2", "", "b")}
	for _, zone := range []string{"a", "b"} {
		m.Add(harness.Spec{Service: "nexus", ID: "nexus-" + zone, Zone: zone, Unregistered: true})
	}
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-nowhere", Unregistered: true})
	m.Ready()
	lake := traffic.Request{Host: "lake"}
	from := func(caller string, ids ...string) {
		t.Helper()
		servedFrom(t, m, caller, lake, ids...)
	}
	from("nexus-a", "a-1", "a-2")
	from("nexus-b", "b-1", "b-2")
	from("nexus-nowhere", "a-1", "a-2", "b-1", "b-2")

	inB, inA := m.Load("nexus-b", "lake", traffic.Load{Concurrency: 4, Rate: 200}), m.Load("nexus-a", "lake", traffic.Load{Concurrency: 4, Rate: 200})
	t.Run("the catalog says that it is out, and back", func(t *testing.T) {
		for _, i := range b {
			m.SetHealth(i.ID, run.Critical)
		}
		from("nexus-b", "a-1", "a-2")
		m.SetHealth("b-2", run.Passing)
		from("nexus-b", "b-2")
		m.SetHealth("b-1", run.Passing)
		from("nexus-b", "b-1", "b-2")
	})
	t.Run("it dies without a word, and returns", func(t *testing.T) {
		for _, i := range b {
			i.app.Die()
		}
		from("nexus-b", "a-1", "a-2")
		for _, i := range b {
			i.up(t, i.Port)
		}
		from("nexus-b", "b-1", "b-2")
	})
	if r := inB.Stop(); r.Failed() > 0 || r.Requests < 200 || r.Instances["a-1"] == 0 || r.Instances["b-1"] == 0 {
		t.Errorf("in the zone that died: %s", r)
	}
	if r := inA.Stop(); r.Failed() > 0 || r.Instances["b-1"]+r.Instances["b-2"] > 0 {
		t.Errorf("in the other: %s", r)
	}
}

// TestCallsGoOnToAnotherDatacenter: all of them, when their own has nobody, and back.
func TestCallsGoOnToAnotherDatacenter(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: fmt.Sprintf(placesFile, "{min_healthy_percent: 50, failover: [{from: [dc1], to: [dc2]}, {from: [dc2]}]}")})
	dc1 := []*somewhere{standing(t, m, "one-1", "dc1", ""), standing(t, m, "one-2", "dc1", "")}
	standing(t, m, "two-1", "dc2", "")
	standing(t, m, "three-1", "dc3", "")
	for _, region := range []string{"dc1", "dc2"} {
		m.Add(harness.Spec{Service: "nexus", ID: "nexus-" + region, Flags: []string{"--region", region}, Unregistered: true})
	}
	m.Ready()
	lake := traffic.Request{Host: "lake"}
	from := func(caller string, ids ...string) {
		t.Helper()
		servedFrom(t, m, caller, lake, ids...)
	}
	from("nexus-dc1", "one-1", "one-2")
	from("nexus-dc2", "two-1")

	load := m.Load("nexus-dc1", "lake", traffic.Load{Concurrency: 4, Rate: 200})
	t.Run("half of it is enough", func(t *testing.T) {
		m.SetHealth("one-1", run.Critical)
		from("nexus-dc1", "one-2")
		m.SetHealth("one-1", run.Passing)
	})
	t.Run("its instances go from the catalog, and return", func(t *testing.T) {
		for _, i := range dc1 {
			m.Deregister(i.ID)
		}
		from("nexus-dc1", "two-1")
		for _, i := range dc1 {
			noError(t, m.Registry.Register(i.Instance))
		}
		from("nexus-dc1", "one-1", "one-2")
	})
	t.Run("they die without a word, and return", func(t *testing.T) {
		for _, i := range dc1 {
			i.app.Die()
		}
		from("nexus-dc1", "two-1")
		for _, i := range dc1 {
			i.up(t, i.Port)
		}
		from("nexus-dc1", "one-1", "one-2")
	})
	if r := load.Stop(); r.Failed() > 0 || r.Requests < 200 || r.Instances["two-1"] == 0 || r.Instances["three-1"] > 0 {
		t.Errorf("%s", r)
	}
	from("nexus-dc2", "two-1")
}
