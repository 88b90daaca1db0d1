package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/admission"
	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/translate"
)

func newPlanCommand() *cobra.Command {
	var in meshInput
	var server adminFlags
	var against []string
	var exitCode bool
	cmd := &cobra.Command{
		Use:   "plan -f NEW [-f FILE…] [--against OLD [--against FILE…] [--catalog file:PATH]]",
		Short: "Say what an edit of the mesh file does, before it is made",
		Long: "plan says what an edit would have the fleet served: which proxies are sent other resources, in which fields,\n" +
			"and from which line; whose connections a changed listener drains; and who may call whom that could not, or\n" +
			"no more, by the rules that would be served and not by the words of the file. It asks the control plane, which\n" +
			"compares with what its fleet is served now, and reads the file in its own environment and with its own\n" +
			"variables, of which those that the file in force names. With --against it compares two files without one; the\n" +
			"fleet is then a sidecar beside each instance of the catalog, and one of each service that has none.",
		Example: "  controlplane plan -f new.yaml --detailed-exitcode\n" +
			"  controlplane plan -f new.yaml --against old.yaml --catalog file:catalog.yaml",
		Args:        cobra.NoArgs,
		Annotations: map[string]string{findings: "differences"},
	}
	out := outputFlag(cmd, tableForms...)
	in.requiredFlags(cmd)
	in.catalogFlag(cmd)
	cmd.Flags().StringArrayVar(&against, "against", nil, "mesh file in force; several are merged left to right")
	cmd.Flags().BoolVar(&exitCode, "detailed-exitcode", false, "exit with 2 if anything differs")
	server.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := in.plan(cmd, &server, against)
		if err != nil {
			return shown(cmd.ErrOrStderr(), err)
		}
		if err := out.write(cmd.OutOrStdout(), p, func(w io.Writer) error { return printPlan(w, p, out.wide()) }); err != nil {
			return err
		}
		if exitCode && !nothing(p) {
			return foundError{errors.New("the files differ")}
		}
		return nil
	}
	return cmd
}

// plan asks the control plane, or compares two files.
func (i *meshInput) plan(cmd *cobra.Command, server *adminFlags, against []string) (*api.Plan, error) {
	if len(against) > 0 {
		made, err := i.planFiles(cmd, against)
		if err != nil {
			return nil, err
		}
		p := control.PlanOf(made)
		return &p, nil
	}
	for _, flag := range []string{"catalog", "environment"} {
		if cmd.Flags().Changed(flag) {
			return nil, wrongUsage(cmd, fmt.Errorf("--%s means nothing without --against: the control plane has its own", flag))
		}
	}
	client, err := server.client()
	if err != nil {
		return nil, err
	}
	var edit api.PlanRequest
	for _, path := range i.files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		edit.Files = append(edit.Files, api.File{Name: path, Content: string(text)})
	}
	var p api.Plan
	if err := client.ask(cmd.Context(), "/plan", edit, &p); err != nil {
		if failure := new(api.Error); errors.As(err, &failure) && len(failure.Problems) > 0 {
			return nil, policy.Problems(problemsFrom(failure.Problems))
		}
		return nil, err
	}
	return &p, nil
}

// nothing reports whether nothing differs of what the fleet is served.
func nothing(p *api.Plan) bool { return len(p.Resources) == 0 && len(p.Edges) == 0 }

func (i *meshInput) planFiles(cmd *cobra.Command, against []string) (*plan.Plan, error) {
	before, err := i.load(against)
	if err != nil {
		return nil, err
	}
	after, err := i.load(i.files)
	if err != nil {
		return nil, err
	}
	catalog, err := i.loadCatalog(cmd)
	if err != nil {
		return nil, err
	}
	input := translate.Input{Mesh: before, Catalog: selected(before, catalog), Fleet: plan.FleetOf(catalog, before, after), Roots: []byte(plan.Roots)}
	last := translate.Translate(nil, input)
	input.Mesh, input.Catalog = after, selected(after, catalog)
	return plan.Compare(last, translate.Translate(last, input))
}

// shownLines is how many of one kind a table has; -o wide has all.
const shownLines = 20

func printPlan(w io.Writer, p *api.Plan, wide bool) error {
	var b strings.Builder
	if nothing(p) {
		b.WriteString("nothing differs of what the fleet is served\n")
	} else {
		counts := make(map[plan.What]int)
		for _, r := range p.Resources {
			counts[plan.What(r.What)]++
		}
		fmt.Fprintf(&b, "%d proxies change: %d resources added, %d changed, %d removed; %d listeners drain; %d edges change\n",
			len(p.Proxies), counts[plan.Added], counts[plan.Changed], counts[plan.Removed], len(p.Drains), len(p.Edges))
	}
	if p.Waits != "" {
		fmt.Fprintf(&b, "the edit would wait when it comes, and controlplane accept has it taken: %s\n", p.Waits)
	}
	most := shownLines
	if wide {
		most = len(p.Resources) + len(p.Edges) + len(p.Drains) + len(p.Held)
	}
	section(&b, "who may call whom", len(p.Edges), most, func(i int) {
		e, mark := p.Edges[i], "-"
		if opens(e) {
			mark = "+"
		}
		callers := e.Callers
		more := ""
		if n := len(callers) - 5; n > 0 && !wide {
			callers, more = callers[:5], fmt.Sprintf(" and %d more", n)
		}
		fmt.Fprintf(&b, "  %s %s → %s: %s, was %s\n", mark, strings.Join(callers, ", ")+more, e.Callee, e.To, e.From)
	})
	section(&b, "connections that end", len(p.Drains), most, func(i int) {
		d := p.Drains[i]
		fmt.Fprintf(&b, "  %s %s, listener %s: %s\n", d.Service, d.Address, d.Listener, d.Why)
	})
	section(&b, "resources", len(p.Resources), most, func(i int) {
		r := p.Resources[i]
		mark := map[plan.What]string{plan.Added: "+", plan.Removed: "-", plan.Changed: "~"}[plan.What(r.What)]
		fmt.Fprintf(&b, "  %s %s %s, of %d proxies", mark, r.Type, r.Name, r.Proxies)
		if r.Source != "" {
			fmt.Fprintf(&b, ", from %s", r.Source)
		}
		b.WriteByte('\n')
		fields := r.Fields
		if !wide && len(fields) > 5 {
			fields = fields[:5]
		}
		for _, f := range fields {
			fmt.Fprintf(&b, "      %s: %q → %q\n", f.Path, f.Before, f.After)
		}
		if n := len(r.Fields) - len(fields); n > 0 {
			fmt.Fprintf(&b, "      and %d more fields\n", n)
		}
	})
	section(&b, "what could not be made; the last good one stays", len(p.Held), most, func(i int) { fmt.Fprintf(&b, "  ! %s\n", p.Held[i]) })
	_, err := io.WriteString(w, b.String())
	return err
}

// opens reports whether an edge lets its callers do more than before.
func opens(e api.EdgeChange) bool {
	rank := map[string]int{admission.Never.String(): 0, admission.Depends.String(): 1, admission.Always.String(): 2}
	return rank[e.To] > rank[e.From]
}

// section writes a part of a report, if there is anything in it.
func section(b *strings.Builder, head string, n, most int, line func(i int)) {
	if n == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", head)
	for i := range min(n, most) {
		line(i)
	}
	if n > most {
		fmt.Fprintf(b, "  and %d more (-o wide)\n", n-most)
	}
}
