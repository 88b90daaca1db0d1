// Package codes is the table of what the control plane can find wrong: in a
// mesh file, in what stands in it beside a catalog, and in a running mesh. Each
// has a code that keeps its meaning for ever. docs/errors.md is made of it, and
// so is what `controlplane explain` says.
//
// MC1xxx are errors of a file, MC2xxx what an operator should know of a file
// that loads (MC22xx, beside a catalog: `controlplane analyze`), MC3xxx what becomes
// of a call in a running mesh, by which its status and Envoy's response flag are
// explained.
package codes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Entry is what is to be known of one code.
type Entry struct {
	Code  string `json:"code"`
	Title string `json:"title"` // what is wrong, in a few words
	Why   string `json:"why"`   // what comes of it; sentences
	// Example makes the code: of a mesh file, what stands below "mesh:" and
	// "  name: m", or the whole file if it begins with another letter than a blank.
	Example     string `json:"example,omitempty"`
	Environment string `json:"environment,omitempty"` // that the example is read with
	Catalog     string `json:"catalog,omitempty"`     // a file catalog that the example is read beside
	Fix         string `json:"fix"`
	// Flag is Envoy's response flag, as it stands in the access log, and Status
	// what the caller is answered.
	Flag   string `json:"flag,omitempty"`
	Status int    `json:"status,omitempty"`
}

// Severity is how grave a code is.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Finding Severity = "finding"
)

// SeverityOf returns how grave a code is.
func SeverityOf(code string) Severity {
	switch {
	case strings.HasPrefix(code, "MC1"):
		return Error
	case strings.HasPrefix(code, "MC2"):
		return Warning
	default:
		return Finding
	}
}

// All returns the table, ordered by code.
func All() []Entry {
	all := slices.Concat(file(), values(), identity(), routes(), warnings(), lints(), live())
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Compare(a.Code, b.Code) })
	return all
}

// Lookup returns the entry of a code, in letters of any case, or of one of Envoy's
// response flags.
func Lookup(name string) (Entry, bool) {
	for _, e := range All() {
		if strings.EqualFold(e.Code, name) || e.Flag != "" && strings.EqualFold(e.Flag, name) {
			return e, true
		}
	}
	return Entry{}, false
}

// Head is what stands above the example of a code.
const Head = "mesh:\n  name: m\n"

// File is the example as a whole mesh file; empty for what no file makes.
func (e Entry) File() string {
	if e.Example == "" || e.Code[2] == '3' {
		return ""
	}
	if e.Example[0] == ' ' || e.Example[0] == '\t' {
		return Head + e.Example
	}
	return e.Example
}

// Text is the entry for a terminal.
func (e Entry) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s): %s\n\n%s\n", e.Code, SeverityOf(e.Code), e.Title, e.Why)
	e.outcome(&b, "\n%s\n")
	if f := e.File(); f != "" {
		fmt.Fprintf(&b, "\nFor example:\n\n%s", indent(f))
	}
	if e.Catalog != "" {
		fmt.Fprintf(&b, "\nbeside the catalog\n\n%s", indent(e.Catalog))
	}
	fmt.Fprintf(&b, "\nWhat to do: %s\n", e.Fix)
	return b.String()
}

// outcome says what a caller sees.
func (e Entry) outcome(b *strings.Builder, format string) {
	var parts []string
	if e.Status != 0 {
		parts = append(parts, fmt.Sprintf("The caller is answered %d.", e.Status))
	}
	if e.Flag != "" {
		parts = append(parts, fmt.Sprintf("Envoy's access log has the response flag %s.", e.Flag))
	}
	if len(parts) > 0 {
		fmt.Fprintf(b, format, strings.Join(parts, " "))
	}
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + line)
	}
	if !strings.HasSuffix(text, "\n") {
		b.WriteByte('\n')
	}
	return b.String()
}

// Page is docs/errors.md.
func Page() string {
	var b strings.Builder
	b.WriteString(`# Codes

Generated from the table in package codes: ` + "`go test ./codes -update`" + `. ` + "`controlplane explain CODE`" + ` prints the same on a terminal.

A code keeps its meaning. MC1xxx are errors of a file, which is not taken. MC2xxx are warnings: the file loads (MC22xx are
those of ` + "`controlplane analyze`" + `). MC3xxx are what becomes of a call: ` + "`controlplane explain UH`" + ` finds the one of a response flag. An example without
` + "`mesh:`" + ` stands below it and ` + "`name: m`" + `.

| code | what is wrong |
|---|---|
`)
	for _, e := range All() {
		fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", e.Code, strings.ToLower(e.Code), e.Title)
	}
	for _, e := range All() {
		fmt.Fprintf(&b, "\n## %s\n\n%s. %s\n", e.Code, upper(e.Title), e.Why)
		e.outcome(&b, "\n%s\n")
		if e.File() != "" {
			fmt.Fprintf(&b, "\n```yaml\n%s\n```\n", strings.TrimRight(visible(e.Example), "\n"))
		}
		if e.Catalog != "" {
			fmt.Fprintf(&b, "\nbeside the catalog\n\n```yaml\n%s\n```\n", strings.TrimRight(e.Catalog, "\n"))
		}
		if e.Environment != "" {
			fmt.Fprintf(&b, "\nwith `--environment %s`.\n", e.Environment)
		}
		fmt.Fprintf(&b, "\n**What to do:** %s\n", e.Fix)
	}
	return b.String()
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// visible is an example as a page may have it.
func visible(s string) string { return strings.ReplaceAll(s, "\t", "→") }
