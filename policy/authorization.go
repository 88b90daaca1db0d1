package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

func (d *decoder) authorization(s *section, to *Authorization) {
	*to = Authorization{Enabled: s.present(), DefaultAction: Deny}
	s.boolean("enabled", &to.Enabled)
	action := string(to.DefaultAction)
	s.word("default_action", &action, string(Allow), string(Deny))
	to.DefaultAction = Action(action)
	v, ok := s.get("policies")
	if ok {
		items, _ := v.list()
		lines := make(map[string]int)
		for _, item := range items {
			p := d.policy(item)
			if line, twice := lines[p.Name]; twice && p.Name != "" {
				item.section().first("name").fail(CodePolicyName, "", "a policy %q stands in line %d already", p.Name, line)
			}
			if p.Name != "" {
				lines[p.Name] = item.section().first("name").at.Line
			}
			to.Policies = append(to.Policies, p)
		}
	}
	s.close()
}

// policy reads one policy. Its problems are reported, so it need not be whole.
func (d *decoder) policy(v value) AuthorizationPolicy {
	p := AuthorizationPolicy{Key: v.short()}
	s := v.section()
	if !s.present() {
		return p
	}
	if s.filled("name", &p.Name); !s.has("name") {
		s.missing("name", "a denied caller and the statistics are told the name")
	}
	action := ""
	if s.word("action", &action, string(Allow), string(Deny), string(Audit)); !s.has("action") {
		s.missing("action", "action: ALLOW, DENY or AUDIT")
	}
	p.Action = Action(action)
	mode := ""
	s.word("mode", &mode, "enforce", "shadow")
	p.Shadow = mode == "shadow"
	if p.Shadow && p.Action == Audit {
		s.first("mode").fail(CodeNoEffect, "", "an AUDIT decides nothing, so there is nothing to shadow")
	}

	s.names("principals", &p.Principals, value.principal)
	s.names("not_principals", &p.NotPrincipals, value.principal)
	s.names("sources", &p.Sources, value.checkServiceName)
	s.names("not_sources", &p.NotSources, value.checkServiceName)
	s.names("destinations", &p.Destinations, value.checkServiceName)
	s.names("not_destinations", &p.NotDestinations, value.checkServiceName)
	s.names("paths", &p.Paths, value.pathPattern)
	s.names("not_paths", &p.NotPaths, value.pathPattern)
	s.names("methods", &p.Methods, value.checkMethod)
	s.names("not_methods", &p.NotMethods, value.checkMethod)
	readList(s, "headers", &p.Headers, d.headerMatch)
	readList(s, "not_headers", &p.NotHeaders, d.headerMatch)
	readList(s, "ports", &p.Ports, value.port)
	readList(s, "not_ports", &p.NotPorts, value.port)
	conditions := conditionKeys()
	for _, name := range conditions {
		s.checkNotEmpty(name)
	}
	s.close()
	switch {
	case p.Action == Allow && !s.writes("principals", "sources", "not_principals", "not_sources"):
		s.fail(CodeEmptyPolicy, `principals: ["spiffe://TRUST-DOMAIN/*"] admits the whole mesh; sources: [nexus] one service`,
			"an ALLOW that names neither principals nor sources admits nobody: empty means deny")
	case p.Action == Deny && !p.Shadow && !s.writes(conditions...):
		s.fail(CodeDeniesAll, "", "a DENY without any condition denies every request to every service")
	}
	return p
}

func conditionKeys() []string {
	var keys []string
	for _, name := range []string{"principals", "sources", "destinations", "paths", "methods", "headers", "ports"} {
		keys = append(keys, name, "not_"+name)
	}
	return keys
}

// writes reports whether any of the keys is in the file, with or without a
// value.
func (s *section) writes(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := s.field(name); return ok })
}

// checkNotEmpty refuses a condition that is there and empty. It could be read
// as everything or as nothing.
func (s *section) checkNotEmpty(name string) {
	f, ok := s.field(name)
	if ok && (f.value.kind == null || f.value.kind == list && len(f.value.items) == 0) {
		s.keyOf(name).fail(CodeEmptyPolicy, "leave the key out if it does not matter", "is empty: that matches nothing")
	}
}

// checkDestinations warns of policies that mean something else for a service
// of TCP than they say.
func (d *decoder) checkDestinations(authorization *section, m *Mesh) {
	policies, ok := authorization.peek("policies")
	if !ok || policies.kind != list {
		return
	}
	items, _ := policies.list()
	for i, p := range m.Authorization.Policies {
		if i == len(items) || !p.OfHTTP() {
			continue
		}
		for _, name := range p.Destinations {
			if m.Service(name).Protocol != TCP {
				continue
			}
			where := items[i].section().first("destinations")
			switch p.Action {
			case Allow:
				where.fail(CodeNoEffect, "", "%s speaks TCP: an ALLOW with conditions on HTTP admits nobody to it", name)
			case Deny:
				where.fail(CodeTCP, "a policy of its own, by principals or sources", "%s speaks TCP: a DENY's conditions on HTTP are ignored there, so it denies more than they say", name)
			}
		}
	}
}

// checkTCPCallers warns of policies that make a service of TCP list its callers
// one by one: the certificates' names that a listener admits cannot except any.
func (d *decoder) checkTCPCallers(authorization *section, m *Mesh) {
	policies, ok := authorization.peek("policies")
	if !ok || policies.kind != list || !m.Authorization.Enabled {
		return
	}
	items, _ := policies.list()
	for i, p := range m.Authorization.Policies {
		if i == len(items) {
			return
		}
		for _, name := range m.Names() {
			if m.Service(name).Protocol == TCP && m.Authorization.listsCallers(p, name, m.MTLS.TrustDomain) {
				items[i].section().first("name").fail(CodeCallers, "name the callers one by one in the ALLOW",
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

// headerMatch reads one condition on a header.
func (d *decoder) headerMatch(v value) (HeaderMatch, bool) {
	var h HeaderMatch
	s := v.section()
	if !s.present() {
		return h, false
	}
	ok := read(s, "name", &h.Name, value.headerName)
	if !s.has("name") {
		s.missing("name", "")
	}
	conditions := 0
	text := func(name string, to **string, parse func(value) (string, bool)) {
		if !s.has(name) {
			s.known = append(s.known, name)
			return
		}
		conditions++
		var got string
		if read(s, name, &got, parse) {
			*to = &got
		} else {
			ok = false
		}
	}
	text("exact", &h.Exact, value.str)
	text("prefix", &h.Prefix, value.filled)
	text("suffix", &h.Suffix, value.filled)
	text("regex", &h.Regex, value.regex)
	if present := false; s.has("present") {
		conditions++
		ok = s.boolean("present", &present) && ok
		h.Present = &present
	}
	s.known = append(s.known, "present")
	s.close()
	if conditions != 1 {
		s.fail(CodeMatch, "present: true, if any value will do", "wants exactly one of exact, prefix, suffix, regex and present")
		return h, false
	}
	return h, ok
}

// headerName reads the name of a header, in lower case as HTTP/2 has it.
func (v value) headerName() (string, bool) {
	text, ok := v.filled()
	if !ok {
		return "", false
	}
	name := strings.ToLower(text)
	switch {
	case name == ":path", name == ":method":
		v.fail(CodeMatch, "paths and methods", "%q has a key of its own", text)
		return "", false
	case name == "host":
		v.fail(CodeMatch, "name: \":authority\"", "the host header is called :authority in a proxy")
		return "", false
	case name != ":authority" && !isToken(name):
		v.fail(CodeMatch, "", "%q is no name of a header", text)
		return "", false
	}
	return name, true
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
