package translate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// call is a request as RBAC sees it: after normalisation, without its query.
type call struct {
	from    string // the caller's identity; empty: no certificate
	method  string
	path    string
	headers map[string]string
}

// oracle decides for the service callee as the operators' manual does, from the file's own terms:
// the first DENY that matches refuses, the first ALLOW that matches admits,
// and then the default holds.
func oracle(a policy.Authorization, port uint16, c call) bool {
	if !a.Enabled {
		return true
	}
	for _, p := range a.Policies {
		if p.Action == policy.Deny && !p.Shadow && oracleMatch(p, port, c) {
			return false
		}
	}
	for _, p := range a.Policies {
		if p.Action == policy.Allow && !p.Shadow && oracleMatch(p, port, c) {
			return true
		}
	}
	return a.DefaultAction == policy.Allow
}

func oracleMatch(p policy.AuthorizationPolicy, port uint16, c call) bool {
	fold := p.Action != policy.Allow
	path := func(insensitive bool) func(string) bool {
		return func(pattern string) bool {
			path := c.path
			if insensitive {
				path, pattern = strings.ToLower(path), strings.ToLower(pattern)
			}
			if below, ok := strings.CutSuffix(pattern, "/*"); ok {
				return path == below || strings.HasPrefix(path, below+"/")
			}
			if start, ok := strings.CutSuffix(pattern, "*"); ok {
				return strings.HasPrefix(path, start)
			}
			return path == pattern
		}
	}
	header := func(h policy.HeaderMatch) bool {
		value, present := c.headers[h.Name]
		switch {
		case h.Present != nil:
			return present == *h.Present
		case h.Exact != nil:
			return present && value == *h.Exact
		default:
			return present && strings.HasPrefix(value, *h.Prefix)
		}
	}
	is := func(service string) bool { return c.from == "spiffe://td/"+service }
	principal := func(pattern string) bool { return c.from != "" && oracleIdentity(pattern, c.from) }

	from := slices.ContainsFunc(p.Principals, principal) || slices.ContainsFunc(p.Sources, is)
	if len(p.Principals)+len(p.Sources) == 0 {
		from = p.Action != policy.Allow ||
			len(p.NotPrincipals)+len(p.NotSources) > 0 && strings.HasPrefix(c.from, "spiffe://td/")
	}
	return from &&
		!slices.ContainsFunc(p.NotPrincipals, principal) && !slices.ContainsFunc(p.NotSources, is) &&
		oracleAny(p.Destinations, func(s string) bool { return s == "callee" }) && !slices.Contains(p.NotDestinations, "callee") &&
		oracleAny(p.Ports, func(n uint16) bool { return n == port }) && !slices.Contains(p.NotPorts, port) &&
		oracleAny(p.Paths, path(fold)) && !slices.ContainsFunc(p.NotPaths, path(!fold)) &&
		oracleAny(p.Methods, func(m string) bool { return m == c.method }) && !slices.Contains(p.NotMethods, c.method) &&
		oracleAny(p.Headers, header) && !slices.ContainsFunc(p.NotHeaders, header)
}

// oracleAny is true for no values at all.
func oracleAny[T any](values []T, match func(T) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, match)
}

// oracleIdentity compares segment by segment.
func oracleIdentity(pattern, id string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(id, "/")
	for i, segment := range want {
		if segment == "*" && i == len(want)-1 {
			return len(got) > i && strings.Join(got[i:], "/") != ""
		}
		if i >= len(got) {
			return false
		}
		head, tail, star := strings.Cut(segment, "*")
		if !star && segment != got[i] {
			return false
		}
		if star && (len(got[i]) < len(head)+len(tail) || !strings.HasPrefix(got[i], head) || !strings.HasSuffix(got[i], tail)) {
			return false
		}
	}
	return len(want) == len(got)
}

var (
	rbacIdentities = []string{
		"", "spiffe://td/a", "spiffe://td/b", "spiffe://td/web-1", "spiffe://td/web-1/x", "spiffe://td/webx1",
		"spiffe://td/team/a", "spiffe://td/team", "spiffe://td.evil/a", "spiffe://tdxevil/a", "spiffe://other/a",
	}
	rbacPrincipals = []string{
		"spiffe://td/*", "spiffe://td/a", "spiffe://td/team/*", "spiffe://td/web-*", "spiffe://td/w*1", "spiffe://td/*/a", "spiffe://td/web-*/*", "spiffe://other/*",
	}
	rbacPaths    = []string{"/", "/admin", "/admin/x", "/administrator", "/Admin", "/ADMIN/x", "/api/v1", "/health"}
	rbacPatterns = []string{"/admin/*", "/admin", "/adm*", "/api/*", "/*", "*", "/health"}
	rbacMethods  = []string{"GET", "POST", "get"}
	rbacHeaders  = []map[string]string{nil, {"x-tenant": "acme"}, {"x-tenant": "acme-2", "x-debug": "1"}}
)

func some[T any](t *rapid.T, label string, values []T, most int) []T {
	indexes := rapid.SliceOfNDistinct(rapid.IntRange(0, len(values)-1), 0, most, rapid.ID).Draw(t, label)
	var picked []T
	for _, i := range indexes {
		picked = append(picked, values[i])
	}
	return picked
}

func drawHeaders(t *rapid.T, label string) []policy.HeaderMatch {
	acme, yes, no := "acme", true, false
	return some(t, label, []policy.HeaderMatch{
		{Name: "x-tenant", Exact: &acme}, {Name: "x-tenant", Prefix: &acme}, {Name: "x-tenant", Present: &yes}, {Name: "x-debug", Present: &no},
	}, 2)
}

func drawAuthorization(t *rapid.T) policy.Authorization {
	a := policy.Authorization{
		Enabled:       rapid.IntRange(0, 9).Draw(t, "enabled") > 0,
		DefaultAction: rapid.SampledFrom([]policy.Action{policy.Deny, policy.Allow}).Draw(t, "default"),
	}
	names, ports := []string{"a", "b", "callee"}, []uint16{8080, 9090}
	for i := range rapid.IntRange(0, 4).Draw(t, "policies") {
		a.Policies = append(a.Policies, policy.AuthorizationPolicy{
			Name:            fmt.Sprintf("policy %d", i),
			Key:             fmt.Sprintf("security.authorization.policies[%d]", i),
			Action:          rapid.SampledFrom([]policy.Action{policy.Allow, policy.Allow, policy.Deny, policy.Audit}).Draw(t, "action"),
			Shadow:          rapid.IntRange(0, 5).Draw(t, "shadow") == 0,
			Principals:      some(t, "principals", rbacPrincipals, 2),
			NotPrincipals:   some(t, "not_principals", rbacPrincipals, 1),
			Sources:         some(t, "sources", names, 1),
			NotSources:      some(t, "not_sources", names, 1),
			Destinations:    some(t, "destinations", names, 2),
			NotDestinations: some(t, "not_destinations", names, 1),
			Ports:           some(t, "ports", ports, 1),
			NotPorts:        some(t, "not_ports", ports, 1),
			Paths:           some(t, "paths", rbacPatterns, 2),
			NotPaths:        some(t, "not_paths", rbacPatterns, 1),
			Methods:         some(t, "methods", []string{"GET", "POST"}, 1),
			NotMethods:      some(t, "not_methods", []string{"GET", "POST"}, 1),
			Headers:         drawHeaders(t, "headers"),
			NotHeaders:      drawHeaders(t, "not_headers"),
		})
	}
	return a
}

func authorizationBuild(a policy.Authorization) *build {
	return &build{
		in:       Input{Roots: []byte("roots")},
		c:        newCompiler(&globals{trustDomain: "td", tls: tlsStrict, dial: tlsStrict}),
		authz:    authorizationOf(&policy.Mesh{Authorization: a}, Settled),
		services: resource.NewTree[*service]().Edit(),
		inbound:  make(map[string]*resource.Resource),
	}
}

// TestRBACDecidesAsTheFileSays runs what is sent to Envoy against the oracle.
func TestRBACDecidesAsTheFileSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := drawAuthorization(rt)
		b := authorizationBuild(a)
		port := rapid.SampledFrom([]uint16{8080, 9090}).Draw(rt, "port")
		r, err := b.inboundConfiguration(b.authz.rulesFor("callee", port))
		if err != nil {
			rt.Fatal(err)
		}
		filters := enforcedFilters(rt, r)
		for range 50 {
			c := call{
				from:    rapid.SampledFrom(rbacIdentities).Draw(rt, "from"),
				method:  rapid.SampledFrom(rbacMethods).Draw(rt, "method"),
				path:    rapid.SampledFrom(rbacPaths).Draw(rt, "path"),
				headers: rapid.SampledFrom(rbacHeaders).Draw(rt, "headers"),
			}
			if got, want := admits(filters, c), oracle(a, port, c); got != want {
				rt.Fatalf("%+v: admitted %t, want %t", c, got, want)
			}
		}
	})
}

// enforcedFilters are the rules in force: the route configuration's override
// of a filter, else the filter's own.
func enforcedFilters(t rapid.TB, r *resource.Resource) []*rbacv3.RBAC {
	var routes routev3.RouteConfiguration
	if err := proto.Unmarshal(r.Body, &routes); err != nil {
		t.Fatal(err)
	}
	var rules []*rbacv3.RBAC
	for _, f := range rbacFilters(&builder{}) {
		var own rbacfilterv3.RBAC
		if err := f.GetTypedConfig().UnmarshalTo(&own); err != nil {
			t.Fatal(err)
		}
		if o := routes.TypedPerFilterConfig[f.Name]; o != nil {
			var override rbacfilterv3.RBACPerRoute
			if err := o.UnmarshalTo(&override); err != nil {
				t.Fatal(err)
			}
			if override.GetRbac().GetRules() == nil {
				t.Fatalf("the override of %s switches it off", f.Name)
			}
			own = rbacfilterv3.RBAC{Rules: override.Rbac.Rules}
		}
		rules = append(rules, own.Rules)
	}
	return rules
}

// admits evaluates as Envoy does.
func admits(filters []*rbacv3.RBAC, c call) bool {
	for _, f := range filters {
		matched := false
		for _, p := range f.Policies {
			matched = matched || slices.ContainsFunc(p.Permissions, c.permission) && slices.ContainsFunc(p.Principals, c.principal)
		}
		if f.Action == rbacv3.RBAC_ALLOW && !matched || f.Action == rbacv3.RBAC_DENY && matched {
			return false
		}
	}
	return true
}

func (c call) permission(p *rbacv3.Permission) bool {
	switch p := p.Rule.(type) {
	case *rbacv3.Permission_Any:
		return p.Any
	case *rbacv3.Permission_AndRules:
		return !slices.ContainsFunc(p.AndRules.Rules, func(p *rbacv3.Permission) bool { return !c.permission(p) })
	case *rbacv3.Permission_OrRules:
		return slices.ContainsFunc(p.OrRules.Rules, c.permission)
	case *rbacv3.Permission_NotRule:
		return !c.permission(p.NotRule)
	case *rbacv3.Permission_UrlPath:
		return stringMatches(p.UrlPath.GetPath(), c.path)
	case *rbacv3.Permission_Header:
		value, present := c.headers[p.Header.Name]
		if p.Header.Name == ":method" {
			value, present = c.method, true
		}
		if m, ok := p.Header.HeaderMatchSpecifier.(*routev3.HeaderMatcher_PresentMatch); ok {
			return present == m.PresentMatch
		}
		return present && stringMatches(p.Header.GetStringMatch(), value)
	default:
		panic(fmt.Sprintf("%T", p))
	}
}

func (c call) principal(p *rbacv3.Principal) bool {
	switch p := p.Identifier.(type) {
	case *rbacv3.Principal_Any:
		return p.Any
	case *rbacv3.Principal_AndIds:
		return !slices.ContainsFunc(p.AndIds.Ids, func(p *rbacv3.Principal) bool { return !c.principal(p) })
	case *rbacv3.Principal_OrIds:
		return slices.ContainsFunc(p.OrIds.Ids, c.principal)
	case *rbacv3.Principal_NotId:
		return !c.principal(p.NotId)
	case *rbacv3.Principal_Authenticated_:
		return c.from != "" && stringMatches(p.Authenticated.PrincipalName, c.from)
	default:
		panic(fmt.Sprintf("%T", p))
	}
}

func stringMatches(m *matcherv3.StringMatcher, s string) bool {
	fold := func(s string) string {
		if m.IgnoreCase {
			return strings.ToLower(s)
		}
		return s
	}
	switch p := m.MatchPattern.(type) {
	case *matcherv3.StringMatcher_Exact:
		return fold(s) == fold(p.Exact)
	case *matcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(fold(s), fold(p.Prefix))
	case *matcherv3.StringMatcher_SafeRegex:
		return regexp.MustCompile(`\A(?:` + p.SafeRegex.Regex + `)\z`).MatchString(s)
	default:
		panic(fmt.Sprintf("%T", p))
	}
}

// TestTCPCallersAreWhomTheFileAdmits compares the identities in the secret with
// the oracle. A connection has no path, no method and no headers: an ALLOW that
// asks for one never matches, a DENY that does is taken without it.
func TestTCPCallersAreWhomTheFileAdmits(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := drawAuthorization(rt)
		b := authorizationBuild(a)
		known := []string{"a", "b", "callee", "web-1", "webx1"}
		for _, name := range known[1:] {
			b.services.Put(name, &service{host: &host{}})
		}
		b.in.Fleet = resource.NewFleet(resource.Profile{Service: known[0]}) // runs, and is registered nowhere
		r, listed, err := b.callersSecret("callee", b.authz.rulesFor("callee", 8080))
		if err != nil {
			rt.Fatal(err)
		}
		var secret tlsv3.Secret
		if err := proto.Unmarshal(r.Body, &secret); err != nil {
			rt.Fatal(err)
		}
		sans := secret.GetValidationContext().MatchTypedSubjectAltNames
		if len(sans) == 0 {
			rt.Fatal("an empty list admits everybody")
		}
		asTCP := a
		asTCP.Policies = nil
		for _, p := range a.Policies {
			http := len(p.Paths)+len(p.NotPaths)+len(p.Methods)+len(p.NotMethods)+len(p.Headers)+len(p.NotHeaders) > 0
			if http && p.Action == policy.Allow {
				continue
			}
			p.Paths, p.NotPaths, p.Methods, p.NotMethods, p.Headers, p.NotHeaders = nil, nil, nil, nil, nil, nil
			asTCP.Policies = append(asTCP.Policies, p)
		}
		for _, id := range rbacIdentities {
			name, ours := strings.CutPrefix(id, "spiffe://td/")
			// Without a certificate nobody is admitted; nor is, by default,
			// another trust domain.
			want := id != "" && oracle(asTCP, 8080, call{from: id})
			if !a.Enabled || a.DefaultAction == policy.Allow {
				want = want && ours
			}
			got := id != "" && slices.ContainsFunc(sans, func(m *tlsv3.SubjectAltNameMatcher) bool {
				return m.SanType == tlsv3.SubjectAltNameMatcher_URI && stringMatches(m.Matcher, id)
			})
			// A list leaves out whom nobody knows, and never lets anybody in.
			if got != want && (got || !listed || ours && slices.Contains(known, name)) {
				rt.Fatalf("%s: admitted %t, want %t", id, got, want)
			}
		}
	})
}

// TestConstantFiltersAdmitNobody is what holds while the routes have not come,
// or say nothing of policies.
func TestConstantFiltersAdmitNobody(t *testing.T) {
	var rules []*rbacv3.RBAC
	for _, f := range rbacFilters(&builder{}) {
		var filter rbacfilterv3.RBAC
		if err := f.ConfigType.(*hcmv3.HttpFilter_TypedConfig).TypedConfig.UnmarshalTo(&filter); err != nil {
			t.Fatal(err)
		}
		rules = append(rules, filter.Rules)
	}
	for _, id := range rbacIdentities {
		if admits(rules, call{from: id, method: "GET", path: "/"}) {
			t.Errorf("%q is admitted", id)
		}
	}
}

// Envoy counts under the names of the filter in the listener, not of what
// overrides it: without prefixes there, deny and allow share their counters.
func TestEachFilterCountsItsShadowPoliciesApart(t *testing.T) {
	seen := make(map[string]string)
	var d builder
	for _, f := range rbacFilters(&d) {
		config := new(rbacfilterv3.RBAC)
		if err := f.GetTypedConfig().UnmarshalTo(config); err != nil {
			t.Fatal(err)
		}
		prefix := config.GetShadowRulesStatPrefix()
		if prefix == "" || prefix != config.GetRulesStatPrefix() || seen[prefix] != "" {
			t.Errorf("%s counts shadow policies as %q, others as %q, and so does %q", f.GetName(), prefix, config.GetRulesStatPrefix(), seen[prefix])
		}
		seen[prefix] = f.GetName()
	}
}

// A caller that waits for the server's first word says nothing for as long as
// it lives: in permissive mode it counts as one in plaintext after a while.
func TestSilentTCPCallerIsNotCutOffWhilePermissive(t *testing.T) {
	in := readCase(t, "testdata/permissive.in.yaml")
	for v := range sights(Translate(nil, in)) {
		inbound := new(listenerv3.Listener)
		if err := proto.Unmarshal(v.Sets[resource.Listener].Get(listenerInbound).Body, inbound); err != nil {
			t.Fatal(err)
		}
		tcp := in.Mesh.Service(v.Profile.Service).Protocol == policy.TCP
		if got := inbound.GetContinueOnListenerFiltersTimeout(); got != tcp {
			t.Errorf("%s: a silent caller goes on: %t", v.Profile.Service, got)
		}
		if tcp && inbound.GetListenerFiltersTimeout().AsDuration() != clientHelloTimeout {
			t.Errorf("%s: after %s", v.Profile.Service, inbound.GetListenerFiltersTimeout().AsDuration())
		}
	}
}

// The file asks every proxy to check, so no proxy's check is denied for want of
// an ALLOW; and nothing but the check is admitted by it.
func TestActiveChecksPassAndNothingElseDoes(t *testing.T) {
	a := policy.Authorization{Enabled: true, DefaultAction: policy.Deny, Policies: []policy.AuthorizationPolicy{
		{Name: "health-checks", Action: policy.Allow, Sources: []string{"a"}, Paths: []string{"/api/*"}},
		{Name: "no-b", Action: policy.Deny, Sources: []string{"b"}},
	}}
	for _, c := range []struct {
		protocol string
		call     call
		want     bool
	}{
		{"http", call{from: "spiffe://td/a", method: "GET", path: "/health"}, true},
		{"http", call{from: "spiffe://td/stranger", method: "GET", path: "/health"}, true},
		{"http", call{from: "spiffe://td/b", method: "GET", path: "/health"}, false},
		{"http", call{from: "spiffe://other/a", method: "GET", path: "/health"}, false},
		{"http", call{method: "GET", path: "/health"}, false},
		{"http", call{from: "spiffe://td/a", method: "POST", path: "/health"}, false},
		{"http", call{from: "spiffe://td/a", method: "GET", path: "/health/x"}, false},
		{"http", call{from: "spiffe://td/a", method: "GET", path: "/HEALTH"}, false},
		{"http", call{from: "spiffe://td/a", method: "GET", path: "/api/x"}, true},
		{"grpc", call{from: "spiffe://td/stranger", method: "POST", path: "/grpc.health.v1.Health/Check"}, true},
		{"grpc", call{from: "spiffe://td/stranger", method: "POST", path: "/grpc.health.v1.Health/Watch"}, false},
		{"grpc", call{from: "spiffe://td/stranger", method: "GET", path: "/health"}, false},
		{"tcp", call{from: "spiffe://td/stranger", method: "GET", path: "/health"}, false},
		{"", call{from: "spiffe://td/stranger", method: "GET", path: "/health"}, false},
	} {
		b := authorizationBuild(a)
		callee := &policy.Service{Name: "callee"}
		if c.protocol != "" {
			callee.HealthChecks = &policy.HealthChecks{Protocol: c.protocol, Path: "/health"}
		}
		r, err := b.inboundConfiguration(b.authz.rulesFor("callee", 8080).checkedBy(callee))
		if err != nil {
			t.Fatal(err)
		}
		if got := admits(enforcedFilters(t, r), c.call); got != c.want {
			t.Errorf("checks by %q: %+v: admitted %t", c.protocol, c.call, got)
		}
	}
}
