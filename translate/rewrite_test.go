package translate

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"datapunk.dev/controlplane/policy"
)

// pathWritten is what the manual says becomes of a path, by the first route of the file
// that matches; the path itself where none does.
func pathWritten(s *policy.Service, method, path string) (written string, by *policy.Route) {
	for i := range s.Routes {
		r := &s.Routes[i]
		for _, m := range r.Match {
			if len(m.Methods) > 0 && !slices.Contains(m.Methods, method) {
				continue
			}
			rest, ok := pathTaken(m.Path, path)
			if !ok {
				continue
			}
			switch {
			case r.Rewrite == nil:
				return path, r
			case r.Rewrite.Regex != "":
				return regexp.MustCompile(r.Rewrite.Regex).ReplaceAllString(path, r.Rewrite.Substitution), r
			default:
				// What stands behind the match stands behind the rewrite, and no slash twice.
				return cmp.Or(strings.TrimSuffix(r.Rewrite.Prefix, "/")+rest, "/"), r
			}
		}
	}
	return path, nil
}

// pathTaken reports whether a match takes a path, and what it leaves of it.
func pathTaken(m policy.PathMatch, path string) (rest string, ok bool) {
	switch {
	case m.Exact != "":
		return "", path == m.Exact
	case m.Template != "":
		want, got := strings.Split(m.Template, "/"), strings.Split(path, "/")
		return "", len(want) == len(got) && !slices.ContainsFunc(got[1:], func(s string) bool { return s == "" }) &&
			!slices.ContainsFunc(want, func(s string) bool { return !strings.HasPrefix(s, "{") && !slices.Contains(got, s) })
	case m.Regex != "":
		return "", regexp.MustCompile(`\A(?:` + m.Regex + `)\z`).MatchString(path)
	case m.Prefix == "" || m.Prefix == "/":
		return path, true
	default:
		rest, ok := strings.CutPrefix(path, strings.TrimSuffix(m.Prefix, "/"))
		return rest, ok && (rest == "" || rest[0] == '/')
	}
}

// envoyWrites is what an Envoy makes of a path by the routes that it was sent.
func envoyWrites(t rapid.TB, routes []*routev3.Route, method, path string) string {
	t.Helper()
	for _, r := range routes {
		matched, ok := envoyMatches(t, r.GetMatch(), method, path)
		if !ok {
			continue
		}
		action := r.GetRoute()
		switch {
		case action.GetRegexRewrite() != nil:
			by := regexp.MustCompile(`\\(\d)`).ReplaceAllString(action.GetRegexRewrite().GetSubstitution(), "$${$1}")
			return regexp.MustCompile(action.GetRegexRewrite().GetPattern().GetRegex()).ReplaceAllString(path, by)
		case action.GetPrefixRewrite() != "":
			return action.GetPrefixRewrite() + path[matched:]
		}
		return path
	}
	t.Fatalf("no route takes %s %s", method, path)
	return ""
}

// envoyMatches reports whether a match takes a request that is none of gRPC and whose
// body has a size, and how much of the path a rewrite stands for.
func envoyMatches(t rapid.TB, m *routev3.RouteMatch, method, path string) (matched int, ok bool) {
	t.Helper()
	if m.GetGrpc() != nil {
		return 0, false
	}
	for _, h := range m.GetHeaders() {
		value, there := "10", true // content-length
		if h.GetName() == ":method" {
			value = method
		}
		fits := there
		switch s := h.GetHeaderMatchSpecifier().(type) {
		case *routev3.HeaderMatcher_PresentMatch:
			fits = there == s.PresentMatch
		case *routev3.HeaderMatcher_StringMatch:
			fits = stringMatches(s.StringMatch, value)
		}
		if fits == h.GetInvertMatch() {
			return 0, false
		}
	}
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		return len(p.Prefix), strings.HasPrefix(path, p.Prefix)
	case *routev3.RouteMatch_Path:
		return len(path), path == p.Path
	case *routev3.RouteMatch_PathSeparatedPrefix:
		rest, ok := strings.CutPrefix(path, p.PathSeparatedPrefix)
		return len(p.PathSeparatedPrefix), ok && (rest == "" || rest[0] == '/')
	case *routev3.RouteMatch_SafeRegex:
		return len(path), regexp.MustCompile(`\A(?:` + p.SafeRegex.GetRegex() + `)\z`).MatchString(path)
	case *routev3.RouteMatch_PathMatchPolicy:
		var template uritemplatev3.UriTemplateMatchConfig
		if err := p.PathMatchPolicy.GetTypedConfig().UnmarshalTo(&template); err != nil {
			t.Fatal(err)
		}
		segments := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(template.GetPathTemplate(), "[^/]+")
		return len(path), regexp.MustCompile(`\A` + segments + `\z`).MatchString(path)
	default:
		t.Fatalf("a match by %T", p)
		return 0, false
	}
}

var (
	rewritten     = []string{"/", "/pub", "/pub/", "/pub/x", "/public", "/admin", "/admin/x", "/Admin/x", "/api", "/api/v1", "/a/x", "/b/x"}
	rewriteTakes  = []string{"exact: /pub", "exact: /admin", "prefix: /", "prefix: /pub", "prefix: /admin", "prefix: /api", `template: "/{any}/x"`, "regex: /p.*"}
	rewriteMakes  = []string{"", "prefix: /", "prefix: /pub", "prefix: /admin", "prefix: /api/v1"}
	rewriteRegex  = []string{"", `regex: "^/pub", substitution: /admin`, `regex: "^/admin/?", substitution: /`, `regex: "/x", substitution: /y`}
	rewriteDenies = []string{"/admin/*", "/admin", "/adm*", "/api/*", "/pub/*", "/*"}
)

func drawRewrites(t *rapid.T) string {
	var f strings.Builder
	f.WriteString("mesh:\n  name: td\n  services: {callee: {}}\n  security:\n    mtls: {trust_domain: td}\n    authorization:\n      policies:\n")
	f.WriteString("        - {name: all, action: ALLOW, principals: [\"spiffe://td/*\"]}\n")
	for i := range rapid.IntRange(0, 2).Draw(t, "policies") {
		fmt.Fprintf(&f, "        - {name: no-%d, action: DENY, paths: [%q]", i, rapid.SampledFrom(rewriteDenies).Draw(t, "denied"))
		if rapid.Bool().Draw(t, "excepting") {
			fmt.Fprintf(&f, ", not_paths: [%q]", rapid.SampledFrom(rewriteDenies[:5]).Draw(t, "not denied"))
		}
		f.WriteString("}\n")
	}
	f.WriteString("  routes:\n")
	for i := range rapid.IntRange(1, 3).Draw(t, "routes") {
		takes := rapid.SampledFrom(rewriteTakes).Draw(t, "takes")
		makes := rewriteMakes
		if strings.HasPrefix(takes, "template") || strings.HasPrefix(takes, "regex") || rapid.IntRange(0, 3).Draw(t, "by regex") == 0 {
			makes = rewriteRegex // nothing else is left of such a match
		}
		fmt.Fprintf(&f, "    - {name: r%d, service: callee, match: [{path: {%s}", i, takes)
		if rapid.IntRange(0, 2).Draw(t, "by method") == 0 {
			f.WriteString(", methods: [GET]")
		}
		f.WriteString("}]")
		if made := rapid.SampledFrom(makes).Draw(t, "makes"); made != "" {
			fmt.Fprintf(&f, ", rewrite: {%s}", made)
		}
		f.WriteString("}\n")
	}
	return f.String()
}

// TestRewritesAndPoliciesDecideAsTheFileSays: the caller's Envoy writes the path that the
// manual says, the callee's policies decide on that, and a rewrite that brings a request
// past a DENY which is about the path that the caller asked for is warned of.
func TestRewritesAndPoliciesDecideAsTheFileSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := drawRewrites(rt)
		mesh := parse(t, text)
		s := mesh.Service("callee")
		made, err := outboundConfiguration(virtualHostOf(s, sampling{}), nil)
		if err != nil {
			rt.Fatal(err)
		}
		var routes routev3.RouteConfiguration
		if err := proto.Unmarshal(made.Body, &routes); err != nil {
			rt.Fatal(err)
		}
		b := authorizationBuild(mesh.Authorization)
		inbound, err := b.inboundConfiguration(b.authz.rulesFor("callee", 8080))
		if err != nil {
			rt.Fatal(err)
		}
		filters := enforcedFilters(rt, inbound)
		warned := slices.ContainsFunc(mesh.Warnings, func(p policy.Problem) bool { return p.Code == policy.CodeRewrite })
		for _, path := range rewritten {
			for _, method := range []string{"GET", "POST"} {
				want, by := pathWritten(s, method, path)
				got := envoyWrites(rt, routes.GetVirtualHosts()[0].GetRoutes(), method, path)
				if got != want {
					rt.Fatalf("%s %s comes as %s, want %s\n%s", method, path, got, want, text)
				}
				asked := call{from: "spiffe://td/a", method: method, path: path}
				comes := asked
				comes.path = got
				if admitted, should := admits(filters, comes), oracle(mesh.Authorization, 8080, comes); admitted != should {
					rt.Fatalf("%s %s, which comes as %s: admitted %t, want %t\n%s", method, path, got, admitted, should, text)
				}
				if path != strings.ToLower(path) {
					continue // what a DENY excepts has case, and the warning does not look at it
				}
				if by != nil && !oracle(mesh.Authorization, 8080, asked) && admits(filters, comes) && !warned {
					rt.Fatalf("%s %s is denied, comes as %s by %s and is admitted, and nobody is warned\n%s", method, path, got, by.Name, text)
				}
			}
		}
	})
}
