package translate

import (
	"fmt"
	"regexp"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// HTTP authorization is three filters in the inbound listener that never
// change: one that records, one that denies nobody, one that allows nobody.
// The inbound route configuration overrides them with the policies. So an edit
// of a policy drains no connection and holds from the next request on, and a
// listener whose routes say nothing of policies admits nobody.
const (
	filterAudit = "envoy.filters.http.rbac.audit"
	filterDeny  = "envoy.filters.http.rbac.deny"
	filterAllow = "envoy.filters.http.rbac.allow"

	// The prefixes of the statistics, and of the metadata of shadow policies.
	shadowAudit = "audit."
	shadowDeny  = "deny."
	shadowAllow = "allow."
)

// rbacFilters are the constant filters, in their order.
func rbacFilters(d *builder) []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		rbacFilter(d, filterAudit, rbacOf(shadowAudit, rbacv3.RBAC_LOG)),
		rbacFilter(d, filterDeny, rbacOf(shadowDeny, rbacv3.RBAC_DENY)),
		rbacFilter(d, filterAllow, rbacOf(shadowAllow, rbacv3.RBAC_ALLOW)),
	}
}

func rbacFilter(d *builder, name string, r *rbacfilterv3.RBAC) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: d.pack(r)}}
}

// rbacOf has rules without policies: DENY denies nobody, ALLOW allows nobody.
// Without rules it would be no filter at all. Statistics are counted under the
// names of the constant filter, whatever an override says of them.
func rbacOf(statPrefix string, a rbacv3.RBAC_Action) *rbacfilterv3.RBAC {
	return &rbacfilterv3.RBAC{
		Rules:                 &rbacv3.RBAC{Action: a},
		RulesStatPrefix:       statPrefix,
		ShadowRulesStatPrefix: statPrefix,
		TrackPerRuleStats:     true,
	}
}

// inboundConfiguration is the inbound route configuration of a service with
// these rules. Services with the same rules share it.
func (b *build) inboundConfiguration(r rules) (*resource.Resource, error) {
	if made, ok := b.inbound[r.print]; ok {
		return made, nil
	}
	var d builder
	overrides := make(map[string]*anypb.Any)
	override := func(filter string, rbac *rbacfilterv3.RBAC) {
		overrides[filter] = d.pack(&rbacfilterv3.RBACPerRoute{Rbac: rbac})
	}
	override(filterAllow, b.c.allowRules(&d, r))
	if deny := b.c.denyRules(&d, r); deny != nil {
		override(filterDeny, deny)
	}
	if audit := b.c.auditRules(&d, r); audit != nil {
		override(filterAudit, audit)
	}
	made, err := finishInbound(&d, localRoutes(&d, samplingOf(b.c.tracing), r), overrides, r.keys)
	if err != nil {
		return nil, err
	}
	b.inbound[r.print] = made
	return made, nil
}

// closedConfiguration admits nobody: it leaves the constant filters as they
// are. It stands in for a configuration that could never be made, since
// without any the proxy would not open a single listener.
func closedConfiguration() *resource.Resource {
	closed, err := finishInbound(&builder{}, localRoutes(&builder{}, sampling{}, rules{}), nil, []string{policy.KeyAuthorization})
	if err != nil {
		panic(fmt.Sprintf("a constant is not valid: %v", err))
	}
	return closed
}

func finishInbound(d *builder, routes []*routev3.Route, overrides map[string]*anypb.Any, keys []string) (*resource.Resource, error) {
	add, remove := givenID()
	return d.finish(resource.Route, routeInbound, &routev3.RouteConfiguration{
		Name:                   routeInbound,
		RequestHeadersToAdd:    add,
		RequestHeadersToRemove: remove,
		VirtualHosts: []*routev3.VirtualHost{{
			Name:    "all",
			Domains: []string{"*"},
			Routes:  routes,
		}},
		TypedPerFilterConfig: overrides,
	}, keys, []resource.Ref{resource.Cluster.Ref(resource.ClusterLocalApp), resource.Cluster.Ref(resource.ClusterLocalAppGRPC)})
}

// allowRules decide what is admitted of what no DENY matched.
func (c *compiler) allowRules(d *builder, r rules) *rbacfilterv3.RBAC {
	allow := rbacOf(shadowAllow, rbacv3.RBAC_ALLOW)
	switch {
	case !r.enabled:
		allow.Rules.Policies = anybody("authorization-disabled")
	case r.allowByDefault:
		allow.Rules.Policies = anybody("default-action-allow")
	default:
		allow.Rules.Policies = c.policies(d, r.enforced(policy.Allow))
		c.admitChecks(allow.Rules.Policies, r.check)
	}
	c.shadow(d, allow, rbacv3.RBAC_ALLOW, r.shadowed(policy.Allow))
	return allow
}

// admitChecks adds a policy for active checks, under a name that no other has.
func (c *compiler) admitChecks(policies map[string]*rbacv3.Policy, check checkRequest) {
	if check.path == "" {
		return
	}
	name := "health-checks"
	for policies[name] != nil {
		name += " of the mesh"
	}
	policies[name] = &rbacv3.Policy{
		Permissions: []*rbacv3.Permission{{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: []*rbacv3.Permission{
			headerPermission(headerMatch(":method", exact(check.method))),
			{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: exact(check.path)}}}},
		}}}}},
		Principals: []*rbacv3.Principal{{Identifier: &rbacv3.Principal_Authenticated_{
			Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: prefix(c.anyIdentity())},
		}}},
	}
}

func (c *compiler) denyRules(d *builder, r rules) *rbacfilterv3.RBAC {
	enforced, shadowed := r.enforced(policy.Deny), r.shadowed(policy.Deny)
	if len(enforced)+len(shadowed) == 0 {
		return nil
	}
	deny := rbacOf(shadowDeny, rbacv3.RBAC_DENY)
	deny.Rules.Policies = c.policies(d, enforced)
	c.shadow(d, deny, rbacv3.RBAC_DENY, shadowed)
	return deny
}

func (c *compiler) auditRules(d *builder, r rules) *rbacfilterv3.RBAC {
	audits := r.audits()
	if len(audits) == 0 {
		return nil
	}
	audit := rbacOf(shadowAudit, rbacv3.RBAC_LOG)
	audit.Rules.Policies = c.policies(d, audits)
	return audit
}

func (c *compiler) shadow(d *builder, filter *rbacfilterv3.RBAC, a rbacv3.RBAC_Action, shadowed []*rule) {
	if len(shadowed) == 0 {
		return
	}
	filter.ShadowRules = &rbacv3.RBAC{Action: a, Policies: c.policies(d, shadowed)}
}

func anybody(name string) map[string]*rbacv3.Policy {
	return map[string]*rbacv3.Policy{name: {
		Permissions: []*rbacv3.Permission{anyPermission()},
		Principals:  []*rbacv3.Principal{anyPrincipal()},
	}}
}

// policies compiles policies under the names that the file gives them, which
// is what a denied caller and the statistics are told.
func (c *compiler) policies(d *builder, applied []*rule) map[string]*rbacv3.Policy {
	made := make(map[string]*rbacv3.Policy, len(applied))
	for _, p := range applied {
		if p.Action == policy.Allow && p.fromAnybody() {
			continue // admits nobody
		}
		name := p.Name
		if _, taken := made[name]; taken || name == "" {
			name = ruleOfTwo(&p.AuthorizationPolicy)
		}
		made[name] = &rbacv3.Policy{
			Permissions: []*rbacv3.Permission{permission(d, p)},
			Principals:  []*rbacv3.Principal{c.principal(d, p)},
		}
	}
	return made
}

// ruleOfTwo is the name of the second of two policies that have one.
func ruleOfTwo(p *policy.AuthorizationPolicy) string { return p.Name + " " + p.Key }

// principal is who calls. Only a DENY and an AUDIT may mean everybody; an
// ALLOW that names exceptions alone means everybody else of the mesh.
func (c *compiler) principal(d *builder, p *rule) *rbacv3.Principal {
	callers := p.Callers(c.trustDomain)
	some, not := callers.Some, callers.Not
	if len(some) == 0 && p.Action == policy.Allow {
		some = []policy.Principal{{Prefix: c.anyIdentity()}}
	}
	var all []*rbacv3.Principal
	if len(some) > 0 {
		all = append(all, anyOf(d, some))
	}
	if len(not) > 0 {
		all = append(all, &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: anyOf(d, not)}})
	}
	switch len(all) {
	case 0:
		return anyPrincipal()
	case 1:
		return all[0]
	default:
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: all}}}
	}
}

// anyOf matches a caller whose certificate has one of the identities.
func anyOf(d *builder, patterns []policy.Principal) *rbacv3.Principal {
	ids := make([]*rbacv3.Principal, 0, len(patterns))
	for _, pattern := range patterns {
		m := identityMatcher(pattern)
		d.checkRegex(m)
		ids = append(ids, &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{
			Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: m},
		}})
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: ids}}}
}

func anyPrincipal() *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
}

func anyPermission() *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}}
}

// permission is what is called: the fields are ANDed, their values ORed. The
// ports were decided when the policies were picked.
func permission(d *builder, p *rule) *rbacv3.Permission {
	// A DENY must not be walked around by /Admin, and an ALLOW must not
	// be widened to it.
	widest := p.Action != policy.Allow
	var all []*rbacv3.Permission
	add := func(values []*rbacv3.Permission, not bool) {
		if len(values) == 0 {
			return
		}
		one := &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: &rbacv3.Permission_Set{Rules: values}}}
		if not {
			one = &rbacv3.Permission{Rule: &rbacv3.Permission_NotRule{NotRule: one}}
		}
		all = append(all, one)
	}
	add(pathPermissions(d, p.Paths, widest), false)
	add(pathPermissions(d, p.NotPaths, !widest), true)
	add(methodPermissions(p.Methods), false)
	add(methodPermissions(p.NotMethods), true)
	add(headerPermissions(d, p.Headers), false)
	add(headerPermissions(d, p.NotHeaders), true)
	switch len(all) {
	case 0:
		return anyPermission()
	case 1:
		return all[0]
	default:
		return &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: all}}}
	}
}

// pathPermissions match the path without its query, after normalisation.
// `/admin/*` is /admin and all below it, and not /administrator.
func pathPermissions(d *builder, patterns []string, ignoreCase bool) []*rbacv3.Permission {
	var all []*rbacv3.Permission
	add := func(m *matcherv3.StringMatcher) {
		m.IgnoreCase = ignoreCase
		all = append(all, &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{
			UrlPath: &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: m}},
		}})
	}
	for _, pattern := range patterns {
		head, open := strings.CutSuffix(pattern, "*")
		if strings.Contains(head, "*") || (head == "" && !open) {
			d.failf("path %q: a * may only stand at the end", pattern)
			continue
		}
		switch {
		case !open:
			add(exact(pattern))
		case head == "" || head == "/":
			add(prefix("/"))
		case strings.HasSuffix(head, "/"):
			add(exact(strings.TrimSuffix(head, "/")))
			add(prefix(head))
		default:
			add(prefix(head))
		}
	}
	return all
}

func methodPermissions(methods []string) []*rbacv3.Permission {
	var all []*rbacv3.Permission
	for _, m := range methods {
		all = append(all, headerPermission(headerMatch(":method", exact(m))))
	}
	return all
}

func headerPermissions(d *builder, headers []policy.HeaderMatch) []*rbacv3.Permission {
	var all []*rbacv3.Permission
	for _, h := range headers {
		m := &routev3.HeaderMatcher{Name: h.Name}
		if h.Name == policy.Authority && h.Present == nil {
			all = append(all, authorityPermissions(d, h)...)
			continue
		}
		switch {
		case h.Exact != nil:
			m = headerMatch(h.Name, exact(*h.Exact))
		case h.Prefix != nil:
			m = headerMatch(h.Name, prefix(*h.Prefix))
		case h.Suffix != nil:
			m = headerMatch(h.Name, suffix(*h.Suffix))
		case h.Regex != nil:
			s := regex(*h.Regex)
			d.checkRegex(s)
			m = headerMatch(h.Name, s)
		case h.Present != nil:
			m.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: *h.Present}
		default:
			d.failf("header %q: no condition", h.Name)
			continue
		}
		all = append(all, headerPermission(m))
	}
	return all
}

// authorityPermissions match a host in every way in which the mesh lets it be
// written: in any case, with any port, and with .mesh behind it. (A dot at its
// end is taken off by the listener.) A DENY that only knew one of them would be
// passed by the others, and all of them lead to the same service.
func authorityPermissions(d *builder, h policy.HeaderMatch) []*rbacv3.Permission {
	var matchers []*matcherv3.StringMatcher
	switch {
	case h.Exact != nil:
		host := withoutMesh(*h.Exact)
		for _, form := range []string{host, host + resource.HostSuffix} {
			matchers = append(matchers, exact(form), prefix(form+":"))
		}
	case h.Prefix != nil:
		matchers = append(matchers, prefix(*h.Prefix))
	case h.Suffix != nil:
		m := regex("(?i).*" + regexp.QuoteMeta(withoutMesh(*h.Suffix)) + "(" + regexp.QuoteMeta(resource.HostSuffix) + ")?(:[0-9]*)?")
		d.checkRegex(m)
		matchers = append(matchers, m)
	default:
		d.failf("header %q: no condition that a host can meet", h.Name)
	}
	var all []*rbacv3.Permission
	for _, m := range matchers {
		if m.GetSafeRegex() == nil {
			m.IgnoreCase = true
		}
		all = append(all, headerPermission(headerMatch(h.Name, m)))
	}
	return all
}

// withoutMesh is a host, or its end, without what the mesh puts behind it and
// without a dot at its end.
func withoutMesh(host string) string {
	host = strings.TrimSuffix(host, ".")
	if n := len(host) - len(resource.HostSuffix); n > 0 && strings.EqualFold(host[n:], resource.HostSuffix) {
		return host[:n]
	}
	return host
}

func headerPermission(m *routev3.HeaderMatcher) *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: m}}
}
