package policy

import (
	"regexp"
	"slices"
	"strings"
)

// Principal is a pattern of SPIFFE IDs: one identity, all that begin alike, or
// those that a regular expression matches whole. Exactly one field is set.
type Principal struct {
	Exact, Prefix, Regex string
}

// ParsePrincipal returns what a pattern of the mesh file matches. The pattern
// must have passed the checks of the file.
func ParsePrincipal(pattern string) Principal {
	switch expression := principalRegex(pattern); {
	case expression != "":
		return Principal{Regex: expression}
	case strings.HasSuffix(pattern, "*"):
		return Principal{Prefix: strings.TrimSuffix(pattern, "*")}
	default:
		return Principal{Exact: pattern}
	}
}

// Matches reports whether the identity is one of the pattern.
func (p Principal) Matches(id string) bool {
	switch {
	case p.Regex != "":
		ok, err := regexp.MatchString("^(?:"+p.Regex+")$", id)
		return err == nil && ok
	case p.Prefix != "":
		return strings.HasPrefix(id, p.Prefix)
	default:
		return id == p.Exact
	}
}

// beginning is what every identity of the pattern begins with.
func (p Principal) beginning() string {
	if p.Regex == "" {
		return p.Exact + p.Prefix
	}
	// A principal's expression is compiled when the file is checked.
	literal, _ := regexp.MustCompile(p.Regex).LiteralPrefix()
	return literal
}

// meets reports whether an identity may be one of both patterns. It is right
// when it says no; of two that are regular expressions it may say yes in vain.
func (p Principal) meets(o Principal) bool {
	switch {
	case p.Exact != "":
		return o.Matches(p.Exact)
	case o.Exact != "":
		return p.Matches(o.Exact)
	}
	a, b := p.beginning(), o.beginning()
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

// covers reports whether every identity of o is one of p. It is right when it
// says yes.
func (p Principal) covers(o Principal) bool {
	if o.Exact != "" {
		return p.Matches(o.Exact)
	}
	return p == o || p.Prefix != "" && strings.HasPrefix(o.beginning(), p.Prefix)
}

// Callers are those that a policy is about: one of Some, where none means
// anybody with an identity of any kind, and none of Not.
type Callers struct {
	Some, Not []Principal
}

// Callers returns whom the policy names, by identity or as a service of the
// trust domain.
func (p *AuthorizationPolicy) Callers(trustDomain string) Callers {
	all := func(principals, services []string) []Principal {
		var list []Principal
		for _, pattern := range principals {
			list = append(list, ParsePrincipal(pattern))
		}
		for _, service := range services {
			list = append(list, Principal{Exact: "spiffe://" + trustDomain + "/" + service})
		}
		return list
	}
	return Callers{Some: all(p.Principals, p.Sources), Not: all(p.NotPrincipals, p.NotSources)}
}

// Match reports whether the policy is about a caller with the identity.
func (c Callers) Match(id string) bool {
	matches := func(p Principal) bool { return p.Matches(id) }
	return (len(c.Some) == 0 || slices.ContainsFunc(c.Some, matches)) && !slices.ContainsFunc(c.Not, matches)
}

// Meets reports whether an identity of the pattern may be one of the callers.
// It is right when it says no.
func (c Callers) Meets(pattern Principal) bool {
	return (len(c.Some) == 0 || slices.ContainsFunc(c.Some, pattern.meets)) &&
		!slices.ContainsFunc(c.Not, func(not Principal) bool { return not.covers(pattern) })
}

// Excepts reports whether the policy leaves out an identity of the pattern.
// It is right when it says no.
func (c Callers) Excepts(pattern Principal) bool { return slices.ContainsFunc(c.Not, pattern.meets) }

// segment is what a star within a segment of a SPIFFE ID stands for.
const segment = "[A-Za-z0-9._-]*"

// principalRegex returns the expression for a principal whose stars neither an
// exact comparison nor one of its beginning can stand for; it is empty for the
// others. A last segment that is a star stands for one or more segments;
// elsewhere a star stands for any part of one segment. What is not a star is
// quoted: a dot in a name is a dot.
func principalRegex(pattern string) string {
	head, below := strings.CutSuffix(pattern, "/*")
	if !strings.Contains(head, "*") {
		return ""
	}
	parts := strings.Split(head, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	expression := strings.Join(parts, segment)
	if below {
		expression += "/.+"
	}
	return expression
}
