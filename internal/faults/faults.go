// Package faults is the table of the faults that the control plane must survive, and
// of the tests that show it, so that each can be run by its number. It owns the table
// and how a test is found; the tests stand beside what they test.
package faults

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Fault is one fault.
type Fault struct {
	Number int
	Name   string
	Tests  []Test
	// Missing says what no test shows, because it is not built or not mended yet.
	Missing string
}

// Test is one test, or fuzz target with its kept inputs.
type Test struct {
	Package string // below the module
	Name    string
}

// ID is how a fault is called: F05.
func (f Fault) ID() string { return fmt.Sprintf("F%02d", f.Number) }

// Find returns the fault that is called so: F5, F05 or 5.
func Find(id string) (Fault, error) {
	for _, f := range Table() {
		if n := strings.TrimPrefix(strings.ToUpper(id), "F"); fmt.Sprint(f.Number) == strings.TrimLeft(n, "0") {
			return f, nil
		}
	}
	return Fault{}, fmt.Errorf("there is no fault %q: want F01 to F%d", id, len(Table()))
}

// slowTag is the build tag of tests that take 20 s or more: `make test` leaves them.
const slowTag = "slow"

// Slow reports which of the tests of a package `make test` leaves. Those that are not
// there are no keys.
func Slow(root, pkg string) (map[string]bool, error) {
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		return nil, err
	}
	tests := make(map[string]bool)
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, src, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		first, _, _ := strings.Cut(string(src), "\n")
		slow := strings.HasPrefix(first, "//go:build") && slices.Contains(strings.Fields(first), slowTag)
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) && f.Name.Name != "TestMain" {
				tests[f.Name.Name] = slow
			}
		}
	}
	return tests, nil
}
