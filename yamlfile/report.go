package yamlfile

import (
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Report gathers problems and gives each the line of the file that it is about.
type Report struct {
	files    []File
	lines    map[string][]string
	secret   map[Source]bool // lines, column 0, that are not to be shown
	problems []Problem
}

// NewReport returns a report on the files.
func NewReport(files ...File) *Report {
	r := &Report{files: files, lines: make(map[string][]string, len(files)), secret: make(map[Source]bool)}
	for _, f := range files {
		r.lines[f.Name] = splitLines(string(f.Data))
	}
	return r
}

// splitLines breaks a text where the YAML parser counts lines (YAML 1.1,
// section 5.4).
func splitLines(text string) []string {
	return strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(text), "\n")
}

// Add takes up a problem.
func (r *Report) Add(p Problem) {
	if lines := r.lines[p.Source.File]; len(lines) > 0 && p.Source.Line > 0 {
		// What is missing at the end of a file is said to be below it.
		if p.Source.Line > len(lines) {
			p.Source.Line = len(lines)
			p.Source.Column = utf8.RuneCountInString(lines[len(lines)-1]) + 1
		}
		p.Excerpt = shown(lines[p.Source.Line-1])
	}
	r.problems = append(r.problems, p)
}

// shown is a line as a terminal may have it: without bytes that it would obey,
// and with as many columns.
func shown(line string) string {
	var b strings.Builder
	for _, c := range line {
		if c != '\t' && unicode.IsControl(c) {
			c = utf8.RuneError
		}
		b.WriteRune(c)
	}
	return b.String()
}

// syntax reports what the YAML parser says.
func (r *Report) syntax(f File, err error) {
	p := Problem{Source: Source{f.Name, 1, 1}, Width: 1, Code: CodeSyntax, Message: err.Error()}
	var at *yaml.LoadError
	if errors.As(err, &at) {
		p.Message = at.Message
		if at.ContextMsg != "" {
			p.Message = at.ContextMsg + ": " + at.Message
		}
		mark := at.Mark
		if mark.Line == 0 {
			mark = at.ContextMark
		}
		if mark.Line > 0 {
			p.Source.Line, p.Source.Column = mark.Line, max(1, mark.Column)
		}
	}
	r.Add(p)
	last := &r.problems[len(r.problems)-1]
	switch {
	case strings.Contains(last.Excerpt, "${") && strings.ContainsAny(last.Excerpt, "{}[]"):
		last.Hint = "inside { } and [ ] a value with ${…} must stand in quotes"
	case strings.HasPrefix(last.Excerpt, "\t") || strings.HasPrefix(strings.TrimLeft(last.Excerpt, " "), "\t"):
		last.Hint = "YAML is indented with blanks, never with tabs"
	}
}

// Hide keeps a line that has a secret in it out of every problem: problems are
// logged.
func (r *Report) Hide(at Source) { r.secret[Source{at.File, at.Line, 0}] = true }

// Split returns the errors and the warnings in the order of their places.
func (r *Report) Split() (Problems, []Problem) {
	var failed Problems
	var warnings []Problem
	for _, p := range Sort(r.problems, r.files) {
		if r.secret[Source{p.Source.File, p.Source.Line, 0}] {
			p.Excerpt = ""
		}
		if p.Warning() {
			warnings = append(warnings, p)
		} else {
			failed = append(failed, p)
		}
	}
	return failed, warnings
}

// Broken reports whether a file could not be read, so that its tree lacks it.
func (r *Report) Broken() bool {
	return slices.ContainsFunc(r.problems, func(p Problem) bool {
		return p.Code == CodeSyntax || p.Code == CodeType || p.Code == CodeAlias
	})
}
