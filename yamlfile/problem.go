package yamlfile

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// File is a file in memory. Name is what operators are shown.
type File struct {
	Name string
	Data []byte
}

// Source is a place in a file. Line and Column count from 1.
type Source struct {
	File         string
	Line, Column int
}

// Problem is one thing that is wrong with a file, or worth knowing of it.
type Problem struct {
	Source  Source
	Code    Code   // stable, see docs/errors.md
	Key     string // mesh.circuit_breakers.default
	Message string
	Hint    string // did you mean, or what to write instead; may be empty
	Excerpt string // the line of the file
	Width   int    // how many columns the caret covers
}

// Warning reports whether the file loads all the same.
func (p Problem) Warning() bool { return strings.HasPrefix(string(p.Code), "MC2") }

// String is the problem in one line: FILE:LINE:COL: CODE: message.
func (p Problem) String() string {
	severity := ""
	if p.Warning() {
		severity = "warning: "
	}
	return fmt.Sprintf("%s: %s: %s%s", p.Source, p.Code, severity, p.Message)
}

// Format writes the line of [Problem.String] and below it the line of the file
// with a caret, and the hint.
func (p Problem) Format(w io.Writer) {
	text := p.String() + "\n"
	gutter := ""
	if p.Excerpt != "" {
		number := strconv.Itoa(p.Source.Line)
		gutter = strings.Repeat(" ", len(number))
		text += number + " | " + p.Excerpt + "\n" + gutter + " | " + p.caret() + "\n"
	}
	if p.Hint != "" {
		text += gutter + " = " + p.Hint + "\n"
	}
	_, _ = io.WriteString(w, text) // a terminal that is gone wants no error
}

// caret underlines the columns that the problem is about. Tabs before it stay
// tabs, so that it lands where the terminal put the text.
func (p Problem) caret() string {
	var b strings.Builder
	column := 1
	for _, r := range p.Excerpt {
		if column >= p.Source.Column {
			break
		}
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
		column++
	}
	rest := utf8.RuneCountInString(p.Excerpt) - (column - 1)
	b.WriteString(strings.Repeat("^", max(1, min(p.Width, rest))))
	return b.String()
}

// Problems are all the errors of a file, in the order of their places.
type Problems []Problem

// Error has one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// String is FILE:LINE:COL, as editors and terminals follow it.
func (s Source) String() string {
	if s.Line == 0 {
		return s.File
	}
	return fmt.Sprintf("%s:%d:%d", s.File, s.Line, s.Column)
}

// Sort orders problems by place, files in the order in which they were
// given, and drops what was found twice.
func Sort(ps []Problem, files []File) []Problem {
	order := make(map[string]int, len(files))
	for i, f := range files {
		order[f.Name] = i
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(order[a.Source.File], order[b.Source.File]),
			cmp.Compare(a.Source.Line, b.Source.Line),
			cmp.Compare(a.Source.Column, b.Source.Column),
			cmp.Compare(a.Code, b.Code),
			cmp.Compare(a.Message, b.Message),
		)
	})
	return slices.Compact(ps)
}
