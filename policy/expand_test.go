package policy

import (
	"errors"
	"strings"
	"testing"
)

func lookup(name string) (string, bool) {
	value, ok := map[string]string{"A": "alpha", "EMPTY": "", "NESTED": "${A}", "_x1": "u"}[name]
	return value, ok
}

func TestExpand(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                  "plain",
		"${A}":                   "alpha",
		"<${A}${A}>":             "<alphaalpha>",
		"${_x1}":                 "u",
		"${UNSET}":               "",
		"${A:-d}":                "alpha",
		"${EMPTY:-d}":            "d",
		"${UNSET:-d}":            "d",
		"${A-d}":                 "alpha",
		"${EMPTY-d}":             "",
		"${UNSET-d}":             "d",
		"${A:?m}":                "alpha",
		"${A:+o}":                "o",
		"${EMPTY:+o}":            "",
		"${UNSET:+o}":            "",
		"${UNSET:-}":             "",
		"${UNSET:-a b:c}":        "a b:c",
		"${UNSET:-${A}}":         "alpha",
		"${UNSET:-${EMPTY:-$$}}": "$",
		"${A:-${UNSET:?no}}":     "alpha", // not used, so not required
		"${UNSET:+${UNSET:?no}}": "",
		"$$":                     "$",
		"$${A}":                  "${A}",
		"$$$${A}":                "$${A}",
		"$$${A}":                 "$alpha",
		"$A":                     "$A", // a plain dollar stays
		"^/x$":                   "^/x$",
		"$":                      "$",
		"a}b":                    "a}b",
		"${NESTED}":              "${A}", // a value is never expanded again
	} {
		got, err := expand(text, lookup)
		if err != nil || got.text != want {
			t.Errorf("%s is %q (%v), want %q", text, got.text, err, want)
		}
	}
}

func TestExpandRefuses(t *testing.T) {
	for _, text := range []string{
		"${", "${A", "${}", "${1A}", "${A:-", "${A:-${B}", "${A!b}", "${A:b}", "${A b}", "${-x}", "${A:=b}",
		strings.Repeat("${U:-", 30) + strings.Repeat("}", 30),
	} {
		if got, err := expand(text, lookup); err == nil {
			t.Errorf("%s is %q, want an error", text, got.text)
		}
	}
	for text, want := range map[string]string{
		"${UNSET:?set the port}":    "UNSET is not set: set the port",
		"${EMPTY:?}":                "EMPTY is not set",
		"x${UNSET:-${EMPTY:?${A}}}": "EMPTY is not set: alpha",
	} {
		_, err := expand(text, lookup)
		var required errRequired
		if !errors.As(err, &required) || err.Error() != want {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

func TestExpandNamesWhatIsNotSet(t *testing.T) {
	got, err := expand("${A}${U1}${U2:-${U3}}${A:-${U4}}", lookup)
	if err != nil || strings.Join(got.unset, " ") != "U1 U3" {
		t.Errorf("unset %v (%v)", got.unset, err)
	}
}

func TestSoleVariable(t *testing.T) {
	for text, want := range map[string]string{
		"${V}": "V", "${V:-d}": "V", "${V-d}": "V", "${V:?m}": "V", "${V:-${W}}": "V",
		"${V:+o}": "", "x${V}": "", "${V}x": "", "${V}${W}": "", "$V": "", "${V": "", "": "", "$${V}": "",
	} {
		if got, ok := soleVariable(text); got != want && ok {
			t.Errorf("%s is the variable %q, want %q", text, got, want)
		} else if ok != (want != "") {
			t.Errorf("%s is a sole variable: %v", text, ok)
		}
	}
}

func FuzzExpand(f *testing.F) {
	for _, text := range []string{"${A}", "${A:-${B}}", "$$", "${A:?x}", "${A:+", "}", "${UNSET-${", "é${A}"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := expand(text, lookup)
		if err != nil {
			return
		}
		if !strings.Contains(text, "$") && got.text != text {
			t.Errorf("%q has no variable and becomes %q", text, got.text)
		}
		// What is quoted comes out as it went in.
		quoted, err := expand(strings.ReplaceAll(text, "$", "$$"), lookup)
		if err != nil || quoted.text != text {
			t.Errorf("quoted, %q becomes %q (%v)", text, quoted.text, err)
		}
		if name, ok := soleVariable(text); ok && !strings.HasPrefix(text, "${"+name) {
			t.Errorf("%q is the variable %q", text, name)
		}
	})
}
