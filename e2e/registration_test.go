package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// inConsul returns what Consul has of a service, by id.
func inConsul(m *harness.Mesh, service string) (map[string]*api.ServiceEntry, error) {
	entries, _, err := m.Consul.API.Health().Service(service, "", false, nil)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*api.ServiceEntry)
	for _, e := range entries {
		if byID[e.Service.ID] != nil {
			return nil, fmt.Errorf("%s is there twice", e.Service.ID)
		}
		byID[e.Service.ID] = e
	}
	return byID, nil
}

// TestAProxyIsKnownWithoutBeingRegistered: the operators' file as it stands, two
// Envoys, and nobody who registers anything.
func TestAProxyIsKnownWithoutBeingRegistered(t *testing.T) {
	m := harness.Start(t, harness.Options{
		Consul: true, Registers: true,
		Overlay: "mesh: {services: {lake_service: {consul_service: lake}}, discovery: {consul: {deregister_critical_service_after: 4s}}}",
	})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1", Version: "2.0.1", Zone: "eu-1a"})
	lake2 := m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2")

	entries, err := inConsul(m, "lake")
	if err != nil || len(entries) != 2 {
		t.Fatalf("Consul has %d instances of lake: %v", len(entries), err)
	}
	lake1 := m.Sidecar("lake-1")
	e := entries["lake-1"]
	if e.Service.Port != lake1.AppPort || e.Service.Meta["mesh_port"] != fmt.Sprint(lake1.MeshPort) || e.Service.Meta["version"] != "2.0.1" ||
		e.Service.Meta["zone"] != "eu-1a" || e.Service.Meta["managed-by"] != "controlplane/datapunk-mesh" || e.Service.Address != "127.0.0.1" {
		t.Errorf("lake-1 is registered as %+v", e.Service)
	}
	if status := e.Checks.AggregatedStatus(); status != api.HealthPassing {
		t.Errorf("lake-1 is %s", status)
	}

	t.Run("one that is killed is gone after deregister_critical_service_after", func(t *testing.T) {
		lake2.Envoy.Kill()
		killed := time.Now()
		harness.Eventually(t, "lake-2 is out of Consul", 20*time.Second, func() error {
			entries, err := inConsul(m, "lake")
			if err == nil && entries["lake-2"] != nil {
				err = errors.New("it is there")
			}
			return err
		})
		if took := time.Since(killed); took > 9*time.Second || took < 4*time.Second {
			t.Errorf("it was gone after %s, want 4 to 9 s", took)
		}
		harness.Eventually(t, "its node is gone", 5*time.Second, func() error {
			node, _, err := m.Consul.API.Catalog().Node("mesh-lake-2", nil)
			if err == nil && node != nil {
				err = errors.New("it is there")
			}
			return err
		})
		if r := m.Call(caller, "lake_service", "/"); r.Status != 200 || r.Reply.Instance != "lake-1" {
			t.Errorf("%s from %s", r, r.Reply.Instance)
		}
	})
	t.Run("the end of the control plane removes nothing", func(t *testing.T) {
		load := m.Load(caller, "lake_service", traffic.Load{Rate: 50})
		if err := m.Plane.Stop(); err != nil {
			t.Fatal(err)
		}
		if entries, err := inConsul(m, "lake"); err != nil || entries["lake-1"] == nil {
			t.Errorf("Consul has %d instances of lake: %v", len(entries), err)
		}
		m.StartPlane()
		harness.Eventually(t, "the new one has it", 15*time.Second, func() error {
			for _, r := range registrations(t, m) {
				if r.ID == "lake-1" && r.State == "HELD" {
					return nil
				}
			}
			return fmt.Errorf("%+v", registrations(t, m))
		})
		if r := load.Stop(); r.Failed() > 0 {
			t.Errorf("%s", r)
		}
	})
}

// registrations are those that the control plane lists.
func registrations(t *testing.T, m *harness.Mesh) []run.Registration {
	t.Helper()
	list, err := m.Plane.Registrations()
	if err != nil {
		t.Fatal(err)
	}
	return list
}
