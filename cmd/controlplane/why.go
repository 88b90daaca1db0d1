package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/why"
)

func newWhyCommand() *cobra.Command {
	var in meshInput
	var server adminFlags
	var call api.Call
	var headers []string
	cmd := &cobra.Command{
		Use:   "why SRC DST [-f FILE…] [--catalog file:PATH]",
		Short: "Say what becomes of a call from one service to another, and why",
		Long: "why follows a call through what the Envoys are served: the host, the route, the cluster, its instances and why\n" +
			"each is out, the handshake, the rules of the callee and its rate limits, each with its line of the mesh file. It ends in one\n" +
			"sentence: what will happen, and what to change. It asks the control plane, or with -f says what the Envoys\n" +
			"would be served by a mesh file. It exits with 0 if the call will pass, with 2 if it, or some of such calls, will\n" +
			"not, with 1 if there is no answer to give, and with 3 if the control plane does not answer.",
		Example: "  controlplane why nexus lake_service --method POST --path /api/x --header x-tenant=acme\n" +
			"  controlplane why nexus lake_service -f edit.yaml --catalog file:catalog.yaml",
		Args:        cobra.ExactArgs(2),
		Annotations: map[string]string{findings: "a call that fails"},
	}
	out := outputFlag(cmd, tableForms...)
	server.add(cmd)
	in.flags(cmd)
	in.catalogFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&call.Method, "method", "GET", "method of the request")
	f.StringVar(&call.Path, "path", "/", "path of the request, with its query")
	f.StringVar(&call.Host, "host", "", "Host header; without it, DST")
	f.StringArrayVar(&headers, "header", nil, "header of the request, NAME=VALUE; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		call.From, call.To = args[0], args[1]
		asked, err := call.With(headers)
		if err != nil {
			return err
		}
		v := &api.Verdict{}
		if len(in.files) > 0 {
			v, err = in.why(cmd, asked)
		} else {
			err = server.why(cmd, asked, v)
		}
		if err != nil {
			return shown(cmd.ErrOrStderr(), err)
		}
		if err := out.write(cmd.OutOrStdout(), v, func(w io.Writer) error { return printWhy(w, v, out.wide()) }); err != nil {
			return err
		}
		if !v.End.Good() {
			return foundError{errors.New("the call fails")}
		}
		return nil
	}
	return cmd
}

// why asks the control plane.
func (f *adminFlags) why(cmd *cobra.Command, c api.Call, v *api.Verdict) error {
	query := url.Values{"from": {c.From}, "to": {c.To}, "method": {c.Method}, "path": {c.Path}}
	if c.Host != "" {
		query.Set("host", c.Host)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		query.Add("header", name+"="+c.Headers[name])
	}
	return f.get(cmd.Context(), "/why", query, v)
}

// why follows a call without a control plane. The caller need not be registered.
func (i *meshInput) why(cmd *cobra.Command, call api.Call) (*api.Verdict, error) {
	in, err := i.read(cmd)
	if err != nil {
		return nil, err
	}
	if !in.Fleet.HasService(call.From) {
		in.Fleet = in.Fleet.Update([]resource.Profile{plan.Sidecar(call.From)}, nil)
	}
	return why.Of(translate.Translate(nil, in), call)
}

// shownDetails is how many details of a step a table has; -o wide has all.
const shownDetails = 10

func printWhy(w io.Writer, v *api.Verdict, wide bool) error {
	var b strings.Builder
	what := "a connection"
	if v.Protocol == "http" {
		what = v.Call.Method + " " + v.Call.Path
	}
	fmt.Fprintf(&b, "%s → %s: %s\n\n", v.Call.From, v.Call.To, what)
	steps := func(all []api.Step) {
		for _, s := range all {
			fmt.Fprintf(&b, "%-14s %s", s.What, s.Says)
			if s.Source != "" {
				fmt.Fprintf(&b, "  (%s)", s.Source)
			}
			b.WriteByte('\n')
			for n, d := range s.Details {
				if n == shownDetails && !wide {
					fmt.Fprintf(&b, "%-14s   and %d more (-o wide)\n", "", len(s.Details)-n)
					break
				}
				fmt.Fprintf(&b, "%-14s   %s\n", "", d)
			}
		}
	}
	steps(v.Steps)
	for _, way := range v.Ways {
		if len(v.Ways) > 1 {
			fmt.Fprintf(&b, "\n%.4g %% of the calls", way.Percent)
			if way.Cluster != "" {
				fmt.Fprintf(&b, ", to %s", way.Cluster)
			}
			b.WriteString(":\n")
		}
		steps(way.Steps)
	}
	for _, n := range v.Notes {
		fmt.Fprintf(&b, "%-14s %s\n", "note", n)
	}
	fmt.Fprintf(&b, "\n%s\n", v.End.Sentence())
	_, err := io.WriteString(w, strings.Map(unprintable, b.String()))
	return err
}

// unprintable keeps what a terminal may be told, and line ends.
func unprintable(r rune) rune {
	if r == '\n' {
		return r
	}
	return printable(r)
}
