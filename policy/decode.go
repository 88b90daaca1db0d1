package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"datapunk.dev/controlplane/spelling"
	"datapunk.dev/controlplane/yamlfile"
)

// decoder reads the merged tree into a [Mesh] and reports everything that is
// wrong on the way.
type decoder struct {
	*yamlfile.Report
	lookup func(string) (string, bool)
}

func noVariables(string) (string, bool) { return "", false }

type node = yamlfile.Node

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
	v.d.Add(Problem{
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

// name is the last part of the key.
func (v value) name() string { return v.key[strings.LastIndex(v.key, ".")+1:] }

// mapping is a map of the tree, whose keys a [table] knows.
type mapping struct {
	value
	good []string // the keys that were read, and are right
}

// mapping returns v as a map. If it is something else that is reported, and
// the mapping is empty.
func (v value) mapping() *mapping {
	m := &mapping{value: v}
	if v.node != nil && v.Kind != yamlfile.Map {
		if v.Kind != yamlfile.Null {
			v.fail(CodeType, "", "wants a map, not %s", v.Kind)
		}
		m.node = nil
	}
	return m
}

// present reports whether the map is written in the file.
func (m *mapping) present() bool { return m.node != nil }

// has reports whether the map has any of the keys.
func (m *mapping) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := m.peek(name); return ok })
}

// got reports whether the key was read, and is right.
func (m *mapping) got(name string) bool { return slices.Contains(m.good, name) }

// items are those of a list; none if the file has none.
func (m *mapping) items(name string) []value {
	v, ok := m.peek(name)
	if !ok || v.Kind != yamlfile.List {
		return nil
	}
	all, _ := v.list()
	return all
}

// peek returns the value of a key, and whether the file has one.
func (m *mapping) peek(name string) (value, bool) {
	if m.node == nil {
		return value{}, false
	}
	f, ok := m.Field(name)
	if !ok || f.Value.Kind == yamlfile.Null {
		return value{}, false
	}
	return m.entry(f), true
}

func (m *mapping) entry(f yamlfile.Field) value {
	v := value{node: f.Value, d: m.d, key: join(m.key, f.Name), at: f.Value.Source, columns: f.Value.Width}
	if f.Value.Kind != yamlfile.Scalar {
		v.at, v.columns = f.Source, len([]rune(f.Name))
	}
	return v
}

// section returns the map at a key; it is empty if the file has none.
func (m *mapping) section(name string) *mapping {
	v, ok := m.peek(name)
	if !ok {
		v = value{d: m.d, key: join(m.key, name), at: m.at, columns: m.columns}
	}
	return v.mapping()
}

// first is the first of the keys that the file has.
func (m *mapping) first(names ...string) value {
	for _, name := range names {
		if v, ok := m.peek(name); ok {
			return v
		}
	}
	return m.value
}

// each calls do for every entry of a map whose keys are names.
func (m *mapping) each(do func(name string, v value)) {
	if m.node == nil {
		return
	}
	for _, f := range m.Fields {
		if f.Value.Kind != yamlfile.Null && !yamlfile.Free(f.Name) {
			do(f.Name, m.entry(f))
		}
	}
}

// keyOf is the value of a key with the place of the key itself, for problems
// that are about the name.
func (m *mapping) keyOf(name string) value {
	f, _ := m.Field(name)
	return value{node: f.Value, d: m.d, key: join(m.key, name), at: f.Source, columns: len([]rune(name))}
}

// unknown reports a key that nobody knows, or that stands in a place where it
// means nothing.
func (m *mapping) unknown(name, hint string) {
	v := m.keyOf(name)
	if secretive(name) {
		m.d.Hide(v.at)
	}
	m.d.Add(Problem{
		Source: v.at, Width: v.columns, Code: CodeUnknownKey, Key: v.key,
		Message: fmt.Sprintf("unknown key %q in %s", name, m.short()), Hint: hint,
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

// text expands a scalar. It is false if there is nothing to go on with, which
// is then reported.
func (v value) text() (text string, ok bool) {
	if v.Kind != yamlfile.Scalar {
		v.fail(CodeType, "", "wants a single value, not %s", v.Kind)
		return "", false
	}
	e, err := expand(v.Text, v.d.lookup)
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
	if strings.ContainsFunc(e.text, unfit) {
		v.fail(CodeValue, "", "%q holds what is no text: a control character, or a byte that is not UTF-8", e.text)
		return "", false
	}
	return e.text, true
}

// unfit reports whether a character, by an escape or by a variable, is one that
// no key means and that Envoy refuses in most places.
func unfit(c rune) bool {
	return c == utf8.RuneError || unicode.IsControl(c) && c != '\t' && c != '\n'
}

// str reads a text. Whether it is one is decided by what is in the file, not
// by what a variable holds.
func (v value) str() (string, bool) {
	if v.Kind == yamlfile.Scalar && v.Tag != "!!str" {
		v.fail(CodeType, fmt.Sprintf("write it in quotes: %q", v.Text), "wants a text, not %s", v.Text)
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
func (v value) duration(least, most time.Duration) (time.Duration, bool) {
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
	case d > 0 && d < time.Millisecond:
		// Envoy counts most times in whole milliseconds, and takes none for 0.
		v.fail(CodeRange, "", "%s is too short: 0, or at least 1ms", text)
		return 0, false
	case d > most:
		v.fail(CodeRange, "", "%s is too long: at most %s", text, hours(most))
		return 0, false
	}
	return d, true
}

// hours is a long duration as an operator writes it.
func hours(d time.Duration) string { return strings.TrimSuffix(d.String(), "0m0s") }

// word reads one of some words.
func (v value) word(words ...string) (string, bool) {
	text, ok := v.str()
	if !ok {
		return "", false
	}
	if !slices.Contains(words, text) {
		v.fail(CodeWord, spelling.DidYouMean(text, words), "%q is none of %s", text, strings.Join(words, ", "))
		return "", false
	}
	return text, true
}

// list returns the items of a list.
func (v value) list() ([]value, bool) {
	if v.Kind != yamlfile.List {
		v.fail(CodeType, "a list of one is written [x]", "wants a list, not %s", v.Kind)
		return nil, false
	}
	items := make([]value, len(v.Items))
	for i, n := range v.Items {
		items[i] = value{node: n, d: v.d, key: indexed(v.key, i), at: n.Source, columns: n.Width}
	}
	return items, true
}
