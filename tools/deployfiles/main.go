// Command deployfiles checks compose files and Nomad jobs: whether what is
// written in them is what compose and Nomad read. It has a module of its own, so
// that the control plane does not depend on either.
//
//	go run . compose FILE…
//	go run . nomad FILE…
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: deployfiles compose|nomad FILE…")
		os.Exit(2)
	}
	check := map[string]func(string) error{"compose": composeFile, "nomad": nomadJob}[os.Args[1]]
	if check == nil {
		fmt.Fprintf(os.Stderr, "deployfiles: %q: want compose or nomad\n", os.Args[1])
		os.Exit(2)
	}
	var errs []error
	for _, path := range os.Args[2:] {
		errs = append(errs, check(path))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// composeFile loads a file as `docker compose` does: by the schema, with
// variables, and with what refers to what.
func composeFile(path string) error {
	o, err := cli.NewProjectOptions([]string{path}, cli.WithName("mesh"), cli.WithWorkingDirectory(filepath.Dir(path)), cli.WithResolvedPaths(true))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	project, err := o.LoadProject(context.Background())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	// compose finds out that a file is missing when it makes the container, and
	// then makes a directory of its name.
	var errs []error
	missing := func(what, file string) {
		if _, err := os.Stat(file); file != "" && err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", path, what, err))
		}
	}
	for name, c := range project.Configs {
		missing("configs."+name, c.File)
	}
	for _, s := range project.Services {
		for _, v := range s.Volumes {
			if v.Type == "bind" {
				missing("services."+s.Name+".volumes", v.Source)
			}
		}
	}
	return errors.Join(errs...)
}
