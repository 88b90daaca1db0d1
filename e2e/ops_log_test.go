package e2e

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// startWithLogTo starts the control plane of a mesh with a standard error of
// its own.
func startWithLogTo(t *testing.T, m *harness.Mesh, w *os.File) {
	t.Helper()
	options := m.Plane.Options()
	options.Stderr = w
	plane, err := run.StartControlPlane(options)
	noError(t, err)
	m.Plane = plane
	noError(t, w.Close())
	noError(t, plane.WaitReady(t.Context(), 20*time.Second))
}

// full returns a pipe that takes not one byte more.
func full(t *testing.T) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	noError(t, syscall.Pipe2(fds[:], syscall.O_CLOEXEC))
	noError(t, syscall.SetNonblock(fds[1], true))
	for block := make([]byte, 4096); len(block) > 0; {
		if _, err := syscall.Write(fds[1], block); err != nil {
			block = block[:len(block)/2]
		}
	}
	noError(t, syscall.SetNonblock(fds[1], false))
	return os.NewFile(uintptr(fds[0]), "read"), os.NewFile(uintptr(fds[1]), "write")
}

// works checks that edits hold, that new proxies are served, and that SIGTERM
// ends the process.
func works(t *testing.T, m *harness.Mesh) {
	t.Helper()
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	before := pushes(t, m)
	m.Edit(seedWith(t, 3001))
	takesEffect(t, m, 3001, before)
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	if r := m.Call("nexus-1", "lake_service", "/"); r.Status != 200 {
		t.Errorf("got %s", r)
	}
}

func ends(t *testing.T, m *harness.Mesh) {
	t.Helper()
	if err := m.Plane.Stop(); err != nil || m.Plane.ExitCode() != 0 {
		t.Errorf("after SIGTERM: exit code %d, %v", m.Plane.ExitCode(), err)
	}
}

func TestALogThatNobodyReadsStopsNothing(t *testing.T) {
	m := harness.New(t, harness.Options{Flags: []string{"--log-level=debug"}})
	r, w := full(t)
	t.Cleanup(func() { _ = r.Close() })
	startWithLogTo(t, m, w)
	works(t, m)

	// More lines than may wait: mistakes are logged one by one.
	var mistakes strings.Builder
	mistakes.WriteString("mesh:\n")
	for i := range 20_000 {
		fmt.Fprintf(&mistakes, "  mistake_%d: 1\n", i)
	}
	m.Edit(mistakes.String())
	const dropped = "controlplane_log_lines_dropped_total"
	harness.Eventually(t, "lines are left out, and counted", 20*time.Second, func() error {
		if m.Metrics()[dropped] == 0 {
			return fmt.Errorf("%s is 0", dropped)
		}
		return nil
	})
	m.Edit(seedWith(t, 3002))
	harness.Eventually(t, "the next edit holds", 10*time.Second, func() error {
		if got := limitOf(m); got != 3002 {
			return fmt.Errorf("the limit is %d", got)
		}
		return nil
	})

	// Somebody reads again.
	said := make(chan string, 1)
	go func() {
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadString('\n')
			if strings.Contains(line, "log lines were left out") {
				said <- line
			}
			if err != nil {
				close(said)
				return
			}
		}
	}()
	select {
	case line := <-said:
		if !strings.Contains(line, `"lines":`) {
			t.Errorf("it does not say how many: %q", line)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing says that lines are missing")
	}
	ends(t, m)
}

func TestTheEndDoesNotWaitForALogThatNobodyReads(t *testing.T) {
	m := harness.New(t, harness.Options{})
	r, w := full(t)
	t.Cleanup(func() { _ = r.Close() })
	startWithLogTo(t, m, w)
	ends(t, m)
}

func TestALogWhoseReaderIsGoneStopsNothing(t *testing.T) {
	m := harness.New(t, harness.Options{Flags: []string{"--log-level=debug"}})
	r, w, err := os.Pipe()
	noError(t, err)
	noError(t, r.Close())
	startWithLogTo(t, m, w)
	works(t, m)
	if n := m.Metrics()["controlplane_log_lines_dropped_total"]; n == 0 {
		t.Error("no line is counted as lost")
	}
	ends(t, m)
}
