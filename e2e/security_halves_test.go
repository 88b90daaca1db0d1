package e2e

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// guarded is a mesh file that admits nexus to lake_service, and denies reports
// at its end. What stands above is as long as one has it.
const guarded = `mesh:
  name: datapunk-mesh
  discovery: {method: file, file: /nowhere}
  security:
    mtls: {enabled: true}
    authorization:
      policies:
        - name: to-lake
          action: ALLOW
          principals: ["spiffe://datapunk/*"]
        - name: not-reports
          action: DENY
          sources: [reports]
          destinations: [lake_service]
`

// writeSlowly writes a file in place in pieces, with a pause after each.
func writeSlowly(t *testing.T, path string, pause time.Duration, pieces ...string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	noError(t, err)
	defer func() { _ = f.Close() }()
	for _, piece := range pieces {
		_, err := f.WriteString(piece)
		noError(t, err)
		time.Sleep(pause)
	}
}

// status calls lake_service from a service until stopped, and returns how many
// answers had each status.
func statuses(t *testing.T, m *harness.Mesh, from string) (stop func() map[int]int) {
	t.Helper()
	client := traffic.NewClient(m.Sidecar(from).Outbound())
	done, got := make(chan struct{}), make(map[int]int)
	var calling sync.WaitGroup
	calling.Go(func() {
		defer client.Close()
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
			r, err := client.Do(t.Context(), traffic.Request{Host: "lake_service", Path: "/"})
			if err != nil {
				got[0]++
				continue
			}
			got[r.Status]++
		}
	})
	return func() map[int]int { close(done); calling.Wait(); return got }
}

func TestADeniedCallerIsNeverAdmittedWhileTheMeshFileIsWrittenInTwoHalves(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: guarded})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Add(harness.Spec{Service: "reports", ID: "reports-1"})
	m.Ready()
	for caller, want := range map[string]int{"nexus-1": 200, "reports-1": 403} {
		if r := m.Call(caller, "lake_service", "/"); r.Status != want {
			t.Fatalf("%s: got %s, want %d", caller, r, want)
		}
	}
	denied, admitted := statuses(t, m, "reports-1"), statuses(t, m, "nexus-1")
	file := m.MeshFile(0)
	half := strings.Index(guarded, "        - name: not-reports")
	edited := strings.Replace(guarded, "mtls: {enabled: true}", "mtls: {enabled: true, mode: strict}", 1)
	editedHalf := strings.Index(edited, "        - name: not-reports")

	// For longer than any file has to rest: the first half is a beginning.
	writeSlowly(t, file, 7*time.Second, guarded[:half], guarded[half:])
	// For less: the first half of another file opens, and has not rested.
	writeSlowly(t, file, 3*time.Second, edited[:editedHalf], edited[editedHalf:])
	// The same by rename, as a tool would that copies what it finds.
	noError(t, run.WriteFile(file, edited[:editedHalf]))
	harness.Eventually(t, "the operator is told what is held, and why", 5*time.Second, func() error {
		status, ready, err := m.Plane.Readyz()
		if err != nil {
			return err
		}
		if holding := strings.Join(ready.Holding, "\n"); status != 200 || !strings.Contains(holding, "is a beginning of the file in force") {
			return fmt.Errorf("/readyz: %d, holding %q", status, holding)
		}
		if n := m.Metrics()["controlplane_mesh_held"]; n != 1 {
			return fmt.Errorf("controlplane_mesh_held is %v", n)
		}
		if !strings.Contains(m.Plane.Log.String(), "the mesh file waits: ") {
			return fmt.Errorf("the log does not say so")
		}
		return nil
	})
	m.Edit(edited)
	harness.Eventually(t, "nothing is held", 5*time.Second, func() error {
		_, ready, err := m.Plane.Readyz()
		if err == nil && len(ready.Holding) > 0 {
			err = fmt.Errorf("holding %q", ready.Holding)
		}
		return err
	})
	if got := denied(); len(got) != 1 || got[403] < 100 {
		t.Errorf("the denied caller got %v", got)
	}
	if got := admitted(); len(got) != 1 || got[200] < 100 {
		t.Errorf("the admitted caller got %v", got)
	}
}

func TestAnEditThatOpensIsAnnouncedWaitsAndIsTakenAtOnceByDeliberateWord(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: guarded})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "reports", ID: "reports-1"})
	m.Ready()
	file := m.MeshFile(0)
	open := strings.Replace(guarded, "action: DENY", "action: DENY\n          mode: shadow", 1)
	until := func(want int, within time.Duration) time.Duration {
		t.Helper()
		began := time.Now()
		harness.Eventually(t, fmt.Sprintf("reports gets %d", want), within, func() error {
			if r := m.Call("reports-1", "lake_service", "/"); r.Status != want {
				return fmt.Errorf("got %s", r)
			}
			return nil
		})
		return time.Since(began)
	}

	// By waiting.
	m.Edit(open)
	if waited := until(200, 20*time.Second); waited < 4*time.Second {
		t.Errorf("it took effect after %v", waited)
	}
	log := m.Plane.Log.String()
	for _, said := range []string{"the mesh file waits: it admits whom the file in force denies", "what DENY not-reports matched is not denied any more", "the mesh file that waited is in force"} {
		if !strings.Contains(log, said) {
			t.Errorf("the log does not say %q", said)
		}
	}
	// Closing waits for nothing.
	m.Edit(guarded)
	if waited := until(403, 20*time.Second); waited > 4*time.Second {
		t.Errorf("closing took %v", waited)
	}
	// By a word that is given before the file is there.
	next := file + ".next"
	noError(t, os.WriteFile(next, []byte(open+"# Again.\n"), 0o600))
	accept := func(path string) {
		t.Helper()
		if out := m.CLI("accept", "-f", path, "--data-dir", m.Plane.Options().DataDir); out.Code != 0 {
			t.Fatalf("accept: %d: %s", out.Code, out.Stderr)
		}
	}
	accept(next)
	noError(t, os.Rename(next, file))
	if waited := until(200, 20*time.Second); waited > 4*time.Second {
		t.Errorf("what was meant took %v", waited)
	}
	m.Edit(guarded)
	until(403, 20*time.Second)
	// By a word on a beginning, which is never taken without.
	noError(t, run.WriteFile(file, guarded[:strings.Index(guarded, "        - name: not-reports")]))
	time.Sleep(6 * time.Second)
	if r := m.Call("reports-1", "lake_service", "/"); r.Status != 403 {
		t.Errorf("a beginning of the file was taken: %s", r)
	}
	accept(file)
	until(200, 5*time.Second)
}
