package policy

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Rest is how long a file must have been left alone before an edit is taken
// from it that opens or removes much: whoever writes a file in pieces has
// written the rest by then, or has ended.
const Rest = 5 * time.Second

// Hold is why an edit that loads is not in force yet.
type Hold struct {
	Revision string // of the edit
	// Beginning is the file that is a beginning of the one in force, if one
	// is. It may be half written, so the edit is not taken for as long as it
	// stays so.
	Beginning string
	// Opens and Removes are what [Opened] and [Removed] say.
	Opens, Removes []string
	// Until is when it is taken if the files rest until then. Zero: not by
	// waiting.
	Until time.Time
}

// Judge returns nil if the step from last to next is an ordinary edit, which
// is taken as soon as it is read, else why it has to wait. What else it removes than
// what the files say by themselves is told by removes.
func Judge(last, next *Mesh, removes ...string) *Hold {
	if next.Revision == last.Revision {
		return nil
	}
	h := &Hold{Revision: next.Revision, Beginning: beginning(last, next), Opens: Opened(last, next), Removes: append(Removed(last, next), removes...)}
	if h.Beginning == "" && len(h.Opens)+len(h.Removes) == 0 {
		return nil
	}
	return h
}

// beginning returns the name of the first file that is a beginning of the one
// in force; "" if there is none, or if all that it lacks are blank lines and
// comments.
func beginning(last, next *Mesh) string {
	if len(last.Files) != len(next.Files) {
		return ""
	}
	for i, f := range next.Files {
		before := last.Files[i].Data
		rest, ok := bytes.CutPrefix(before, f.Data)
		if ok && len(rest) > 0 && (!blank(rest) || !same(last, next)) {
			return f.Name
		}
	}
	return ""
}

// blank reports whether a text has nothing but blank lines and comments.
func blank(text []byte) bool {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// same reports whether two mesh files come to the same, whatever their words.
func same(a, b *Mesh) bool {
	x, y := *a, *b
	for _, m := range []*Mesh{&x, &y} {
		m.Revision, m.Files, m.Warnings, m.keys = "", nil, nil, nil
	}
	return reflect.DeepEqual(x, y)
}

// shown bounds how many findings are told of each kind.
const shown = 5

// String says all of it in one line.
func (h *Hold) String() string {
	var parts []string
	if h.Beginning != "" {
		parts = append(parts, h.Beginning+" is a beginning of the file in force, and may be half written")
	}
	list := func(what string, found []string) {
		if len(found) == 0 {
			return
		}
		text := strings.Join(found[:min(len(found), shown)], "; ")
		if more := len(found) - shown; more > 0 {
			text += fmt.Sprintf("; and %d more", more)
		}
		parts = append(parts, what+": "+text)
	}
	list("it admits whom the file in force denies", h.Opens)
	list("it removes much", h.Removes)
	return strings.Join(parts, "; ")
}

// Ends says what it waits for.
func (h *Hold) Ends() string {
	if h.Until.IsZero() {
		return "not taken as long as it stays so, or until `controlplane accept` names it"
	}
	return fmt.Sprintf("taken when the files have rested for %v, at %s, or at once by `controlplane accept`", Rest, h.Until.Format(time.TimeOnly))
}
