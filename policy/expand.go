package policy

import (
	"errors"
	"fmt"
	"strings"
)

// expansion is a text with its variables filled in.
type expansion struct {
	text  string
	unset []string // variables that are not set and have no default
}

// errRequired is a ${V:?message} whose variable is not set.
type errRequired struct{ name, message string }

func (e errRequired) Error() string {
	if e.message == "" {
		return e.name + " is not set"
	}
	return e.name + " is not set: " + e.message
}

// maxExpansionDepth bounds a default within a default.
const maxExpansionDepth = 16

// expand fills in variables as a shell does:
//
//	${V}           the value of V; empty if it is not set
//	${V:-default}  the default if V is not set or empty
//	${V-default}   the default if V is not set
//	${V:?message}  an error with the message if V is not set or empty
//	${V:+other}    other if V is set and not empty, else nothing
//	$$             a dollar
//
// A $ before anything else stays. Default, message and other may have
// variables in them; what a variable holds is never expanded again.
func expand(s string, lookup func(string) (string, bool)) (expansion, error) {
	e := expander{rest: s, lookup: lookup}
	text, err := e.run(0, true)
	if err != nil {
		return expansion{}, err
	}
	e.out.text = text
	return e.out, nil
}

type expander struct {
	rest   string
	lookup func(string) (string, bool)
	out    expansion
}

// run expands up to the end, or within braces to the one that closes them. A
// text that is not used (live is false) is only read past.
func (e *expander) run(depth int, live bool) (string, error) {
	if depth > maxExpansionDepth {
		return "", fmt.Errorf("defaults within defaults, more than %d deep", maxExpansionDepth)
	}
	stops := "$"
	if depth > 0 {
		stops = "$}"
	}
	var b strings.Builder
	for {
		i := strings.IndexAny(e.rest, stops)
		if i < 0 {
			if depth > 0 {
				return "", errors.New("${ without its }")
			}
			b.WriteString(e.rest)
			e.rest = ""
			return b.String(), nil
		}
		b.WriteString(e.rest[:i])
		e.rest = e.rest[i:]
		switch {
		case e.rest[0] == '}':
			e.rest = e.rest[1:]
			return b.String(), nil
		case strings.HasPrefix(e.rest, "$$"):
			b.WriteByte('$')
			e.rest = e.rest[2:]
		case strings.HasPrefix(e.rest, "${"):
			e.rest = e.rest[2:]
			value, err := e.variable(depth, live)
			if err != nil {
				return "", err
			}
			b.WriteString(value)
		default:
			b.WriteByte('$')
			e.rest = e.rest[1:]
		}
	}
}

// variable expands what follows a ${.
func (e *expander) variable(depth int, live bool) (string, error) {
	name, operator, err := e.head()
	if err != nil {
		return "", err
	}
	value, set := e.lookup(name)
	full := set && value != ""
	switch operator {
	case "}":
		if !set && live {
			e.out.unset = append(e.out.unset, name)
		}
		return value, nil
	case ":-", "-":
		use := full || (set && operator == "-")
		other, err := e.run(depth+1, live && !use)
		if use {
			other = value
		}
		return other, err
	case ":+":
		other, err := e.run(depth+1, live && full)
		if !full {
			other = ""
		}
		return other, err
	default: // :?
		message, err := e.run(depth+1, live && !full)
		if err == nil && live && !full {
			err = errRequired{name, message}
		}
		return value, err
	}
}

// head reads the name of a variable and what is to be done with it; "}" is
// the end of the variable.
func (e *expander) head() (name, operator string, err error) {
	n := 0
	for n < len(e.rest) && inName(e.rest[n], n) {
		n++
	}
	name, e.rest = e.rest[:n], e.rest[n:]
	if name == "" {
		return "", "", errors.New("${ without a name of a variable: letters, digits and _, not beginning with a digit")
	}
	for _, operator := range []string{"}", ":-", "-", ":?", ":+"} {
		if rest, ok := strings.CutPrefix(e.rest, operator); ok {
			e.rest = rest
			return name, operator, nil
		}
	}
	if e.rest == "" {
		return "", "", fmt.Errorf("${%s without its }", name)
	}
	return "", "", fmt.Errorf("${%s is followed by %q: want }, :-, -, :? or :+", name, e.rest[:1])
}

func inName(b byte, i int) bool {
	return b == '_' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || i > 0 && '0' <= b && b <= '9'
}

// soleVariable returns the name of the variable if s is one ${V}, with or
// without a default or a message, and nothing else.
func soleVariable(s string) (string, bool) {
	rest, ok := strings.CutPrefix(s, "${")
	if !ok {
		return "", false
	}
	e := expander{rest: rest, lookup: noVariables}
	name, operator, err := e.head()
	if err != nil || operator == ":+" {
		return "", false
	}
	if operator != "}" {
		if _, err := e.run(1, false); err != nil {
			return "", false
		}
	}
	return name, e.rest == ""
}
