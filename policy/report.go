package policy

import (
	"errors"
	"strings"

	"go.yaml.in/yaml/v4"
)

// report gathers problems and gives each the line of the file that it is about.
type report struct {
	files    []File
	lines    map[string][]string
	problems []Problem
}

func newReport(files []File) *report {
	r := &report{files: files, lines: make(map[string][]string, len(files))}
	for _, f := range files {
		r.lines[f.Name] = strings.Split(string(f.Data), "\n")
	}
	return r
}

func (r *report) add(p Problem) {
	if lines := r.lines[p.Source.File]; p.Source.Line > 0 && p.Source.Line <= len(lines) {
		p.Excerpt = strings.ToValidUTF8(strings.TrimRight(lines[p.Source.Line-1], "\r"), "�")
	}
	r.problems = append(r.problems, p)
}

// syntax reports what the YAML parser says.
func (r *report) syntax(f File, err error) {
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
	r.add(p)
	last := &r.problems[len(r.problems)-1]
	switch {
	case strings.Contains(last.Excerpt, "${") && strings.ContainsAny(last.Excerpt, "{}[]"):
		last.Hint = "inside { } and [ ] a value with ${…} must stand in quotes"
	case strings.HasPrefix(last.Excerpt, "\t") || strings.HasPrefix(strings.TrimLeft(last.Excerpt, " "), "\t"):
		last.Hint = "YAML is indented with blanks, never with tabs"
	}
}

// split returns the errors and the warnings in the order of their places.
func (r *report) split() (Problems, []Problem) {
	var failed Problems
	var warnings []Problem
	for _, p := range sortProblems(r.problems, r.files) {
		if p.Warning() {
			warnings = append(warnings, p)
		} else {
			failed = append(failed, p)
		}
	}
	return failed, warnings
}
