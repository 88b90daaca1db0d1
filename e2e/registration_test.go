package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
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
		killed := time.Now()
		lake2.Envoy.Kill()
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

// TestHowSoonAProxyIsKnown measures from when the port of a new proxy is open to when
// another Envoy has it among its endpoints. The log has the figures.
func TestHowSoonAProxyIsKnown(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Registers: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-0"})
	m.Ready()
	var took []time.Duration
	for i := range 15 {
		s := m.Prepare(harness.Spec{Service: "lake_service", ID: fmt.Sprintf("lake-%d", i+1)})
		m.Launch(s)
		opened := time.Time{}
		for began := time.Now(); ; {
			if opened.IsZero() {
				if conn, err := net.DialTimeout("tcp", s.Inbound(), time.Second); err == nil {
					_ = conn.Close()
					opened = time.Now()
				}
			}
			if h, err := host(m, s); err == nil && h.Health.EDS == "HEALTHY" {
				took = append(took, max(0, time.Since(opened)))
				break
			}
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s is not known: %+v", s.ID, registrations(t, m))
			}
		}
	}
	slices.Sort(took)
	t.Logf("from an open port to another Envoy's endpoints: p50 %s, all %s", took[len(took)/2].Round(time.Millisecond), took)
}

// TestProxiesBesideAFile: a catalog in a file is read only, and connected proxies are
// in it all the same if the mesh file says so.
func TestProxiesBesideAFile(t *testing.T) {
	const register = "mesh: {discovery: {register: true, consul: {deregister_critical_service_after: 4s}}}"
	m := harness.Start(t, harness.Options{Registers: true, Overlay: register})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	lake2 := m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2")

	// What stands in the file is the file's to say.
	i := m.Sidecar("lake-1").Instance()
	i.ID, i.Health = "by-hand", run.Critical
	if err := m.Registry.Register(i); err != nil {
		t.Fatal(err)
	}
	inRotation(t, m, "lake_service", "lake-2")
	harness.Eventually(t, "lake-1 is listed as another's", 15*time.Second, func() error {
		out := m.CLI("proxies", "--admin-address", m.Plane.AdminAddress(), "--service", "lake_service")
		if !strings.Contains(out.Stdout, "the catalog's file has it, as by-hand") || strings.Count(out.Stdout, " HELD ") != 1 {
			return fmt.Errorf("%d %s%s", out.Code, out.Stdout, out.Stderr)
		}
		return nil
	})
	m.Deregister("by-hand")
	inRotation(t, m, "lake_service", "lake-1", "lake-2")

	lake2.Envoy.Kill()
	harness.Eventually(t, "lake-2 is gone", 15*time.Second, func() error {
		if h, err := host(m, lake2); err == nil {
			return fmt.Errorf("it is %s", h.Health.EDS)
		}
		return nil
	})
	m.Edit("mesh: {discovery: {register: false}}")
	harness.Eventually(t, "no proxy is in the catalog any more", 15*time.Second, func() error {
		if h, err := host(m, m.Sidecar("lake-1")); err == nil {
			return fmt.Errorf("lake-1 is %s", h.Health.EDS)
		}
		return nil
	})
}

// TestTheFileAndTheControlPlaneAreRegistered: what no proxy speaks for, with its checks,
// and an edit of it without a restart.
func TestTheFileAndTheControlPlaneAreRegistered(t *testing.T) {
	var down atomic.Bool
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer app.Close()
	services := fmt.Sprintf(`[{name: postgres, id: pg-1, address: 127.0.0.1, port: 5432, tags: [primary], meta: {version: "16"}, check: {http: %q, interval: 1s}}]`, app.URL)
	overlay := func(register string) string { return "mesh: {discovery: {consul: {register: {" + register + "}}}}" }
	m := harness.Start(t, harness.Options{Consul: true, Registers: true, Overlay: overlay("control_plane: true, services: " + services)})
	becomes := func(service string, want ...string) {
		t.Helper()
		harness.Eventually(t, fmt.Sprintf("%s is %v", service, want), 15*time.Second, func() error {
			entries, err := inConsul(m, service)
			if err != nil {
				return err
			}
			got := []string{}
			for _, e := range entries {
				got = append(got, e.Checks.AggregatedStatus())
			}
			if !slices.Equal(got, append([]string{}, want...)) {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
	becomes("control-plane", "passing")
	becomes("postgres", "passing")
	entries, err := inConsul(m, "postgres")
	if err != nil || entries["pg-1"].Service.Meta["version"] != "16" || !slices.Equal(entries["pg-1"].Service.Tags, []string{"primary"}) {
		t.Errorf("%+v: %v", entries["pg-1"], err)
	}
	down.Store(true)
	becomes("postgres", "critical")
	m.Edit(overlay("control_plane: true"))
	becomes("postgres")
	becomes("control-plane", "passing")
	if err := m.Plane.Stop(); err != nil {
		t.Fatal(err)
	}
	becomes("control-plane")
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
