package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/analyze"
	"datapunk.dev/controlplane/codes"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/yamlfile"
)

func newAnalyzeCommand() *cobra.Command {
	var in meshInput
	var suppress []string
	var failOn string
	var server adminFlags
	var live bool
	cmd := &cobra.Command{
		Use:   "analyze {-f FILE [-f FILE…] [--catalog file:PATH] | --live} [--suppress CODE] [--fail-on warning|never]",
		Short: "Find what is likely a mistake in a mesh file that loads",
		Long: "analyze looks at a mesh file that is valid, by itself and beside a catalog: names that nobody is, upstreams\n" +
			"that no policy admits, policies without effect, retries that multiply. controlplane explain CODE says what\n" +
			"each finding means. With --live the control plane looks at the file that is in force, beside its catalog and\n" +
			"its fleet. It exits with 2 if there is a finding, and with 1 if the file is not valid.",
		Example:     "  controlplane analyze -f edit.yaml --catalog file:catalog.yaml --suppress MC2211",
		Aliases:     []string{"lint"},
		Args:        cobra.NoArgs,
		Annotations: map[string]string{findings: "findings"},
	}
	out := outputFlag(cmd, "text", "json", "sarif", "github")
	in.flags(cmd)
	in.catalogFlag(cmd)
	server.add(cmd)
	cmd.Flags().BoolVar(&live, "live", false, "have the control plane look at the file that is in force")
	cmd.MarkFlagsOneRequired("file", "live")
	for _, offline := range []string{"file", "catalog", "environment"} {
		cmd.MarkFlagsMutuallyExclusive(offline, "live")
	}
	cmd.Flags().StringSliceVar(&suppress, "suppress", nil, "code that is not reported; may be repeated")
	cmd.Flags().StringVar(&failOn, "fail-on", "warning", "warning: exit with 2 for what is found; never: with 0")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if failOn != "warning" && failOn != "never" {
			return fmt.Errorf("--fail-on %s: want warning or never", failOn)
		}
		for i, code := range suppress {
			e, ok := codes.Lookup(code)
			if !ok || codes.SeverityOf(e.Code) != codes.Warning {
				return fmt.Errorf("--suppress %s: no code that is reported, MC2xxx", code)
			}
			suppress[i] = e.Code
		}
		var all []policy.Problem
		var err error
		if live {
			all, err = server.findings(cmd)
		} else {
			all, err = in.analyze(cmd)
		}
		if err != nil {
			return shown(cmd.ErrOrStderr(), err)
		}
		all = slices.DeleteFunc(all, func(p yamlfile.Problem) bool { return slices.Contains(suppress, string(p.Code)) })
		if err := writeFindings(cmd.OutOrStdout(), out.form, all); err != nil {
			return err
		}
		if len(all) > 0 && failOn == "warning" {
			return foundError{errors.New("there are findings")}
		}
		return nil
	}
	return cmd
}

// analyze loads the file and returns what it warns of, and what else is found.
func (i *meshInput) analyze(cmd *cobra.Command) ([]policy.Problem, error) {
	mesh, err := i.load(i.files)
	if err != nil {
		return nil, err
	}
	var catalog *watch.Catalog
	if i.catalog != "" {
		if catalog, err = i.loadCatalog(cmd); err != nil {
			return nil, err
		}
		catalog = selected(mesh, catalog)
	}
	found, err := analyze.Mesh(mesh, catalog)
	return append(slices.Clone(mesh.Warnings), found...), err
}

// findings asks the control plane what it finds.
func (f *adminFlags) findings(cmd *cobra.Command) ([]policy.Problem, error) {
	var is api.Findings
	if err := f.get(cmd.Context(), "/findings", nil, &is); err != nil {
		return nil, err
	}
	return problemsFrom(is.Findings), nil
}

// problemsFrom are problems that a control plane tells of.
func problemsFrom(told []api.Problem) []policy.Problem {
	var all []policy.Problem
	for _, p := range told {
		all = append(all, policy.Problem{
			Source: policy.Source{File: p.File, Line: p.Line, Column: p.Column}, Code: policy.Code(p.Code), Key: p.Key,
			Message: p.Message, Hint: p.Hint, Excerpt: p.Excerpt, Width: p.Width,
		})
	}
	return all
}

func writeFindings(w io.Writer, form string, all []yamlfile.Problem) error {
	if form == "text" {
		for _, p := range all {
			p.Format(w)
		}
		return nil
	}
	list := make([]problem, 0, len(all))
	for _, p := range all {
		list = append(list, problemOf(p))
	}
	return writeProblems(w, form, list)
}
