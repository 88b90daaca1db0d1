package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decoder reads the merged tree into a [Mesh] and reports everything that is
// wrong on the way.
type decoder struct {
	*report
	lookup func(string) (string, bool)
	unused []value // register_interval and its like, for one warning
}

// value is a node of the tree at its key.
type value struct {
	*node
	d   *decoder
	key string // mesh.circuit_breakers.default
	// at and columns are where to point: at the key when the value is a
	// map or a list, since that is what an operator looks for.
	at      Source
	columns int

	mayBeUnset bool // a variable without a value is no reason to warn
}

// fail reports a problem of the value.
func (v value) fail(code Code, hint, format string, args ...any) {
	v.d.add(Problem{
		Source: v.at, Width: v.columns, Code: code, Key: v.key,
		Message: v.short() + ": " + fmt.Sprintf(format, args...), Hint: hint,
	})
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func indexed(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

// short is the key as an operator says it.
func (v value) short() string {
	if v.key == "" {
		return "the file"
	}
	return strings.TrimPrefix(v.key, "mesh.")
}

// section is a map whose keys are known. Each key that is asked for is known
// from then on; close reports the rest.
type section struct {
	value
	known   []string
	refused map[string]bool // reported already
}

// section returns v as a map. If it is something else that is reported, and
// the section is empty.
func (v value) section() *section {
	s := &section{value: v, refused: make(map[string]bool)}
	if v.node != nil && v.kind != object {
		if v.kind != null {
			v.fail(CodeType, "", "wants a map, not %s", v.kind)
		}
		s.node = nil
	}
	return s
}

// present reports whether the map is written in the file.
func (s *section) present() bool { return s.node != nil }

// has reports whether the map has any of the keys.
func (s *section) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := s.peek(name); return ok })
}

// peek returns the value of a key without making it known.
func (s *section) peek(name string) (value, bool) {
	if s.node == nil {
		return value{}, false
	}
	f, ok := s.field(name)
	if !ok || f.value.kind == null {
		return value{}, false
	}
	return s.entry(f), true
}

func (s *section) entry(f field) value {
	v := value{node: f.value, d: s.d, key: join(s.key, f.name), at: f.value.source, columns: f.value.width}
	if f.value.kind != scalar {
		v.at, v.columns = f.source, len([]rune(f.name))
	}
	return v
}

// get returns the value of a key, and whether the file has one.
func (s *section) get(name string) (value, bool) {
	if !slices.Contains(s.known, name) {
		s.known = append(s.known, name)
	}
	return s.peek(name)
}

// section returns the map at a key; it is empty if the file has none.
func (s *section) section(name string) *section {
	v, ok := s.get(name)
	if !ok {
		v = value{d: s.d, key: join(s.key, name), at: s.at, columns: s.columns}
	}
	return v.section()
}

// free reports whether a key is the operators' own.
func free(name string) bool { return strings.HasPrefix(name, "x-") }

// each calls do for every entry of a map whose keys are names. There are no
// unknown ones, so such a map is never closed.
func (s *section) each(do func(name string, v value)) {
	if s.node == nil {
		return
	}
	for _, f := range s.fields {
		if f.value.kind != null && !free(f.name) {
			do(f.name, s.entry(f))
		}
	}
}

// keyOf is the value of a key with the place of the key itself, for problems
// that are about the name.
func (s *section) keyOf(name string) value {
	f, _ := s.field(name)
	return value{node: f.value, d: s.d, key: join(s.key, name), at: f.source, columns: len([]rune(name))}
}

// later makes keys known that a later version will understand. Until then they
// are errors, for a file must not promise what nothing does.
func (s *section) later(names ...string) {
	for _, name := range names {
		if s.has(name) {
			s.refused[name] = true
			s.keyOf(name).fail(CodeUnsupported, "leave it out until then", "not supported yet")
		}
	}
}

// refuse reports a key that stands in a place where it means nothing, with
// what to write instead.
func (s *section) refuse(name, hint string) {
	if s.has(name) {
		s.unknown(name, hint)
	}
}

func (s *section) unknown(name, hint string) {
	s.refused[name] = true
	v := s.keyOf(name)
	if secretive(name) {
		s.d.hide(v.at)
	}
	s.d.add(Problem{
		Source: v.at, Width: v.columns, Code: CodeUnknownKey, Key: v.key,
		Message: fmt.Sprintf("unknown key %q in %s", name, s.short()), Hint: hint,
	})
}

// secretive reports whether a key that nobody knows may have a secret behind
// it: a token that stands at the wrong place is one all the same.
func secretive(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"token", "secret", "password", "passphrase", "credential"}, func(word string) bool {
		return strings.Contains(name, word)
	})
}

// close reports the keys that are not known.
func (s *section) close() {
	if s.node == nil {
		return
	}
	for _, f := range s.fields {
		if !free(f.name) && !s.refused[f.name] && !slices.Contains(s.known, f.name) {
			s.unknown(f.name, didYouMean(f.name, s.known))
		}
	}
}

// missing reports a key that must be there.
func (s *section) missing(name, hint string) {
	s.fail(CodeMissing, hint, "%s is missing", name)
}

// text expands a scalar. It is false if there is nothing to go on with, which
// is then reported.
func (v value) text() (text string, ok bool) {
	if v.kind != scalar {
		v.fail(CodeType, "", "wants a single value, not %s", v.kind)
		return "", false
	}
	e, err := expand(v.node.text, v.d.lookup)
	var required errRequired
	switch {
	case errors.As(err, &required):
		v.fail(CodeVariable, "", "%v", required)
		return "", false
	case err != nil:
		v.fail(CodeExpansion, "a dollar that is meant is written $$", "%v", err)
		return "", false
	}
	for _, name := range e.unset {
		if v.mayBeUnset {
			break
		}
		v.fail(CodeUnset, fmt.Sprintf("set it, or write what to take instead: ${%s:-…}", name), "variable %s is not set, so nothing stands there", name)
	}
	return e.text, true
}

// str reads a text. Whether it is one is decided by what is in the file, not
// by what a variable holds.
func (v value) str() (string, bool) {
	if v.kind == scalar && v.tag != "!!str" {
		v.fail(CodeType, fmt.Sprintf("write it in quotes: %q", v.node.text), "wants a text, not %s", v.node.text)
		return "", false
	}
	return v.text()
}

// plain is the text of a number or a boolean. YAML's own type is not asked: a
// quoted number, or one that a variable holds, is one all the same.
func (v value) plain(wants string) (string, bool) {
	text, ok := v.text()
	if !ok {
		return "", false
	}
	if text == "" {
		v.fail(CodeType, "", "wants %s, and is empty", wants)
		return "", false
	}
	return text, true
}

func (v value) boolean() (is, ok bool) {
	text, ok := v.plain("true or false")
	if !ok {
		return false, false
	}
	switch text {
	case "true", "True", "TRUE":
		return true, true
	case "false", "False", "FALSE":
		return false, true
	}
	v.fail(CodeType, "", "wants true or false, not %q", text)
	return false, false
}

// whole reads a whole number from least to most.
func (v value) whole(least, most uint64) (uint64, bool) {
	text, ok := v.plain("a whole number")
	if !ok {
		return 0, false
	}
	digits := strings.ReplaceAll(text, "_", "")
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && (n < least || n > most), err != nil && isNegative(digits):
		v.fail(CodeRange, "", "%s is out of range: from %d to %d", text, least, most)
		return 0, false
	case err != nil || (len(digits) > 1 && digits[0] == '0'):
		v.fail(CodeType, "", "wants a whole number, not %q", text)
		return 0, false
	}
	return n, true
}

func isNegative(digits string) bool {
	n, err := strconv.ParseInt(digits, 10, 64)
	return err == nil && n < 0 || errors.Is(err, strconv.ErrRange)
}

// real reads a number from 0 to most.
func (v value) real(most float64, hint string) (float64, bool) {
	text, ok := v.plain("a number")
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange), math.IsNaN(f), strings.ContainsAny(text, "xX_pP"):
		v.fail(CodeType, "", "wants a number, not %q", text)
		return 0, false
	case f < 0, f > most:
		v.fail(CodeRange, hint, "%s is out of range: from 0 to %v", text, most)
		return 0, false
	}
	return f + 0, true // -0 is 0
}

// duration reads a duration, which always has a unit.
func (v value) duration(least time.Duration) (time.Duration, bool) {
	text, ok := v.plain("a duration, such as 250ms or 5m")
	if !ok {
		return 0, false
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		v.fail(CodeDuration, fmt.Sprintf("seconds are %ss, milliseconds %sms", text, text), "wants a unit with %s", text)
		return 0, false
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		hint := "units are ns, us, ms, s, m and h, without blanks: 250ms, 5m, 1h30m"
		if days, err := strconv.ParseFloat(strings.TrimSuffix(text, "d"), 64); err == nil {
			hint = fmt.Sprintf("a day is 24h: %vh", days*24)
		}
		v.fail(CodeDuration, hint, "%q is no duration", text)
		return 0, false
	case d < least:
		v.fail(CodeRange, "", "%s is too short: at least %v", text, least)
		return 0, false
	}
	return d, true
}

// word reads one of some words.
func (v value) word(words ...string) (string, bool) {
	text, ok := v.str()
	if !ok {
		return "", false
	}
	if !slices.Contains(words, text) {
		v.fail(CodeWord, didYouMean(text, words), "%q is none of %s", text, strings.Join(words, ", "))
		return "", false
	}
	return text, true
}

// list returns the items of a list.
func (v value) list() ([]value, bool) {
	if v.kind != list {
		v.fail(CodeType, "a list of one is written [x]", "wants a list, not %s", v.kind)
		return nil, false
	}
	items := make([]value, len(v.items))
	for i, n := range v.items {
		items[i] = value{node: n, d: v.d, key: indexed(v.key, i), at: n.source, columns: n.width}
	}
	return items, true
}
