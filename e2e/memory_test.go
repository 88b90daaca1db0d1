package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/consulagent"
)

// holds waits until /readyz says what it holds, and returns that.
func (m *consulMesh) holds(t *testing.T, pattern string) string {
	t.Helper()
	var said string
	harness.Eventually(t, "/readyz says what is held", 15*time.Second, func() error {
		status, ready, err := m.Plane.Readyz()
		if err != nil {
			return err
		}
		if said = strings.Join(ready.Holding, "\n"); status != http.StatusOK || !regexp.MustCompile(pattern).MatchString(said) {
			return fmt.Errorf("/readyz: %d, %+v", status, ready)
		}
		return nil
	})
	return said
}

// TestAControlPlaneStartsWithoutConsul: it serves the catalog of the disk, to those
// who have it and to a newcomer, and sends nothing to the former; when Consul is back
// nothing changes.
func TestAControlPlaneStartsWithoutConsul(t *testing.T) {
	t.Parallel()
	m := startConsulMesh(t)
	load := m.Load("nexus-1", "lake_service", traffic.Load{Rate: 100})
	m.front.down()
	restarted := m.restart(t)
	t.Log(m.holds(t, `the catalog of the disk is served, as it was at 20`))
	reconnected(t, m.Mesh, restarted)
	if n := pushes(t, m.Mesh); n["endpoint"]+n["cluster"]+n["route"] != 0 {
		t.Errorf("sent %v to proxies that have it all", n)
	}
	if age := m.Metrics()["controlplane_catalog_recalled_age_seconds"]; age <= 0 {
		t.Errorf("the metric has an age of %v", age)
	}
	// A newcomer has all that it needs.
	late := m.Prepare(harness.Spec{Service: "nexus", ID: "nexus-2"})
	m.Launch(late)
	if err := late.Envoy.WaitReady(t.Context(), 15*time.Second); err != nil {
		t.Fatal(err)
	}
	if r := m.Call("nexus-2", "lake_service", "/"); r.Status != http.StatusOK {
		t.Errorf("the newcomer's call: %d", r.Status)
	}
	m.front.up()
	harness.Eventually(t, "Consul is believed again", 20*time.Second, func() error {
		_, ready, err := m.Plane.Readyz()
		if err == nil && len(ready.Holding) != 0 {
			err = fmt.Errorf("holding %q", ready.Holding)
		}
		return err
	})
	if r := load.Stop(); r.Failed() != 0 {
		t.Errorf("%s", r)
	}
	served(t, m.Mesh, "lake-1", "lake-2")
}

// restart ends the control plane and starts it again, and returns when.
func (m *consulMesh) restart(t *testing.T) time.Time {
	t.Helper()
	m.stop(t)
	at := time.Now()
	m.StartPlane()
	return at
}

func (m *consulMesh) stop(t *testing.T) {
	t.Helper()
	if err := m.Plane.Stop(); err != nil {
		t.Fatal(err)
	}
}

// TestAConsulThatWasWipedMeanwhileIsNotBelieved: the control plane restarts, and its
// Consul is an empty one, which is then filled again.
func TestAConsulThatWasWipedMeanwhileIsNotBelieved(t *testing.T) {
	t.Parallel()
	m := startConsulMesh(t)
	load := m.Load("nexus-1", "lake_service", traffic.Load{Rate: 100})
	wiped := consulagent.ForTest(t, consulagent.Options{})
	m.stop(t)
	m.front.forward(wiped.HTTP)
	at := time.Now()
	m.StartPlane()
	t.Log(m.holds(t, `3 of 3 instances that were there before this source took over`))
	reconnected(t, m.Mesh, at)
	time.Sleep(5 * time.Second) // whatever is confirmed by reading twice is confirmed
	served(t, m.Mesh, "lake-1", "lake-2")
	// It is filled again, and its word counts.
	for _, id := range []string{"nexus-1", "lake-1", "lake-2"} {
		s := m.Sidecar(id)
		if err := wiped.Register(consulagent.Instance{Service: s.Service, ID: s.ID, Address: "127.0.0.1", Port: s.AppPort, MeshPort: s.MeshPort}); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, "nothing is held any more", 20*time.Second, func() error {
		_, ready, err := m.Plane.Readyz()
		if err == nil && len(ready.Holding) != 0 {
			err = fmt.Errorf("holding %q", ready.Holding)
		}
		return err
	})
	if r := load.Stop(); r.Failed() != 0 {
		t.Errorf("%s", r)
	}
	if err := wiped.SetHealth("lake-2", "critical"); err != nil {
		t.Fatal(err)
	}
	served(t, m.Mesh, "lake-1")
}

// TestAnOperatorSaysThatAnEmptyConsulIsMeant: by the command that /readyz names.
func TestAnOperatorSaysThatAnEmptyConsulIsMeant(t *testing.T) {
	t.Parallel()
	m := startConsulMesh(t)
	empty := consulagent.ForTest(t, consulagent.Options{})
	m.stop(t)
	m.front.forward(empty.HTTP)
	m.StartPlane()
	said := m.holds(t, "controlplane accept --revision [0-9a-f]{12}")
	revision := regexp.MustCompile("--revision ([0-9a-f]{12})").FindStringSubmatch(said)[1]
	m.CLI("accept", "--revision", revision, "--data-dir", m.Plane.DataDir())
	harness.Eventually(t, "nothing is called any more", 10*time.Second, func() error {
		if r := m.Call("nexus-1", "lake_service", "/"); r.Status == http.StatusOK {
			return fmt.Errorf("status %d", r.Status)
		}
		return nil
	})
}

// TestAKeptCatalogThatIsBrokenIsSetAside: the start goes on without it.
func TestAKeptCatalogThatIsBrokenIsSetAside(t *testing.T) {
	t.Parallel()
	m := startConsulMesh(t)
	m.stop(t)
	path := filepath.Join(m.Plane.DataDir(), "catalog.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"id":"lake-1"`) {
		t.Errorf("kept is\n%s", data)
	}
	if err := os.WriteFile(path, data[:len(data)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	m.StartPlane()
	served(t, m.Mesh, "lake-1", "lake-2")
	if log := m.Plane.Log.Since(0); !strings.Contains(log, "is not used: it is not what was kept") {
		t.Errorf("the log says\n%s", log)
	}
}
