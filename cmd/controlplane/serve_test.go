package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"datapunk.dev/controlplane/internal/testlog"
	"datapunk.dev/controlplane/sds/identity"
)

// served is a control plane in this process.
type served struct {
	t   *testing.T
	dir string
	log *testlog.Buffer
	url string // of the admin address

	change func(*settings) // before it starts; nil: nothing

	stop func() // ends it
}

const oneService = `services: {web: [{id: web-1, address: 127.0.0.1, port: 8080, meta: {mesh_port: "18080"}}]}`

// startServe serves a mesh file, with the catalog catalog.yaml beside it,
// until the test ends. %s in the file is the directory.
func startServe(t *testing.T, mesh string) *served {
	t.Helper()
	s := newServed(t, mesh)
	s.start()
	return s
}

// newServed is one that has not started.
func newServed(t *testing.T, mesh string) *served {
	t.Helper()
	s := &served{t: t, dir: t.TempDir()}
	s.write("catalog.yaml", oneService)
	s.write("mesh.yaml", mesh)
	return s
}

func (s *served) start() {
	s.t.Helper()
	s.run()
	s.t.Cleanup(func() { s.stop() })
}

// run starts it on what is in its directory.
func (s *served) run() {
	s.t.Helper()
	s.log = &testlog.Buffer{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, slog.New(slog.NewTextHandler(s.log, nil)), nil, s.settings())
	}()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
	admin := regexp.MustCompile(`msg=serving .*admin=(\S+)`)
	s.eventually("it serves", func() bool {
		found := admin.FindStringSubmatch(s.log.String())
		if found != nil {
			s.url = "http://" + found[1]
		}
		return found != nil
	})
	if s.change != nil {
		return // it is asked in its own way
	}
	s.eventually("it is ready", func() bool { return strings.Contains(s.get("/readyz"), `"ready":true`) })
}

func (s *served) settings() *settings {
	o := &settings{
		Files: []string{filepath.Join(s.dir, "mesh.yaml")}, DataDir: filepath.Join(s.dir, "data"),
		XDSAddress: "unix:" + filepath.Join(s.dir, "xds.sock"), AdminAddress: "127.0.0.1:0",
		MaxConnections: 1000,
	}
	if s.change != nil {
		s.change(o)
	}
	return o
}

func (s *served) write(name, text string) {
	s.t.Helper()
	text = strings.ReplaceAll(text, "%s", s.dir)
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *served) get(path string) string {
	s.t.Helper()
	resp, err := http.Get(s.url + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(body)
}

func (s *served) eventually(what string, is func() bool) {
	s.t.Helper()
	for began := time.Now(); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			s.t.Fatalf("not within 10s: %s; the log:\n%s", what, s.log)
		}
	}
}

// metric waits until a metric has a value.
func (s *served) metric(name string, want int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s is %d", name, want), func() bool {
		return strings.Contains(s.get("/metrics"), fmt.Sprintf("\n%s %d\n", name, want))
	})
}

const inFile = "mesh: {name: datapunk, discovery: {method: file, file: %s/catalog.yaml}}"

func TestTheMetricsAreCleanToPromlint(t *testing.T) {
	s := startServe(t, inFile)
	problems, err := promlint.New(strings.NewReader(s.get("/metrics"))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Every metric stands in docs/operations.md: in full where it is a sign of
// something, without the prefix in the list of the others.
func TestTheMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	words := make(map[string]bool)
	for _, w := range regexp.MustCompile(`[a-z_]+`).FindAllString(string(page), -1) {
		words[strings.TrimPrefix(w, "controlplane_")] = true
	}
	names := regexp.MustCompile(`(?m)^# TYPE controlplane_(\w+)`).FindAllStringSubmatch(startServe(t, inFile).get("/metrics"), -1)
	if len(names) < 20 {
		t.Fatalf("%d metrics", len(names))
	}
	for _, name := range names {
		if !words[name[1]] {
			t.Errorf("controlplane_%s is not in docs/operations.md", name[1])
		}
	}
}

func TestProfilesAreServedOnALoopbackAddress(t *testing.T) {
	s := startServe(t, inFile)
	if got := s.get("/debug/pprof/goroutine?debug=1"); !strings.Contains(got, "control.(*Loop).Run") {
		t.Errorf("/debug/pprof/goroutine says %.200s", got)
	}
}

// A source that fails after its first catalog holds that one; whoever is paged
// by the metric must hear of it.
func TestTheCatalogIsNotReadyWhileItsSourceFails(t *testing.T) {
	s := startServe(t, inFile)
	s.metric("controlplane_catalog_ready", 1)
	s.write("catalog.yaml", "services: [")
	s.metric("controlplane_catalog_ready", 0)
	if ready := s.get("/readyz"); !strings.Contains(ready, `"ready":true`) || !strings.Contains(ready, "catalog.yaml") {
		t.Errorf("/readyz says %s, want that it is ready and holds the last good catalog", ready)
	}
	s.write("catalog.yaml", oneService)
	s.metric("controlplane_catalog_ready", 1)
}

// Edits that load, and that this process cannot go on with.
func TestAnEditThatCannotBeFollowedIsRefusedWhole(t *testing.T) {
	for name, edit := range map[string]struct{ mesh, why string }{
		"a catalog source that cannot start": {
			"mesh: {name: datapunk, version: '2', discovery: {consul: {scheme: https, tls: {ca_file: %s/ca.pem}}}}", "ca.pem",
		},
		"another trust domain": {
			"mesh: {name: datapunk, version: '2', discovery: {method: file, file: %s/catalog.yaml}, security: {mtls: {trust_domain: other}}}", "trust domain",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServe(t, inFile)
			s.write("mesh.yaml", edit.mesh)
			s.metric("controlplane_mesh_rejected", 1)
			if ready := s.get("/readyz"); !strings.Contains(ready, "the last good mesh file") || !strings.Contains(ready, edit.why) {
				t.Errorf("/readyz says %s, want why the file is held back", ready)
			}
			if m := s.get("/metrics"); !strings.Contains(m, `controlplane_mesh_info{name="datapunk"`) || strings.Contains(m, `version="2"`) {
				t.Error("the refused file is said to be in force")
			}
			s.metric("controlplane_catalog_ready", 1)
			s.write("mesh.yaml", inFile)
			s.metric("controlplane_mesh_rejected", 0)
		})
	}
}

// The mesh file may say which root the mesh has. Then a data directory that was lost is
// not made anew; a file that names another root is a bad one like any other.
func TestTheMeshFileSaysWhichRootTheMeshHas(t *testing.T) {
	const other = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	with := func(root string) string {
		return strings.TrimSuffix(inFile, "}") + ", security: {mtls: {root: \"" + root + "\"}}}"
	}
	s := startServe(t, inFile)
	pem, err := os.ReadFile(filepath.Join(s.dir, "data", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := identity.HashRoot(pem)
	if err != nil {
		t.Fatal(err)
	}
	refused := func() {
		t.Helper()
		s.metric("controlplane_mesh_rejected", 1)
		if ready := s.get("/readyz"); !strings.Contains(ready, "security.mtls.root is "+other) || !strings.Contains(ready, root.String()) {
			t.Errorf("/readyz says %s", ready)
		}
	}
	s.write("mesh.yaml", with(other))
	refused()
	s.restart()
	refused()
	s.write("mesh.yaml", with(root.String()))
	s.metric("controlplane_mesh_rejected", 0)
	s.restart()
	s.metric("controlplane_mesh_rejected", 0)

	s.stop()
	s.stop = func() {}
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		t.Fatal(err)
	}
	err = serve(t.Context(), slog.New(slog.DiscardHandler), nil, s.settings())
	if err == nil || !strings.Contains(err.Error(), "the root "+root.String()+" is expected: restore the data directory from its backup") {
		t.Errorf("a start without its data directory: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "data", "ca.pem")); err == nil {
		t.Error("an authority was made")
	}
}

func TestStrictMTLSInARunningMeshIsWarnedOf(t *testing.T) {
	off := strings.TrimSuffix(inFile, "}") + ", security: {mtls: {enabled: false}}}"
	s := startServe(t, off)
	s.write("mesh.yaml", strings.Replace(off, "enabled: false", "mode: permissive", 1))
	s.metric("controlplane_mesh_reloads_total", 1)
	const warning = "mTLS was off and is strict now"
	if strings.Contains(s.log.String(), warning) {
		t.Error("permissive cuts nobody off")
	}
	s.write("mesh.yaml", off)
	s.metric("controlplane_mesh_reloads_total", 2)
	s.write("mesh.yaml", inFile)
	s.eventually("the log warns", func() bool { return strings.Contains(s.log.String(), warning) })
}

func TestAWarningIsLoggedWhenItIsNew(t *testing.T) {
	quick := strings.TrimSuffix(inFile, "}") + ", version: '%d', security: {mtls: {cert_rotation: 20s}}}"
	s := startServe(t, inFile)
	said := func() int { return strings.Count(s.log.String(), "code=MC2106") }
	for i, step := range []struct {
		mesh string
		want int
	}{{quick, 1}, {quick, 1}, {inFile, 1}, {quick, 2}} {
		s.write("mesh.yaml", strings.Replace(step.mesh, "%d", fmt.Sprint(i), 1))
		s.metric("controlplane_mesh_reloads_total", i+1)
		if said() != step.want {
			t.Errorf("edit %d: said %d times, want %d", i, said(), step.want)
		}
	}
}

// restart ends it and starts it again on what is in its directory now.
func (s *served) restart() {
	s.t.Helper()
	s.stop()
	s.run()
}

func TestAStartWithAMeshFileThatCannotBeFollowedGoesBackToTheLastOne(t *testing.T) {
	s := startServe(t, inFile)
	s.write("mesh.yaml", "mesh: {name: datapunk, version: '2', discovery: {consul: {scheme: https, tls: {ca_file: %s/ca.pem}}}}")
	s.restart()
	s.metric("controlplane_mesh_kept", 1)
	s.metric("controlplane_mesh_rejected", 1)
	if ready := s.get("/readyz"); !strings.Contains(ready, `"ready":true`) || !strings.Contains(ready, "the mesh file kept in") || !strings.Contains(ready, "ca.pem") {
		t.Errorf("/readyz says %s", ready)
	}
	s.write("mesh.yaml", inFile+"\n")
	s.metric("controlplane_mesh_kept", 0)
	s.metric("controlplane_mesh_rejected", 0)
}
