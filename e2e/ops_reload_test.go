package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// seedWith returns the operators' file with another limit for stream_service,
// which is one cluster. Limits have four digits, so that the files have one length.
func seedWith(t *testing.T, limit int) string {
	t.Helper()
	text := strings.Replace(harness.Seed(t), "max_requests: 2048", fmt.Sprintf("max_requests: %04d", limit), 1)
	if text == harness.Seed(t) && limit != 2048 {
		t.Fatal("the seed has changed")
	}
	return text
}

// limitOf is what lake-1 runs with.
func limitOf(m *harness.Mesh) int {
	n, _ := m.Resource("lake-1", "cluster", "stream_service").Field("circuit_breakers.thresholds.0.max_requests").(float64)
	return int(n)
}

// takesEffect waits until an edit of the limit has reached Envoy, and checks
// that it was all that was sent since before.
func takesEffect(t *testing.T, m *harness.Mesh, limit int, before map[string]int) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("the limit of %d is in force", limit), 6*time.Second, func() error {
		if got := limitOf(m); got != limit {
			return fmt.Errorf("it is %d", got)
		}
		return nil
	})
	after := pushes(t, m)
	for typ := range after {
		want := 0
		if typ == "cluster" || typ == "endpoint" { // a changed cluster warms with its assignment
			want = 1
		}
		if n := after[typ] - before[typ]; n != want {
			t.Errorf("the edit had %d responses of %s sent, want %d", n, typ, want)
		}
	}
}

func TestEditOfTheMeshFileTakesEffectHoweverItIsSaved(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	file := m.MeshFile(0)
	write := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	symlink := func(t *testing.T, to, at string) {
		t.Helper()
		if err := os.Symlink(to, at+".new"); err != nil {
			t.Fatal(err)
		}
		rename(t, at+".new", at)
	}
	limit := 3000
	for _, c := range []struct {
		name string
		save func(t *testing.T, text string)
	}{
		{"written in place", func(t *testing.T, text string) { write(t, file, text) }},
		{"written in place in two halves", func(t *testing.T, text string) {
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			for _, half := range []string{text[:len(text)/2], text[len(text)/2:]} {
				if _, err := f.WriteString(half); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond) // a slow editor
			}
		}},
		{"renamed over", func(t *testing.T, text string) { m.Edit(text) }},
		{"the old one renamed away first", func(t *testing.T, text string) {
			rename(t, file, file+"~")
			write(t, file, text)
		}},
		{"removed and made again", func(t *testing.T, text string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			write(t, file, text)
		}},
		{"a symlink in its place", func(t *testing.T, text string) {
			// As Kubernetes mounts a ConfigMap: mesh.yaml → ..data/mesh.yaml, ..data → a version.
			dir := filepath.Dir(file)
			version := filepath.Join(dir, fmt.Sprintf("..version-%d", limit))
			if err := os.Mkdir(version, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(version, "mesh.yaml"), text)
			symlink(t, version, filepath.Join(dir, "..data"))
			symlink(t, "..data/mesh.yaml", file)
		}},
		{"the directory's symlink swapped", func(t *testing.T, text string) {
			dir := filepath.Dir(file)
			version := filepath.Join(dir, fmt.Sprintf("..version-%d", limit))
			if err := os.Mkdir(version, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(version, "mesh.yaml"), text)
			symlink(t, version, filepath.Join(dir, "..data"))
		}},
		{"and once more", func(t *testing.T, text string) {
			dir := filepath.Dir(file)
			version := filepath.Join(dir, fmt.Sprintf("..version-%d", limit))
			if err := os.Mkdir(version, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(version, "mesh.yaml"), text)
			symlink(t, version, filepath.Join(dir, "..data"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := pushes(t, m)
			limit++
			c.save(t, seedWith(t, limit))
			takesEffect(t, m, limit, before)
		})
	}
	if refused := m.Metrics()["controlplane_mesh_reload_errors_total"]; refused != 0 {
		t.Errorf("%v half-written files were taken for the operator's word:\n%s", refused, m.Plane.Log.Tail(20))
	}
}

// TestHangupReadsAFileOfWhichNothingIsNotified writes through a mapping, which
// the kernel notifies nobody of. The file is looked at unasked every 30 s only.
func TestHangupReadsAFileOfWhichNothingIsNotified(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	before := pushes(t, m)
	time.Sleep(time.Second) // until what has just been written is read

	f, err := os.OpenFile(m.MeshFile(0), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	was, err := os.ReadFile(m.MeshFile(0))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(was), "max_requests: 2048", "max_requests: 3001", 1)
	mapped, err := syscall.Mmap(int(f.Fd()), 0, len(text), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	copy(mapped, text)
	if err := syscall.Munmap(mapped); err != nil {
		t.Fatal(err)
	}
	if written, err := os.ReadFile(m.MeshFile(0)); err != nil || string(written) != text {
		t.Fatalf("the edit is not in the file: %v", err)
	}
	// Longer than a notification takes: this is what SIGHUP is for.
	time.Sleep(time.Second)
	if got := limitOf(m); got != 2048 {
		t.Fatalf("the edit took effect without SIGHUP (%d): this shows nothing", got)
	}
	if err := m.Plane.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	takesEffect(t, m, 3001, before)
}

func TestUnchangedContentSendsNothing(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	before := pushes(t, m)
	revision := meshRevision(t, m)
	reloads := m.Metrics()["controlplane_mesh_reloads_total"]

	m.Edit(harness.Seed(t))
	now := time.Now()
	if err := os.Chtimes(m.MeshFile(0), now, now); err != nil {
		t.Fatal(err)
	}
	if err := m.Plane.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	asked := regexp.MustCompile(`reading the mesh file again`)
	harness.Eventually(t, "SIGHUP is taken", 5*time.Second, func() error {
		if len(m.Plane.Log.Matching(asked)) == 0 {
			return fmt.Errorf("the log does not say so")
		}
		return nil
	})
	time.Sleep(time.Second) // several times what a file has to rest before it is read
	// Words that change nothing: comments, another unit, quotes.
	words := strings.NewReplacer("connect: 5s", "connect: 5000ms", "prometheus\n", "'prometheus'\n").Replace(harness.Seed(t))
	m.Edit("# Edited.\n" + words + "\n# To the end.\n")
	harness.Eventually(t, "the file with other words is in force", 6*time.Second, func() error {
		if r := meshRevision(t, m); r == revision {
			return fmt.Errorf("the revision is %s", r)
		}
		return nil
	})
	if n := m.Metrics()["controlplane_mesh_reloads_total"] - reloads; n != 1 {
		t.Errorf("%v reloads, want that of the file with other words only", n)
	}
	// An edit that does change something comes after all of these: what was
	// sent by then is its effect alone.
	m.Edit(seedWith(t, 3001))
	takesEffect(t, m, 3001, before)
}

// meshRevision returns the revision of the mesh file in force.
func meshRevision(t *testing.T, m *harness.Mesh) string {
	t.Helper()
	for name := range m.Metrics() {
		if found := regexp.MustCompile(`^controlplane_mesh_info\{.*revision="([^"]+)"`).FindStringSubmatch(name); found != nil {
			return found[1]
		}
	}
	t.Fatal("no controlplane_mesh_info")
	return ""
}

func TestFileCatalogIsFollowedAndABadOneKeepsTheLastGood(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	m.Ready()
	file := filepath.Join(m.Dir, "catalog.yaml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	hosts := func(want map[string]string) {
		t.Helper()
		harness.Eventually(t, fmt.Sprintf("lake_service is %v", want), 6*time.Second, func() error {
			clusters, err := m.Sidecar("lake-1").Envoy.Clusters()
			if err != nil {
				return err
			}
			got := make(map[string]string)
			for _, h := range clusters["lake_service"].Hosts {
				for _, s := range m.Sidecars() {
					if h.Address.Socket.Port == s.MeshPort {
						got[s.ID] = h.Health.EDS
					}
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("it is %v", got)
			}
			return nil
		})
	}
	before := pushes(t, m)
	m.SetHealth("lake-2", run.Critical)
	hosts(map[string]string{"lake-1": "HEALTHY", "lake-2": "UNHEALTHY"})
	m.SetHealth("lake-2", run.Maintenance)
	hosts(map[string]string{"lake-1": "HEALTHY"})
	m.SetHealth("lake-2", run.Passing)
	hosts(map[string]string{"lake-1": "HEALTHY", "lake-2": "HEALTHY"})
	m.Deregister("lake-2")
	hosts(map[string]string{"lake-1": "HEALTHY"})
	// Written in place, and not by rename as the steps above.
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	hosts(map[string]string{"lake-1": "HEALTHY", "lake-2": "HEALTHY"})
	if after := pushes(t, m); after["cluster"] != before["cluster"] || after["listener"] != before["listener"] || after["route"] != before["route"] {
		t.Errorf("changes of instances moved more than endpoints: %v, before %v", after, before)
	}

	for _, c := range []struct{ name, text, why string }{
		{"mistakes", strings.Replace(string(good), "health: passing", "health: pasing", 2), `catalog\.yaml:\d+:\d+: .*pasing`},
		{"no YAML", "services: [", `catalog\.yaml:\d+:\d+: `},
		{"nothing", "", `catalog\.yaml:1:1: MC1006: the file is empty`},
		{"gone", "gone", `catalog\.yaml: no such file`},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := pushes(t, m)
			mark := m.Plane.Log.Len()
			if c.text == "gone" {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			} else if err := run.WriteFile(file, c.text); err != nil {
				t.Fatal(err)
			}
			why := regexp.MustCompile(`the last good catalog: .*` + c.why)
			harness.Eventually(t, "/readyz and the log say why", 6*time.Second, func() error {
				status, ready, err := m.Plane.Readyz()
				if err != nil {
					return err
				}
				if status != 200 || !why.MatchString(strings.Join(ready.Holding, "\n")) {
					return fmt.Errorf("/readyz: %d, holding %q", status, ready.Holding)
				}
				if log := m.Plane.Log.Since(mark); !regexp.MustCompile(`"level":"ERROR".*the last good one stays.*` + c.why).MatchString(log) {
					return fmt.Errorf("the log says\n%s", log)
				}
				return nil
			})
			hosts(map[string]string{"lake-1": "HEALTHY", "lake-2": "HEALTHY"})
			if r := m.Call("lake-1", "lake_service", "/"); r.Status != 200 {
				t.Errorf("got %s", r)
			}
			if err := run.WriteFile(file, string(good)); err != nil {
				t.Fatal(err)
			}
			harness.Eventually(t, "the good catalog is taken", 6*time.Second, func() error {
				_, ready, err := m.Plane.Readyz()
				if err == nil && len(ready.Holding) != 0 {
					err = fmt.Errorf("holding %q", ready.Holding)
				}
				return err
			})
			if after := pushes(t, m); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("sent %v, before the bad catalog %v", after, before)
			}
		})
	}
}
