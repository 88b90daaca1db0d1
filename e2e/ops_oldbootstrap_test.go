package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
)

// A proxy keeps its bootstrap for as long as it runs, and often longer. What is
// added to bootstraps must neither be wanted of old ones, nor make the start of
// an Envoy wait: with a control plane, or with none.
func TestAnOldBootstrapAndANewOneStartAlike(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1", Zone: "eu-1a"})
	m.Add(harness.Spec{Service: "nexus", ID: "old", Bootstrap: bootstrapBeforeRuntime(t, m), Unregistered: true})
	m.Add(harness.Spec{Service: "nexus", ID: "new", Zone: "eu-1a", Flags: []string{"--region", "eu-1", "--sub-zone", "rack-7"}, Unregistered: true})
	m.Ready()
	both := []string{"old", "new"}
	for _, id := range both {
		if r := m.Call(id, "lake_service", "/"); r.Status != 200 {
			t.Errorf("%s got %s", id, r)
		}
		for name, n := range m.Stats(id) {
			// The one thing that an Envoy waits for by the clock as it starts.
			if strings.HasSuffix(name, "init_fetch_timeout") && n != 0 {
				t.Errorf("%s waited in vain: %s is %d", id, name, n)
			}
		}
	}
	if n := m.Stats("new")["runtime.load_success"] - m.Stats("old")["runtime.load_success"]; n != 1 {
		t.Errorf("the new one loaded %d runtime layers more than the old one, want 1", n)
	}
	proxies := m.Proxies()
	for id, want := range map[string]string{"old": "NOT_SENT", "new": "SYNCED"} {
		if got := proxies[id].Types["runtime"].State; got != want {
			t.Errorf("%s: runtime is %s, want %s", id, got, want)
		}
	}

	// No control plane: each waits for it, and is there when it comes.
	if err := m.Plane.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, s := range m.Sidecars() {
		if s == lake {
			continue
		}
		if err := s.Envoy.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := s.Envoy.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range both {
		harness.Eventually(t, id+" has tried, and waits for clusters", 10*time.Second, func() error {
			stats, err := m.Sidecar(id).Envoy.Stats()
			switch {
			case err != nil:
				return err
			case stats["cluster.xds.upstream_cx_connect_fail"] == 0:
				return errors.New("it has not tried")
			case stats["cluster_manager.cds.update_attempt"] == 0:
				return errors.New("it does not ask for clusters yet")
			}
			return nil
		})
		if m.Sidecar(id).Envoy.Ready() == nil {
			t.Errorf("%s is ready without a configuration", id)
		}
	}
	m.StartPlane()
	m.Ready()
	for _, id := range both {
		if r := m.Call(id, "lake_service", "/"); r.Status != 200 {
			t.Errorf("%s got %s after its restart", id, r)
		}
	}
}

// bootstrapBeforeRuntime fills in the bootstrap that is kept.
func bootstrapBeforeRuntime(t *testing.T, m *harness.Mesh) func(*harness.Sidecar, string) string {
	t.Helper()
	kept, err := os.ReadFile("testdata/bootstrap-before-runtime.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(m.Plane.XDSAddress())
	if err != nil {
		t.Fatal(err)
	}
	return func(s *harness.Sidecar, _ string) string {
		ca, err := os.ReadFile(m.Plane.CAFile())
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]string{
			"ID": s.ID, "SERVICE": s.Service, "SOCKET": s.Socket, "TOKEN_FILE": s.TokenFile, "DIR": filepath.Dir(s.TokenFile),
			"CA": strconv.Quote(string(ca)), "XDS_PORT": port,
			"APP_PORT": fmt.Sprint(s.AppPort), "MESH_PORT": fmt.Sprint(s.MeshPort),
			"OUTBOUND_PORT": fmt.Sprint(s.OutboundPort), "METRICS_PORT": fmt.Sprint(s.MetricsPort),
		}
		return os.Expand(string(kept), func(name string) string {
			value, ok := values[name]
			if !ok {
				t.Fatalf("nobody says what ${%s} is", name)
			}
			return value
		})
	}
}
