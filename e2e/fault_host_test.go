//go:build slow

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// small mounts a file system of a few blocks until the test ends.
func small(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(harness.Dir(t), "small")
	noError(t, os.Mkdir(dir, 0o700))
	noError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512k,mode=0700"))
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill writes a file until the disk is full.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	noError(t, err)
	defer f.Close() //nolint:errcheck // of a file that could not be written
	for err == nil {
		_, err = f.Write(make([]byte, 1024))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// TestADiskThatIsFullOrReadOnlyStopsNothing: edits and the catalog go on, a restart
// finds what was kept before, and what could not be kept is said until it can.
func TestADiskThatIsFullOrReadOnlyStopsNothing(t *testing.T) {
	dir := small(t)
	data := filepath.Join(dir, "data")
	m := harness.Start(t, harness.Options{Consul: true, DataDir: data})
	for _, spec := range []harness.Spec{{Service: "nexus", ID: "nexus-1"}, {Service: "lake_service", ID: "lake-1"}, {Service: "lake_service", ID: "lake-2"}} {
		serve(t, m, m.Consul, spec)
	}
	m.Ready()
	f := begin(t, m)
	edit := func(n int) {
		t.Helper()
		text, err := os.ReadFile(m.MeshFile(0))
		noError(t, err)
		old := strings.Split(strings.SplitAfter(string(text), "custom:\n      lake_service:\n        max_connections: ")[1], "\n")[0]
		noError(t, run.WriteFile(m.MeshFile(0), strings.Replace(string(text), "max_connections: "+old, "max_connections: "+strconv.Itoa(n), 1)))
		harness.Eventually(t, "the edit is in force", 15*time.Second, func() error {
			got := m.Resource("nexus-1", "cluster", "lake_service").Find("max_connections")
			if len(got) == 0 || fmt.Sprint(got[0]) != strconv.Itoa(n) {
				return fmt.Errorf("max_connections is %v", got)
			}
			return nil
		})
	}
	health := func(status string, want int) {
		t.Helper()
		noError(t, m.Consul.SetHealth("lake-2", status))
		harness.Eventually(t, "the catalog is followed", 15*time.Second, f.instances(want))
	}
	kept := []string{"controlplane_mesh_keep_errors_total", "controlplane_catalog_keep_errors_total"}
	counted := func() error {
		for _, name := range kept {
			if m.Metrics()[name] == 0 {
				return fmt.Errorf("%s is 0", name)
			}
		}
		return nil
	}
	for i, c := range []struct {
		name          string
		spoil, mended func()
	}{
		{"a full disk", func() { fill(t, dir) }, func() { noError(t, os.Remove(filepath.Join(dir, "ballast"))) }},
		{
			"a disk that is read-only",
			func() { noError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")) },
			func() { noError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT, "")) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			f.now()
			c.spoil()
			edit(3000 + 2*i)
			health("critical", 1)
			health("passing", 2)
			f.said(20*time.Second, "is not kept for a restart")
			harness.Eventually(t, "it is counted", 20*time.Second, counted)
			at := time.Now()
			noError(t, m.Plane.Stop())
			m.StartPlane()
			reconnected(t, m, at)
			f.sent = pushes(t, m)
			edit(3001 + 2*i)
			c.mended()
			health("critical", 1)
			health("passing", 2)
			// What could not be kept is kept when the next change of it is.
			edit(3100 + i)
			f.well(c.name, 30*time.Second, f.instances(2))
		})
	}
	f.t = t
	f.end()
}

// TestAControlPlaneThatIsStarvedOrPaused: it is stopped for ten seconds, and then has a
// fiftieth of a core. Meanwhile the catalog changes.
func TestAControlPlaneThatIsStarvedOrPaused(t *testing.T) {
	m := startConsulMesh(t)
	f := begin(t, m.Mesh)
	noError(t, m.Plane.Pause())
	noError(t, m.agent.SetHealth("lake-2", "critical"))
	time.Sleep(10 * time.Second)
	noError(t, m.Plane.Resume())
	f.well("after a pause of 10 s", 30*time.Second, f.instances(1))

	free := starve(t, m.Plane.Pid(), 2)
	f.now()
	noError(t, m.agent.SetHealth("lake-2", "passing"))
	f.well("with a fiftieth of a core", time.Minute, f.instances(2))
	for range 3 {
		time.Sleep(2 * time.Second) // nobody is cut off for being slow
		if n := xdsStreams(m.Mesh); n < len(m.Sidecars()) {
			t.Errorf("%d streams", n)
		}
	}
	free()
	f.end()
}

// starve gives a process so many hundredths of a core until it is freed, or the test
// ends: by a group of version 2, or of version 1.
func starve(t *testing.T, pid, hundredths int) (free func()) {
	t.Helper()
	root, files := "/sys/fs/cgroup/cpu", map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": fmt.Sprint(hundredths * 1000)}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		root, files = "/sys/fs/cgroup", map[string]string{"cpu.max": fmt.Sprint(hundredths*1000, " 100000")}
	}
	group := filepath.Join(root, fmt.Sprint("controlplane-test-", os.Getpid()))
	noError(t, os.Mkdir(group, 0o700))
	move := func(group string) error {
		return os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o600)
	}
	free = func() { _, _ = move(root), os.Remove(group) } // the process may have ended
	t.Cleanup(free)
	for name, value := range files {
		noError(t, os.WriteFile(filepath.Join(group, name), []byte(value), 0o600))
	}
	noError(t, move(group))
	return free
}
