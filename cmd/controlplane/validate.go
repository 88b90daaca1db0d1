package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/analyze"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
	"datapunk.dev/controlplane/yamlfile"
)

func newValidateCommand() *cobra.Command {
	var in meshInput
	cmd := &cobra.Command{
		Use:   "validate -f FILE [-f FILE…] [--environment E] [--catalog file:PATH] [-o FORM]",
		Short: "Check a mesh file: every error at once, each with its line",
		Long:  "validate loads a mesh file as serve would. Without --environment it checks the file by itself and\nwith each of its environments. With --catalog it checks a catalog in a file too, and\nwarns of names that neither knows. It exits with 0, with\n1 and one line an error on stderr (FILE:LINE:COL: CODE: message, the caret below it), or with 2 for a\nwrong flag. -o json, sarif and github (annotations of a workflow) have the same on stdout;\ncontrolplane explain CODE says what to do.",
	}
	out := outputFlag(cmd, "text", "json", "sarif", "github")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		found, err := in.validate(cmd)
		if out.form == "text" {
			for _, p := range found {
				p.Format(cmd.ErrOrStderr())
			}
		} else if err := writeFindings(cmd.OutOrStdout(), out.form, found); err != nil {
			return err
		}
		switch {
		case err != nil:
			return err
		case slices.ContainsFunc(found, func(p yamlfile.Problem) bool { return !p.Warning() }):
			return shownError{errors.New("the file has errors")}
		case out.form == "text":
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "the mesh file is valid")
			return err
		}
		return nil
	}
	in.requiredFlags(cmd)
	cmd.Flags().StringVar(&in.catalog, "catalog", "", "a catalog to check too: file:PATH")
	return cmd
}

// validate returns what is found in the mesh file, with each of its environments unless
// one is named, and in the catalog; and if both are good, which names in the one are
// nobody's in the other.
func (i *meshInput) validate(cmd *cobra.Command) ([]yamlfile.Problem, error) {
	var path string
	var err error
	if i.catalog != "" {
		if path, err = catalogPath(i.catalog); err != nil {
			return nil, wrongUsage(cmd, err)
		}
	}
	options := policy.Options{Environment: i.environment, LookupEnv: os.LookupEnv}
	found, err := policy.Validate(i.files, options)
	good := err == nil
	if err = take(&found, err); err != nil || path == "" {
		return found, err
	}
	catalog, err := file.Load(path)
	good = good && err == nil
	if err = take(&found, err); err != nil || !good {
		return found, err
	}
	return found, i.unknownNames(catalog, options, &found)
}

// take adds the problems that an error is, and returns any other error.
func take(found *[]yamlfile.Problem, err error) error {
	var problems yamlfile.Problems
	if !errors.As(err, &problems) {
		return err
	}
	*found = append(*found, problems...)
	return nil
}

// unknownNames adds the names of a good mesh file that nobody is in a catalog.
func (i *meshInput) unknownNames(catalog *watch.Catalog, options policy.Options, found *[]yamlfile.Problem) error {
	mesh, err := i.load(i.files)
	if err != nil {
		return err
	}
	names := analyze.Names(mesh, selected(mesh, catalog))
	if i.environment == "" {
		for _, environment := range policy.Environments(mesh.Files) {
			options.Environment = environment
			other, err := policy.Parse(mesh.Files, options)
			if err != nil {
				return err
			}
			names = append(names, analyze.Names(other, selected(other, catalog))...)
		}
	}
	*found = append(*found, yamlfile.Sort(names, mesh.Files)...)
	return nil
}
