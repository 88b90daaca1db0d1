package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/codes"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/spelling"
)

func newExplainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain CODE|FIELD.PATH",
		Short: "Say what a code, a response flag or a key of the mesh file means",
		Long: "explain says what is wrong when a code is reported, with an example and what to do; what a response flag\n" +
			"of Envoy's access log means here; or what a key of the mesh file takes, what holds without it, and what it\n" +
			"becomes in Envoy.",
		Example: "  controlplane explain MC1207\n  controlplane explain UH\n  controlplane explain policies.retry.attempts\n  controlplane explain services.lake_service.upstreams",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, e := range codes.All() {
				names = append(names, e.Code+"\t"+e.Title)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	out := outputFlag(cmd, tableForms...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if e, ok := codes.Lookup(args[0]); ok {
			return out.write(cmd.OutOrStdout(), e, func(w io.Writer) error {
				_, err := io.WriteString(w, e.Text())
				return err
			})
		}
		f, err := policy.Describe(args[0])
		if err != nil {
			if !strings.Contains(args[0], ".") {
				err = fmt.Errorf("%q is no code and no key of the mesh file: %s", args[0], spelling.DidYouMean(args[0], explained()))
			}
			return err
		}
		return out.write(cmd.OutOrStdout(), f, func(w io.Writer) error { return printField(w, f) })
	}
	return cmd
}

// explained are the codes, and the sections of a mesh file.
func explained() []string {
	var names []string
	for _, e := range codes.All() {
		names = append(names, e.Code)
	}
	if mesh, err := policy.Describe("mesh"); err == nil {
		names = append(names, mesh.Keys...)
	}
	return names
}

func printField(w io.Writer, f policy.Field) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\n", f.Path, plainText(f.Says))
	if f.Later {
		b.WriteString("not supported yet: a file that has it is refused (MC1007)\n")
	}
	fmt.Fprintf(&b, "takes:    %s\n", plainText(f.Takes))
	if f.Without != "" {
		fmt.Fprintf(&b, "without:  %s\n", plainText(f.Without))
	}
	if f.Becomes != "" {
		fmt.Fprintf(&b, "in Envoy: %s\n", plainText(f.Becomes))
	}
	if f.Code != "" {
		fmt.Fprintf(&b, "else:     %s\n", f.Code)
	}
	if len(f.Keys) > 0 {
		fmt.Fprintf(&b, "keys:     %s\n", strings.Join(f.Keys, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// plainText is a text of the documentation without its marks.
func plainText(s string) string { return strings.ReplaceAll(s, "`", "") }
