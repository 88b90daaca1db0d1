package control

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/sds"
)

// planeOf makes a control plane of a mesh file and a data directory.
func planeOf(t *testing.T, dir, mesh string) (*Plane, error) {
	t.Helper()
	path := filepath.Join(filepath.Dir(dir), "mesh.yaml")
	if err := os.WriteFile(path, []byte(mesh), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	return New(t.Context(), Options{
		Log: quiet, ClientLog: quiet, LogDropped: func() uint64 { return 0 }, Metrics: prometheus.NewRegistry(),
		Files: []string{path}, Catalog: "file:none.yaml", DataDir: dir, Quorum: 3, Streams: 10,
	})
}

// Where the authority is changes in no process that runs. A start goes on with the same
// root in another place, and with the last mesh file that was in force where the new one
// names a place that has another root, or none: no authority is made anew.
func TestAnEditOfTheAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	at := filepath.Join(t.TempDir(), "mesh")
	moved := fmt.Sprintf("mesh:\n  name: m\n  security: {mtls: {ca: {cert_file: %s/ca.crt, key_file: %[1]s/ca.key}}}\n", at)
	p, err := planeOf(t, dir, "mesh: {name: m}")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Start(); err != nil {
		t.Fatal(err)
	}
	root := string(p.svids.Roots())
	mesh, err := policy.Parse([]policy.File{{Name: "edit.yaml", Data: []byte(moved)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = p.accept(mesh)
	if err == nil || !strings.HasPrefix(err.Error(), "edit.yaml:3:21: security.mtls.ca is provider builtin") || !strings.Contains(err.Error(), "controlplane roots") {
		t.Errorf("the edit: %v", err)
	}
	// A restart with it, and nothing there.
	if p, err = planeOf(t, dir, moved); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(at, "ca.crt")); err == nil {
		t.Fatal("a new authority was made")
	}
	if string(p.svids.Roots()) != root || p.rejected == nil || !strings.Contains(p.rejected.Error(), "security.mtls.ca") {
		t.Errorf("it starts with another root, or does not say why not with the file: %v", p.rejected)
	}
	// A restart with the files moved there.
	for from, to := range map[string]string{"ca.pem": "ca.crt", "ca-key.pem": "ca.key"} {
		data, err := os.ReadFile(filepath.Join(dir, from))
		if err == nil {
			err = os.WriteFile(filepath.Join(at, to), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if p, err = planeOf(t, dir, moved); err != nil {
		t.Fatal(err)
	}
	if string(p.svids.Roots()) != root || p.rejected != nil || p.authority.CertFile != at+"/ca.crt" {
		t.Errorf("it does not start with the files: %v", p.rejected)
	}
	// The fingerprint of the mesh file guards what is there as ever.
	other := filepath.Join(t.TempDir(), "other")
	wants := strings.Replace(moved, "ca: {", "root: \"sha256:"+strings.Repeat("ab", 32)+"\", ca: {", 1)
	if _, err := planeOf(t, other, wants); err == nil || !strings.Contains(err.Error(), "restore the data directory") {
		t.Errorf("another root than the fingerprint's: %v", err)
	}
	if roots, err := sds.ReadRoots(other); err != nil || roots != nil {
		t.Error("an authority was made beside the fingerprint")
	}
}
