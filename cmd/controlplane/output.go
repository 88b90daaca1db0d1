package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

// output is the form in which a command writes what it was asked for.
type output struct {
	form  string
	forms []string
}

// The forms of most commands.
var tableForms = []string{"table", "wide", "json", "yaml"}

// outputFlag adds -o. The first of the forms is the one without it; what is none of them
// is refused before the command does anything.
func outputFlag(cmd *cobra.Command, forms ...string) *output {
	o := &output{forms: forms}
	cmd.Flags().StringVarP(&o.form, "output", "o", forms[0], "form of the answer: "+strings.Join(forms, ", "))
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return o.check(cmd) }
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return o
}

// check refuses a form that the command does not have.
func (o *output) check(cmd *cobra.Command) error {
	if !slices.Contains(o.forms, o.form) {
		return wrongUsage(cmd, fmt.Errorf("-o %s: want one of %s", o.form, strings.Join(o.forms, ", ")))
	}
	return nil
}

// colors of words that people look for.
var colors = strings.NewReplacer("REJECTED", "\x1b[31mREJECTED\x1b[0m", "PENDING", "\x1b[33mPENDING\x1b[0m", "FAILED", "\x1b[31mFAILED\x1b[0m", "WARNING", "\x1b[33mWARNING\x1b[0m")

// table aligns columns, with colors on a terminal unless NO_COLOR is set.
func (o *output) table(w io.Writer, rows [][]string) error {
	var text bytes.Buffer
	if err := printTable(&text, rows); err != nil {
		return err
	}
	_, err := io.WriteString(w, colored(w, text.String()))
	return err
}

// colored is text with colors, if it is for a terminal and NO_COLOR is not set.
func colored(w io.Writer, text string) string {
	if !isTerminal(w) || os.Getenv("NO_COLOR") != "" {
		return text
	}
	return colors.Replace(text)
}

// printTable aligns columns.
func printTable(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i := range row {
			row[i] = strings.Map(printable, row[i])
		}
		if _, err := io.WriteString(t, strings.Join(row, "\t")+"\n"); err != nil {
			return err
		}
	}
	return t.Flush()
}

func (o *output) wide() bool { return o.form == "wide" }

// write writes v as JSON or YAML, which have the same names, or else what text
// writes for people.
func (o *output) write(w io.Writer, v any, text func(io.Writer) error) error {
	switch o.form {
	case "json":
		return writeJSON(w, v)
	case "yaml":
		return writeYAML(w, v)
	default:
		return text(w)
	}
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// writeYAML writes what writeJSON does: YAML is read with JSON's names and order.
func writeYAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Load(text, &doc); err != nil {
		return err
	}
	blockStyle(&doc)
	out, err := yaml.Dump(&doc, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// blockStyle takes JSON's braces and quotes away.
func blockStyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, child := range n.Content {
		blockStyle(child)
	}
}
