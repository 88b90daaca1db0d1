// Command run runs the tests of faults by their numbers.
//
//	go run ./internal/faults/run F05 F44   those of two
//	go run ./internal/faults/run all       those of all
//	go run ./internal/faults/run left      names those that `make test` leaves
package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"datapunk.dev/controlplane/internal/faults"
	"datapunk.dev/controlplane/internal/tool"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ids []string) error {
	var chosen []faults.Fault
	switch {
	case len(ids) == 0:
		return fmt.Errorf("want all, left, or faults: F01 to F%d", len(faults.Table()))
	case ids[0] == "left":
		return left()
	case ids[0] == "all":
		chosen = faults.Table()
	default:
		for _, id := range ids {
			f, err := faults.Find(id)
			if err != nil {
				return err
			}
			chosen = append(chosen, f)
		}
	}
	var failed, missing []string
	for _, f := range chosen {
		fmt.Printf("\n%s %s\n", f.ID(), f.Name)
		if f.Missing != "" {
			fmt.Printf("    not shown: %s\n", f.Missing)
			missing = append(missing, f.ID())
		}
		for _, pkg := range packages(f) {
			if !passes(pkg, f) {
				failed = append(failed, f.ID()+" in "+pkg)
			}
		}
	}
	fmt.Printf("\n%d faults; of %d something is not shown: %s\n", len(chosen), len(missing), strings.Join(missing, " "))
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return nil
}

func packages(f faults.Fault) (list []string) {
	for _, t := range f.Tests {
		list = append(list, t.Package)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// passes runs the tests of a fault in one package. What they measured is in their log.
func passes(pkg string, f faults.Fault) bool {
	var names []string
	for _, t := range f.Tests {
		if t.Package == pkg {
			names = append(names, t.Name)
		}
	}
	cmd := exec.Command("go", "test", "-count=1", "-v", "-timeout=15m", "-tags=component,slow", "-run=^("+strings.Join(names, "|")+")$", "./"+pkg)
	cmd.Dir = tool.Root()
	out, err := cmd.CombinedOutput()
	if err != nil {
		fmt.Printf("%s\n    %s: %v\n", out, pkg, err)
		return false
	}
	for _, name := range names {
		if !strings.Contains(string(out), "--- PASS: "+name+" ") {
			fmt.Printf("    %s of %s did not run\n", name, pkg)
			return false
		}
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "--- ") || strings.Contains(line, "measured: ") {
			fmt.Print("    ", line)
		}
	}
	return true
}

// left names the tests that `make test` leaves to `make faults`.
func left() error {
	for _, f := range faults.Table() {
		for _, t := range f.Tests {
			tests, err := faults.Slow(tool.Root(), t.Package)
			if err != nil {
				return err
			}
			if tests[t.Name] {
				fmt.Printf("left to `make fault-%s`, for it takes 20 s or more: %s in %s\n", f.ID(), t.Name, t.Package)
			}
		}
	}
	return nil
}
