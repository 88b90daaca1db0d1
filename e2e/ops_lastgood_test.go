package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// holdingAt waits until /readyz is 200 and says that it holds each of the parts.
func holdingAt(t *testing.T, m *harness.Mesh, parts ...string) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("/readyz holds %q", parts), 10*time.Second, func() error {
		status, ready, err := m.Plane.Readyz()
		if err != nil {
			return err
		}
		holding := strings.Join(ready.Holding, "\n")
		for _, part := range parts {
			if !strings.Contains(holding, part) {
				return fmt.Errorf("/readyz: %d, holding %q", status, holding)
			}
		}
		if len(parts) == 0 && holding != "" {
			return fmt.Errorf("holding %q", holding)
		}
		return nil
	})
}

// limitIs waits until lake-1 runs with a limit.
func limitIs(t *testing.T, m *harness.Mesh, limit int) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("the limit is %d", limit), 10*time.Second, func() error {
		if got := limitOf(m); got != limit {
			return fmt.Errorf("it is %d", got)
		}
		return nil
	})
}

func TestARestartWithABadMeshFileStartsFromTheLastGoodOneAndWaits(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	m.Edit(seedWith(t, 3001))
	limitIs(t, m, 3001)

	for name, bad := range map[string]string{
		"a mistake":       strings.Replace(seedWith(t, 3002), "max_retries", "max_retires", 1),
		"no YAML":         "mesh: [",
		"a trust domain":  strings.ReplaceAll(seedWith(t, 3002), "spiffe://datapunk/", "spiffe://elsewhere/"),
		"none":            "",
		"half of a file":  seedWith(t, 3001)[:strings.Index(seedWith(t, 3001), "  security:")],
		"an unread token": seedWith(t, 3002) + "  x-more: &a\n  version: *b\n",
	} {
		t.Run(name, func(t *testing.T) {
			noError(t, m.Plane.Stop())
			if bad == "" {
				noError(t, os.Remove(m.MeshFile(0)))
			} else {
				noError(t, run.WriteFile(m.MeshFile(0), bad))
			}
			noError(t, m.Plane.Start())
			noError(t, m.Plane.WaitReady(t.Context(), 20*time.Second))
			holdingAt(t, m, "the mesh file kept in "+filepath.Join(m.Plane.Options().DataDir, "mesh"), "the last")
			metrics := m.Metrics()
			if metrics["controlplane_mesh_kept"] != 1 || metrics["controlplane_mesh_rejected"]+metrics["controlplane_mesh_held"] != 1 {
				t.Errorf("kept %v, rejected %v, held %v", metrics["controlplane_mesh_kept"], metrics["controlplane_mesh_rejected"], metrics["controlplane_mesh_held"])
			}
			if !strings.Contains(m.Plane.Log.String(), "starting with the last mesh file that was in force") {
				t.Error("the log does not say so")
			}
			noError(t, m.Plane.WaitSynced(t.Context(), 20*time.Second, "lake-1"))
			if got := limitOf(m); got != 3001 {
				t.Errorf("the limit is %d, want that of the last good file", got)
			}
			m.Edit(seedWith(t, 3003))
			limitIs(t, m, 3003)
			m.Edit(seedWith(t, 3001))
			limitIs(t, m, 3001)
			holdingAt(t, m)
			if n := m.Metrics()["controlplane_mesh_kept"]; n != 0 {
				t.Errorf("controlplane_mesh_kept is %v", n)
			}
		})
	}

	t.Run("with a kept one that is corrupt", func(t *testing.T) {
		noError(t, m.Plane.Stop())
		dir := filepath.Join(m.Plane.Options().DataDir, "mesh")
		kept, err := filepath.Glob(filepath.Join(dir, "0*"))
		noError(t, err)
		newest := kept[len(kept)-1]
		noError(t, os.Truncate(filepath.Join(newest, "0-mesh.yaml"), 700))
		m.Edit("mesh: [")
		m.StartPlane()
		limitIs(t, m, 3003) // the one before it
		aside := filepath.Join(dir, "corrupt-"+filepath.Base(newest))
		if _, err := os.Stat(aside); err != nil || !strings.Contains(m.Plane.Log.String(), newest) {
			t.Errorf("it is not set aside, or not named: %v", err)
		}
	})

	t.Run("without any", func(t *testing.T) {
		noError(t, m.Plane.Stop())
		noError(t, os.RemoveAll(filepath.Join(m.Plane.Options().DataDir, "mesh")))
		noError(t, m.Plane.Start())
		select {
		case <-m.Plane.Done():
		case <-time.After(10 * time.Second):
			noError(t, errors.New("it runs"))
		}
		if m.Plane.ExitCode() != 1 || !strings.Contains(m.Plane.Log.String(), "mesh.yaml:1:") {
			t.Errorf("exit code %d:\n%s", m.Plane.ExitCode(), m.Plane.Log)
		}
	})
}
