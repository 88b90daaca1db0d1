package policy

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// hides reports whether a route takes every request that a later one of the same
// service matches. A "no" may be a "cannot tell".
func (r *Route) hides(later *Route) bool {
	if len(r.Match) == 0 {
		return true
	}
	if len(later.Match) == 0 {
		return slices.ContainsFunc(r.Match, func(m RouteMatch) bool { return m.takes(&RouteMatch{}) })
	}
	for i := range later.Match {
		if !slices.ContainsFunc(r.Match, func(m RouteMatch) bool { return m.takes(&later.Match[i]) }) {
			return false
		}
	}
	return true
}

// takes reports whether all that o matches is matched by m.
func (m *RouteMatch) takes(o *RouteMatch) bool {
	if len(m.Methods) > 0 {
		methods := o.Methods
		if len(methods) == 0 && o.GRPC != nil {
			methods = []string{"POST"}
		}
		if len(methods) == 0 || slices.ContainsFunc(methods, func(one string) bool { return !slices.Contains(m.Methods, one) }) {
			return false
		}
	}
	has := func(all, some any) bool { return reflect.DeepEqual(all, some) }
	for _, h := range m.Headers {
		if !slices.ContainsFunc(o.Headers, func(x HeaderMatch) bool { return has(h, x) }) {
			return false
		}
	}
	for _, q := range m.Query {
		if !slices.ContainsFunc(o.Query, func(x QueryMatch) bool { return has(q, x) }) {
			return false
		}
	}
	if m.GRPC != nil && (o.GRPC == nil || m.GRPC.Service != "" && m.GRPC.Service != o.GRPC.Service || m.GRPC.Method != "" && m.GRPC.Method != o.GRPC.Method) {
		return false
	}
	return m.Path.takes(o.path())
}

// path is the condition on the path, that of gRPC too.
func (m *RouteMatch) path() PathMatch {
	switch {
	case m.GRPC == nil || m.GRPC.Service == "":
		return m.Path
	case m.GRPC.Method == "":
		return PathMatch{Prefix: "/" + m.GRPC.Service}
	default:
		return PathMatch{Exact: "/" + m.GRPC.Service + "/" + m.GRPC.Method}
	}
}

// takes reports whether every path that o matches is matched by p.
func (p PathMatch) takes(o PathMatch) bool {
	switch {
	case p == (PathMatch{}), p.Prefix == "/", p == o:
		return true
	case p.Prefix != "":
		return o.Exact != "" && below(o.Exact, p.Prefix) || o.Prefix != "" && below(o.Prefix, p.Prefix) ||
			o.Template != "" && below(literalPart(o.Template), p.Prefix)
	case p.Regex != "":
		return o.Exact != "" && matchesWhole(p.Regex, o.Exact)
	default:
		return false
	}
}

// below reports whether a path is a prefix, or below it.
func below(path, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// literalPart is what stands in a template before the first segment that is not
// one path.
func literalPart(template string) string {
	if i := strings.IndexAny(template, "{*"); i >= 0 {
		return strings.TrimSuffix(template[:i], "/")
	}
	return template
}

// checkRewrites warns of rewrites that lead around a DENY: the callee's policies see
// the path that the caller's proxy has written.
func (d *decoder) checkRewrites(m *Mesh, items []value) {
	if !m.Authorization.Enabled {
		return
	}
	at := make(map[string]*mapping)
	for _, item := range items {
		at[item.short()] = item.mapping()
	}
	for _, name := range m.Names() {
		for _, r := range m.services[name].Routes {
			if r.Rewrite == nil || r.Rewrite.Prefix == "" && r.Rewrite.Regex == "" {
				continue
			}
			for _, service := range r.servedBy() {
				if p, path := m.walkedAround(service, &r); p != nil {
					at[r.Key].section("rewrite").first("prefix", "regex").fail(CodeRewrite, "deny the path that "+service+" gets, or match less",
						"a request for %s, which DENY %s is about, comes to %s under another path", path, p.Name, service)
					break
				}
			}
		}
	}
}

// servedBy are the services whose policies see what the route has made of a request.
func (r *Route) servedBy() []string {
	to := []string{r.Service}
	if len(r.Split) > 0 {
		to = to[:0]
		for _, share := range r.Split {
			to = append(to, share.Service)
		}
	}
	if r.Mirror != nil {
		to = append(to, r.Mirror.Service)
	}
	slices.Sort(to)
	return slices.Compact(to)
}

// walkedAround returns a DENY about the service, and a path of it, that the route
// has come to the service as one that the policy does not match.
func (m *Mesh) walkedAround(service string, r *Route) (*AuthorizationPolicy, string) {
	matches := r.Match
	if len(matches) == 0 {
		matches = []RouteMatch{{}}
	}
	for _, p := range m.enforced(Deny) {
		if !p.about(service) {
			continue
		}
		patterns := p.Paths
		if len(patterns) == 0 && len(p.NotPaths) > 0 {
			patterns = []string{"/*"}
		}
		for _, pattern := range patterns {
			for i := range matches {
				if path, out := r.leaves(&matches[i], pattern, patterns, p.NotPaths); out {
					return p, path
				}
			}
		}
	}
	return nil, ""
}

// leaves reports whether a path of the pattern that the match takes becomes one
// that the policy is not about, for none of the patterns has it or one of those that
// are excepted does. What cannot be told counts as such. Policies have no case.
func (r *Route) leaves(m *RouteMatch, pattern string, patterns, excepted []string) (string, bool) {
	pattern = strings.ToLower(pattern)
	denied := strings.TrimSuffix(strings.TrimSuffix(pattern, "*"), "/")
	deep := strings.HasSuffix(pattern, "*")
	if denied == "" && deep && len(excepted) == 0 {
		return "", false // every path is denied
	}
	from := strings.ToLower(m.Path.Exact)
	if from == "" {
		from = strings.ToLower(m.Path.Prefix)
	}
	if from == "" && (m.Path.Template != "" || m.Path.Regex != "") {
		return pattern, true
	}
	from = strings.TrimSuffix(from, "/")
	var path string
	switch {
	case m.Path.Exact != "" && denied == from, deep && covers(pattern, from):
		path = from
	case m.Path.Exact == "" && below(denied, from):
		path = denied
	default:
		return "", false // the two have nothing in common
	}
	for _, other := range excepted {
		if !covers(other, path) {
			continue
		}
		if !deep || m.Path.Exact != "" || strings.HasSuffix(other, "*") {
			return "", false // not denied as it comes
		}
		path += "/x" // it alone is not, and what stands below it is
	}
	shown := cmp.Or(path, "/")
	if r.Rewrite.Regex != "" {
		return shown, true
	}
	after := cmp.Or(strings.TrimSuffix(strings.ToLower(r.Rewrite.Prefix), "/")+strings.TrimPrefix(path, from), "/")
	if after == shown {
		return "", false
	}
	if slices.ContainsFunc(excepted, func(other string) bool {
		return covers(other, after) || m.Path.Exact == "" && strings.HasPrefix(strings.ToLower(other), strings.TrimSuffix(after, "/")+"/")
	}) {
		return shown, true
	}
	return shown, !slices.ContainsFunc(patterns, func(other string) bool {
		return covers(other, after) && (!deep || strings.HasSuffix(other, "*"))
	})
}

// covers reports whether a pattern of a policy has a path, or all below it.
func covers(pattern, path string) bool {
	base, star := strings.CutSuffix(strings.ToLower(pattern), "*")
	if star {
		return strings.HasPrefix(path, base) || path+"/" == base
	}
	return path == base
}
