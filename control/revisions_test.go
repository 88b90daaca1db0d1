package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"datapunk.dev/controlplane/policy"
)

func versioned(t *testing.T, n int) *policy.Mesh {
	t.Helper()
	m, err := policy.Parse([]policy.File{
		{Name: "/etc/a/mesh.yaml", Data: []byte("mesh: {name: datapunk, version: '${SECRET}'}\n")},
		{Name: "/etc/b/mesh.yaml", Data: fmt.Appendf(nil, "mesh: {version: '%d'}\n", n)},
	}, policy.Options{LookupEnv: func(string) (string, bool) { return "hunter2", true }})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// onlyDir is the one directory that matches.
func onlyDir(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "mesh", pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	return found[0]
}

func TestTheLastMeshFileIsKeptAsItWasWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	r := NewRevisions(dir)
	if m, _, unusable := r.Last(policy.Options{}); m != nil || unusable != nil {
		t.Fatalf("before the first: %v, %v", m, unusable)
	}
	for n := range 30 {
		if err := r.Keep(versioned(t, n), ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Keep(versioned(t, 29), ""); err != nil { // a restart
		t.Fatal(err)
	}
	m, path, unusable := NewRevisions(dir).Last(policy.Options{})
	if m == nil || m.Version != "29" || m.Revision != versioned(t, 29).Revision || unusable != nil {
		t.Fatalf("got %v from %s, %v", m, path, unusable)
	}
	if got := m.Source("version").String(); got != filepath.Join(path, "1-mesh.yaml")+":1:8" {
		t.Errorf("its lines are told as of %s", got)
	}
	names, err := kept(filepath.Join(dir, "mesh"))
	if err != nil || len(names) != maxRevisions || !strings.HasPrefix(names[0], "000030-") {
		t.Errorf("%d are kept, %q, %v", len(names), names, err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if d.IsDir() {
			return nil
		}
		if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), "hunter2") {
			t.Errorf("%s has what a variable came to, %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAKeptMeshFileThatIsNotWhatWasKeptIsSetAsideAndNotBelieved(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(filepath.Join(path, "1-mesh.yaml"), 3) },
		"another letter": func(path string) error {
			return os.WriteFile(filepath.Join(path, "1-mesh.yaml"), []byte("mesh: {version: '3'}\n"), 0o600)
		},
		"a file is gone":  func(path string) error { return os.Remove(filepath.Join(path, "0-mesh.yaml")) },
		"no manifest":     func(path string) error { return os.Remove(filepath.Join(path, "manifest.json")) },
		"half a manifest": func(path string) error { return os.Truncate(filepath.Join(path, "manifest.json"), 40) },
		"a newer manifest": func(path string) error {
			return os.WriteFile(filepath.Join(path, "manifest.json"), []byte(`{"format": 2}`), 0o600)
		},
		"of another name": func(path string) error {
			return os.Rename(path, filepath.Join(filepath.Dir(path), "000009-0123456789ab"))
		},
		"a file, not a dir": func(path string) error { return errors.Join(os.RemoveAll(path), os.WriteFile(path, nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := NewRevisions(dir)
			for _, n := range []int{1, 2} {
				if err := r.Keep(versioned(t, n), ""); err != nil {
					t.Fatal(err)
				}
			}
			if err := damage(onlyDir(t, dir, "000002-*")); err != nil {
				t.Fatal(err)
			}
			m, _, unusable := r.Last(policy.Options{})
			if m == nil || m.Version != "1" {
				t.Errorf("got %v", m)
			}
			if len(unusable) != 1 || !strings.Contains(unusable[0].Error(), "is not what was kept") {
				t.Errorf("says %v", unusable)
			}
			onlyDir(t, dir, "corrupt-*")
			if _, _, again := r.Last(policy.Options{}); again != nil {
				t.Errorf("and again %v", again)
			}
		})
	}
}

func TestAKeptMeshFileOfAnotherEnvironmentOrThatDoesNotLoadHereIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	r := NewRevisions(dir)
	required, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte("mesh: {name: datapunk, version: '${V:?say it}'}")}},
		policy.Options{LookupEnv: func(string) (string, bool) { return "1", true }})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Keep(versioned(t, 1), ""), r.Keep(required, ""), r.Keep(versioned(t, 2), "production")); err != nil {
		t.Fatal(err)
	}
	m, _, unusable := r.Last(policy.Options{})
	if m == nil || m.Version != "1" || len(unusable) != 2 {
		t.Errorf("got %v, %v", m, unusable)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "mesh", "corrupt-*")); len(found) != 0 {
		t.Errorf("%q are set aside, and nothing is wrong with them", found)
	}
}

func TestNothingIsBelievedInADirectoryThatOthersCanWrite(t *testing.T) {
	dir := t.TempDir()
	r := NewRevisions(dir)
	revision := versioned(t, 1).Revision
	if err := errors.Join(r.Keep(versioned(t, 1), ""), r.Mean(revision)); err != nil {
		t.Fatal(err)
	}
	if !r.Meant(revision) {
		t.Fatal("the word is not heard")
	}
	for _, open := range []string{dir, filepath.Join(dir, "mesh"), filepath.Join(dir, "meant")} {
		if err := os.Chmod(open, 0o777); err != nil {
			t.Fatal(err)
		}
		m, _, unusable := r.Last(policy.Options{})
		if !strings.HasSuffix(open, "meant") && (m != nil || len(unusable) != 1) {
			t.Errorf("%s: got %v, %v", open, m, unusable)
		}
		if !strings.HasSuffix(open, "mesh") && r.Meant(revision) {
			t.Errorf("%s: the word of anybody is heard", open)
		}
		if err := os.Chmod(open, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAWordIsGoodForOneTimeAndWordsAreBounded(t *testing.T) {
	dir := t.TempDir()
	r := NewRevisions(dir)
	var words []string
	for n := range 2 * maxMeant {
		words = append(words, fmt.Sprintf("%012x", n))
		if err := errors.Join(r.Mean(words[n]), r.Mean(words[n])); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(slices.Collect(func(yield func(string) bool) {
		for _, w := range words {
			if r.Meant(w) && !yield(w) {
				return
			}
		}
	})); n != maxMeant || !r.Meant(words[len(words)-1]) {
		t.Errorf("%d words are kept", n)
	}
	last := words[len(words)-1]
	if err := errors.Join(r.Used(last), r.Used(last)); err != nil || r.Meant(last) {
		t.Errorf("a word is heard twice, %v", err)
	}
}

func TestWithoutADataDirectoryNothingIsKept(t *testing.T) {
	r := NewRevisions("")
	if err := errors.Join(r.Keep(versioned(t, 1), ""), r.Used("x")); err != nil || r.Meant("x") {
		t.Error(err)
	}
	if m, _, unusable := r.Last(policy.Options{}); m != nil || unusable != nil {
		t.Errorf("got %v, %v", m, unusable)
	}
}

// Whoever opens the data directory says that it is none, in one line.
func TestADataDirectoryThatIsAFileHasNothingKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := NewRevisions(path)
	if m, _, unusable := r.Last(policy.Options{}); m != nil || unusable != nil {
		t.Errorf("%v, %v", m, unusable)
	}
	if err := r.Keep(versioned(t, 1), ""); err == nil {
		t.Error("it was kept in a file")
	}
}
