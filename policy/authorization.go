package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"datapunk.dev/controlplane/yamlfile"
)

func (d *decoder) authorization(s *mapping, to *Authorization) {
	authorizationKeys.defaults(to)
	to.Enabled = s.present()
	authorizationKeys.read(s, to)
	v, ok := s.peek("policies")
	if !ok {
		return
	}
	items, _ := v.list()
	lines := make(map[string]int)
	for _, item := range items {
		p := d.policy(item)
		at := item.mapping().first("name")
		if line, twice := lines[p.Name]; twice && p.Name != "" {
			at.fail(CodePolicyName, "", "a policy %q stands in line %d already", p.Name, line)
		}
		if p.Name != "" {
			lines[p.Name] = at.at.Line
		}
		to.Policies = append(to.Policies, p)
	}
}

// policy reads one policy. Its problems are reported, so it need not be whole.
func (d *decoder) policy(v value) AuthorizationPolicy {
	p := AuthorizationPolicy{Key: v.short()}
	s := v.mapping()
	if !s.present() {
		return p
	}
	policyKeys.read(s, &p)
	if p.Shadow && p.Action == Audit {
		s.first("mode").fail(CodeNoEffect, "", "an AUDIT decides nothing, so there is nothing to shadow")
	}
	for _, name := range conditionKeys.names() {
		s.checkNotEmpty(name)
	}
	switch {
	case p.Action == Allow && !s.writes("principals", "sources", "not_principals", "not_sources"):
		s.fail(CodeEmptyPolicy, `principals: ["spiffe://TRUST-DOMAIN/*"] admits the whole mesh; sources: [nexus] one service`,
			"an ALLOW that names neither principals nor sources admits nobody: empty means deny")
	case p.Action == Deny && !p.Shadow && !s.writes(conditionKeys.names()...):
		s.fail(CodeDeniesAll, "", "a DENY without any condition denies every request to every service")
	}
	return p
}

// policyMode is the kind of the key that has a policy counted and not enforced.
func policyMode() kind[AuthorizationPolicy] {
	words := word("enforce", "shadow")
	return kind[AuthorizationPolicy]{words.shape, func(v value, to *AuthorizationPolicy) bool {
		mode, ok := words.parse(v)
		to.Shadow = mode == "shadow"
		return ok
	}}
}

// writes reports whether any of the keys is in the file, with or without a
// value.
func (s *mapping) writes(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := s.Field(name); return ok })
}

// checkNotEmpty refuses a condition that is there and empty. It could be read
// as everything or as nothing.
func (s *mapping) checkNotEmpty(name string) {
	f, ok := s.Field(name)
	if ok && (f.Value.Kind == yamlfile.Null || f.Value.Kind == yamlfile.List && len(f.Value.Items) == 0) {
		s.keyOf(name).fail(CodeEmptyPolicy, "leave the key out if it does not matter", "is empty: that matches nothing")
	}
}

// checkDestinations warns of policies that mean something else for a service
// of TCP than they say.
func (d *decoder) checkDestinations(authorization *mapping, m *Mesh) {
	items := authorization.items("policies")
	for i, p := range m.Authorization.Policies {
		if !p.OfHTTP() {
			continue
		}
		for _, name := range p.Destinations {
			if m.Service(name).Protocol != TCP {
				continue
			}
			where := items[i].mapping().first("destinations")
			switch p.Action {
			case Allow:
				where.fail(CodeNoEffect, "", "%s speaks TCP: an ALLOW with conditions on HTTP admits nobody to it", name)
			case Deny:
				where.fail(CodeTCP, "a policy of its own, by principals or sources", "%s speaks TCP: a DENY's conditions on HTTP are ignored there, so it denies more than they say", name)
			}
		}
	}
}

// checkSlashes warns of policies by path for a service that takes encoded
// slashes. To them these are letters like any other; to an application that
// decodes a path before it takes it apart they are not.
func (d *decoder) checkSlashes(authorization *mapping, m *Mesh) {
	if !m.Authorization.Enabled {
		return
	}
	items := authorization.items("policies")
	for i, p := range m.Authorization.Policies {
		if len(p.Paths)+len(p.NotPaths) == 0 || p.Action == Audit {
			continue
		}
		for _, name := range m.Names() {
			if s := m.Service(name); s.EncodedSlashes == Keep && s.Protocol != TCP && p.about(name) {
				items[i].mapping().first("paths", "not_paths").fail(CodeSlashes, "services."+name+".encoded_slashes: refuse, unless "+name+" takes a path apart before it decodes it",
					"%s takes encoded slashes, which are no slashes to this policy: /admin%%2Fx is not below /admin/", name)
				break
			}
		}
	}
}

// checkTCPCallers warns of policies that make a service of TCP list its callers
// one by one: the certificates' names that a listener admits cannot except any.
func (d *decoder) checkTCPCallers(authorization *mapping, m *Mesh) {
	if !m.Authorization.Enabled {
		return
	}
	items := authorization.items("policies")
	for i, p := range m.Authorization.Policies {
		for _, name := range m.Names() {
			if m.Service(name).Protocol == TCP && m.Authorization.listsCallers(p, name, m.MTLS.TrustDomain) {
				items[i].mapping().first("name").fail(CodeCallers, "name the callers one by one in the ALLOW",
					"%s speaks TCP, where this policy excepts callers of a pattern: of the others, only services of the file, of the catalog and of connected proxies are admitted", name)
				break
			}
		}
	}
}

// listsCallers reports whether a policy takes somebody out of a pattern of
// callers whom others, or it itself, admit to a service of TCP.
func (a *Authorization) listsCallers(p AuthorizationPolicy, service, trustDomain string) bool {
	if p.Shadow || p.Action == Audit || !p.about(service) || p.Action == Allow && a.DefaultAction == Allow {
		return false
	}
	everybody := Principal{Prefix: "spiffe://" + trustDomain + "/"}
	patterns := func(c Callers) []Principal {
		if len(c.Some) == 0 {
			return []Principal{everybody}
		}
		return slices.DeleteFunc(c.Some, func(p Principal) bool { return p.Exact != "" })
	}
	callers := p.Callers(trustDomain)
	if len(callers.Some)+len(callers.Not) == 0 {
		return false // there is nobody left to list
	}
	if p.Action == Allow {
		return !p.OfHTTP() && slices.ContainsFunc(patterns(callers), callers.Excepts)
	}
	if a.DefaultAction == Allow {
		return callers.Meets(everybody)
	}
	return slices.ContainsFunc(a.Policies, func(o AuthorizationPolicy) bool {
		return o.Action == Allow && !o.Shadow && !o.OfHTTP() && o.about(service) &&
			slices.ContainsFunc(patterns(o.Callers(trustDomain)), callers.Meets)
	})
}

// about reports whether the policy is of calls to the service, at whatever port.
func (p *AuthorizationPolicy) about(service string) bool {
	return (len(p.Destinations) == 0 || slices.Contains(p.Destinations, service)) && !slices.Contains(p.NotDestinations, service)
}

// OfHTTP reports whether the policy has conditions that only HTTP can meet.
func (p *AuthorizationPolicy) OfHTTP() bool {
	return len(p.Paths)+len(p.NotPaths)+len(p.Methods)+len(p.NotMethods)+len(p.Headers)+len(p.NotHeaders) > 0
}

// regex reads an expression in RE2's syntax, which is Go's too.
func (v value) regex() (string, bool) {
	text, ok := v.filled()
	if !ok {
		return "", false
	}
	if err := CheckRegex(text); err != nil {
		v.fail(CodeMatch, "the syntax is RE2's: github.com/google/re2/wiki/Syntax", "%v", err)
		return "", false
	}
	return text, true
}

// pathPattern checks a path with, at most, a star at its end.
func (v value) pathPattern(text string) bool {
	if text == "*" {
		return true
	}
	if why := unmatchable(strings.TrimSuffix(text, "*")); why != "" {
		v.fail(CodePath, "patterns are compared with the normalised path, without its query", "%q %s", text, why)
		return false
	}
	return true
}

// unmatchable says why no request that a proxy lets through has the path, or
// "". A proxy resolves dots and double slashes, decodes what needs no
// encoding, refuses encoded slashes, and leaves the query aside before it
// compares.
func unmatchable(path string) string {
	lower := strings.ToLower(path)
	switch {
	case !strings.HasPrefix(path, "/"):
		return "does not begin with /"
	case strings.Contains(path, "*"):
		return "has a * that is not at its end"
	case strings.Contains(path, "//"):
		return "has //, which is merged to one"
	case strings.Contains(path, `\`):
		return `has \, which becomes /`
	case strings.Contains(lower, "%2f"), strings.Contains(lower, "%5c"):
		return "has an encoded slash, and such requests are refused"
	case strings.ContainsAny(path, "?#"):
		return "has a query or fragment, which is not part of the path"
	}
	for _, segment := range strings.Split(path, "/") {
		if segment == "." || segment == ".." {
			return "has a segment " + segment + ", which is resolved"
		}
	}
	for i := 0; i < len(path); i++ {
		switch b := path[i]; {
		case b == '%':
			if i+2 >= len(path) {
				return "has a % without two digits"
			}
			n, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
			if err != nil {
				return "has a % without two digits"
			}
			if c := byte(n); c < 0x80 && onlyOf(string(rune(c)), "-._~") {
				return fmt.Sprintf("has %s, which is decoded to %c", path[i:i+3], c)
			}
		case b <= ' ', b >= 0x7f:
			return fmt.Sprintf("has the byte %#02x, which a request has only as %%%02X", b, b)
		}
	}
	return ""
}
