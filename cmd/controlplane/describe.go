package main

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/describe"
	"datapunk.dev/controlplane/translate"
)

func newDescribeCommand() *cobra.Command {
	var server adminFlags
	cmd := &cobra.Command{
		Use:   "describe {service | proxy | policy} NAME",
		Short: "Show what is in force of a service, a proxy or a policy, and where it came from",
		Long: "describe shows the settings of a service with the line that each came from, its routes, its instances, the\n" +
			"policies that act on calls to it and who is admitted by them; of a policy, on whose calls it acts and whom it\n" +
			"is about; of a connected proxy, what it says of itself, where it listens, and the policies of its service. It\n" +
			"asks the control plane, or with -f reads a mesh file.",
		Example: "  controlplane describe service lake_service\n  controlplane describe policy no-admin -f edit.yaml --catalog file:catalog.yaml",
		Args:    subcommandOnly,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	server.add(cmd)
	for _, kind := range []string{"service", "proxy", "policy"} {
		cmd.AddCommand(newDescribeKind(kind, &server))
	}
	return cmd
}

func newDescribeKind(kind string, server *adminFlags) *cobra.Command {
	var in meshInput
	cmd := &cobra.Command{Use: kind + " NAME", Short: "Show what is in force of a " + kind, Args: cobra.ExactArgs(1)}
	if kind != "policy" {
		cmd.ValidArgsFunction = server.complete(kind)
	}
	out := outputFlag(cmd, tableForms...)
	if kind != "proxy" {
		in.flags(cmd)
		in.catalogFlag(cmd)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d := &api.Description{}
		var err error
		if len(in.files) > 0 {
			d, err = in.describe(cmd, kind, args[0])
		} else {
			err = server.describe(cmd, kind, args[0], d)
		}
		if err != nil {
			return shown(cmd.ErrOrStderr(), err)
		}
		return out.write(cmd.OutOrStdout(), d, func(w io.Writer) error { return printDescription(w, d, out.wide()) })
	}
	return cmd
}

func (f *adminFlags) describe(cmd *cobra.Command, kind, name string, d *api.Description) error {
	return f.get(cmd.Context(), "/describe/"+kind+"/"+url.PathEscape(name), nil, d)
}

func (i *meshInput) describe(cmd *cobra.Command, kind, name string) (*api.Description, error) {
	in, err := i.read(cmd)
	if err != nil {
		return nil, err
	}
	s := translate.Translate(nil, in)
	if kind == "policy" {
		return describe.Policy(s, name)
	}
	return describe.Service(s, name)
}

func printDescription(w io.Writer, d *api.Description, wide bool) error {
	var err error
	head := func(text string) {
		if err == nil {
			_, err = fmt.Fprintf(w, "\n%s\n", strings.Map(printable, text))
		}
	}
	table := func(title string, rows [][]string) {
		if len(rows) > 1 && err == nil {
			head(title)
			err = printTable(w, rows)
		}
	}
	if _, err := fmt.Fprintf(w, "%s %s%s\n", d.Kind, strings.Map(printable, d.Name), inBrackets(d.Source)); err != nil {
		return err
	}
	rows := [][]string{{"KEY", "VALUE", "SOURCE"}}
	for _, s := range d.Settings {
		if s.Source == "" && d.Kind == "service" && !wide {
			continue // what is built in is many lines
		}
		rows = append(rows, []string{s.Key, s.Value, cmp.Or(s.Source, builtIn(d.Kind))})
	}
	table(map[string]string{"service": "settings of the mesh file (-o wide: all)", "policy": "conditions", "proxy": "what it says of itself"}[d.Kind], rows)
	rows = [][]string{{"NAME", "SOURCE"}}
	for _, r := range d.Routes {
		rows = append(rows, []string{r.Name, r.Source})
	}
	table("routes, of which the first that matches decides", rows)
	rows = [][]string{{"NAME", "ACTION", "SOURCE"}}
	for _, p := range d.Policies {
		action := p.Action
		if p.Shadow {
			action += " (shadow)"
		}
		rows = append(rows, []string{p.Name, action, p.Source})
	}
	table("policies that act on calls to it", rows)
	rows = [][]string{{"ANSWER", "CALLERS"}}
	for _, a := range d.Admits {
		rows = append(rows, []string{a.Answer, few(a.Callers, wide)})
	}
	table("who may call it", rows)
	rows = [][]string{{"INSTANCE", "ADDRESS", "HEALTH"}}
	for _, i := range d.Instances {
		rows = append(rows, []string{i.ID, cmp.Or(i.Address, "-"), cmp.Or(i.LeftOut, i.Health)})
	}
	table("instances", rows)
	rows = [][]string{{"LISTENER", "ADDRESS"}}
	for _, l := range d.Listeners {
		rows = append(rows, []string{l.Name, l.Address})
	}
	table("listeners", rows)
	for _, m := range d.Missing {
		head("missing: " + m)
	}
	if d.Kind == "policy" {
		head("acts on calls to: " + cmp.Or(few(d.Services, wide), "nobody"))
		head("is about calls of: " + cmp.Or(few(d.Callers, wide), "nobody of the mesh"))
	}
	return err
}

// few are names, of which a table has some.
func few(names []string, wide bool) string {
	if n := len(names) - 10; n > 0 && !wide {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more (-o wide)", n)
	}
	return strings.Join(names, ", ")
}

func builtIn(kind string) string {
	if kind == "service" {
		return "built in"
	}
	return ""
}

func inBrackets(source string) string {
	if source == "" {
		return ""
	}
	return " (" + source + ")"
}
