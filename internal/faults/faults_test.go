package faults

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"datapunk.dev/controlplane/internal/tool"
)

// Each fault has its place, and each test that is named is there. What nothing shows
// is said, and nothing else.
func TestEveryFaultHasItsTests(t *testing.T) {
	packages := make(map[string]map[string]bool)
	for i, f := range Table() {
		if f.Number != i+1 || f.Name == "" {
			t.Errorf("row %d is %s %q", i+1, f.ID(), f.Name)
		}
		if len(f.Tests) == 0 && f.Missing == "" {
			t.Errorf("%s has no test, and nothing says why", f.ID())
		}
		for _, test := range f.Tests {
			if packages[test.Package] == nil {
				tests, err := Slow(tool.Root(), test.Package)
				if err != nil {
					t.Fatal(err)
				}
				packages[test.Package] = tests
			}
			if _, ok := packages[test.Package][test.Name]; !ok {
				t.Errorf("%s: there is no %s in %s", f.ID(), test.Name, test.Package)
			}
		}
		for _, id := range []string{f.ID(), strings.ToLower(f.ID())} {
			if found, err := Find(id); err != nil || found.Number != f.Number {
				t.Errorf("%s finds %s, %v", id, found.ID(), err)
			}
		}
	}
	for _, id := range []string{"", "F", "F0", "F57", "F5x", "all"} {
		if f, err := Find(id); err == nil {
			t.Errorf("%q finds %s", id, f.ID())
		}
	}
}

// A test that `make test` leaves is of a fault, or nobody ever runs it.
func TestEverySlowTestIsOfAFault(t *testing.T) {
	named := make(map[Test]bool)
	for _, f := range Table() {
		for _, test := range f.Tests {
			named[test] = true
		}
	}
	eachTest(t, func(test Test, slow bool) {
		if slow && !named[test] {
			t.Errorf("%s in %s is of no fault", test.Name, test.Package)
		}
	})
}

// eachTest calls do with every test of the project, and whether `make test` leaves it.
func eachTest(t *testing.T, do func(test Test, slow bool)) {
	t.Helper()
	root := tool.Root()
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		pkg, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		tests, err := Slow(root, pkg)
		for name, slow := range tests {
			do(Test{pkg, name}, slow)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The page has a line for each, and for each fuzz target.
func TestThePageHasEveryFault(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(tool.Root(), "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Table() {
		if !strings.Contains(string(page), "\n| "+f.ID()+" ") {
			t.Errorf("docs/reliability.md has no line %s", f.ID())
		}
	}
	eachTest(t, func(test Test, _ bool) {
		if line := "\n| `" + test.Package + " " + test.Name + "` |"; strings.HasPrefix(test.Name, "Fuzz") && !strings.Contains(string(page), line) {
			t.Errorf("docs/reliability.md has no line%s", line)
		}
	})
}
