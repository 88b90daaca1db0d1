package control

import (
	"os"
	"path/filepath"
	"testing"

	"datapunk.dev/controlplane/policy"
)

// Whatever lies in the place of the kept mesh files: what is gone back to is what was
// kept, or nothing is.
func FuzzKeptMeshFile(f *testing.F) {
	const text = "mesh: {name: datapunk}\n"
	files := []policy.File{{Name: "mesh.yaml", Data: []byte(text)}}
	revision := policy.Revision(files)
	manifest := `{"format":1,"revision":"` + revision + `","files":[{"name":"/etc/mesh.yaml","file":"0-mesh.yaml","sha256":"` + checksum([]byte(text)) + `"}]}`
	f.Add([]byte(manifest), []byte(text), "000001-"+revision)
	f.Add([]byte(`{"format":1,"revision":"`+revision+`","files":[{"file":"../../0-mesh.yaml"}]}`), []byte(text), "000001-"+revision)
	f.Add([]byte(`{"format":2}`), []byte(text), "99999999999999999999-"+revision)
	f.Add([]byte(`{"format":1,"files":[null]}`), []byte("mesh: {"), "000001-000000000000")
	f.Fuzz(func(t *testing.T, manifest, mesh []byte, name string) {
		if name != filepath.Base(name) || name == "." || name == ".." || name == "" {
			return
		}
		data := t.TempDir()
		dir := filepath.Join(data, revisionsDir, name)
		if os.MkdirAll(dir, 0o700) != nil {
			return // a name that no directory has
		}
		for file, content := range map[string][]byte{manifestFile: manifest, "0-mesh.yaml": mesh} {
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		m, path, unusable := NewRevisions(data).Last(policy.Options{})
		if m == nil {
			return
		}
		if path != dir || len(unusable) > 0 || m.Revision != policy.Revision([]policy.File{{Name: "0-mesh.yaml", Data: mesh}}) {
			t.Errorf("%q is revision %s of %s, %v", mesh, m.Revision, path, unusable)
		}
		// Kept again, it is what it was.
		if err := NewRevisions(data).Keep(m, ""); err != nil {
			t.Fatal(err)
		}
	})
}
