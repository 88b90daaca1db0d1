package translate

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// gRPC's own xDS clients split, match, retry and inject faults. They refuse all of a
// service's routes for a path that they cannot match by, so what is beyond them is
// left out here, and said.

// proxylessRoutes are the routes of a service as these clients have them: those of
// gRPC's calls, the first that matches decides.
func proxylessRoutes(d *builder, host *virtualHost) (routes []*routev3.Route, refs []resource.Ref) {
	for _, r := range host.routes {
		if !r.match.grpc || r.says != nil && (r.says.Answers() || !r.match.proxyless() || r.says.Rewrite != nil) {
			continue
		}
		action := proxylessAction(d, r)
		for _, ref := range r.refs() {
			if ref.Name != r.mirror && !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
		for _, m := range r.match.forProxyless(d) {
			route := &routev3.Route{Match: m, Action: &routev3.Route_Route{Route: action}}
			if r.says != nil {
				route.Name = r.says.Name
				if config := faults(d, r.says.Fault, true); config != nil {
					route.TypedPerFilterConfig = map[string]*anypb.Any{filterFault: config}
				}
			}
			routes = append(routes, route)
		}
	}
	return routes, refs
}

// proxylessAction is where a route of these clients leads, and how.
func proxylessAction(d *builder, r route) *routev3.RouteAction {
	if r.timeout > 0 && (r.maxStream == 0 || r.timeout < r.maxStream) {
		r.maxStream = r.timeout // the one bound that they know
	}
	action := &routev3.RouteAction{MaxStreamDuration: maxStream(r), RetryPolicy: retryPolicy(d, r.retry)}
	to := bare(r.to)
	for i := range to {
		to[i].headers = policy.HeaderEdits{}
	}
	lead(action, to, false)
	for _, h := range hashPolicy(d, r.hash) {
		if h.GetHeader() != nil {
			action.HashPolicy = append(action.HashPolicy, h)
		}
	}
	if p := action.RetryPolicy; p != nil {
		// gRPC retries by status alone, and picks another address by itself.
		p.RetryHostPredicate, p.HostSelectionRetryMaxAttempts, p.PerTryTimeout, p.RateLimitedRetryBackOff = nil, 0, nil, nil
	}
	return action
}

// mostInverted is how many headers of a match may be inverted: each makes two routes
// of one.
const mostInverted = 3

// proxyless reports whether these clients can tell the calls of the match.
func (m match) proxyless() bool {
	inverted := 0
	for _, h := range m.headers {
		if h.Invert {
			inverted++
		}
	}
	return len(m.query) == 0 && inverted <= mostInverted
}

// forProxyless are the matches that together are the match. A path of gRPC is a
// service and a method; and where a header is not there, what is inverted does not
// match.
func (m match) forProxyless(d *builder) []*routev3.RouteMatch {
	one := &routev3.RouteMatch{}
	switch p := m.path; {
	case p.Exact != "":
		one.PathSpecifier = &routev3.RouteMatch_Path{Path: p.Exact}
	case p.Template != "":
		one.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: templateRegex(p.Template)}}
	case p.Regex != "":
		one.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: p.Regex}}
	default:
		below := strings.TrimSuffix(p.Prefix, "/")
		if strings.Count(below, "/") > 1 {
			one.PathSpecifier = &routev3.RouteMatch_Path{Path: below}
		} else if below != "" {
			one.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: below + "/"}
		} else {
			one.PathSpecifier = &routev3.RouteMatch_Prefix{}
		}
	}
	all := []*routev3.RouteMatch{one}
	for _, h := range m.headers {
		forms := []*routev3.HeaderMatcher{headerMatcher(d, h)}
		if h.Invert {
			forms[0].TreatMissingHeaderAsEmpty = false
			forms = append(forms, absent(h.Name))
		}
		var next []*routev3.RouteMatch
		for _, before := range all {
			for _, form := range forms {
				next = append(next, &routev3.RouteMatch{PathSpecifier: before.PathSpecifier, Headers: append(slices.Clone(before.Headers), form)})
			}
		}
		all = next
	}
	return all
}

// templateRegex is an expression of the same paths.
func templateRegex(template string) string {
	var out strings.Builder
	for segment := range strings.SplitSeq(strings.TrimPrefix(template, "/"), "/") {
		out.WriteByte('/')
		switch {
		case segment == "**":
			out.WriteString(".*")
		case segment == "*", strings.HasPrefix(segment, "{"):
			out.WriteString("[^/]+")
		default:
			out.WriteString(regexp.QuoteMeta(segment))
		}
	}
	return out.String()
}

// beyondProxyless says what of a route these clients do without: all of it, or some.
func beyondProxyless(r *policy.Route) (whole bool, parts []string) {
	for _, part := range []struct {
		there bool
		name  string
	}{
		{r.Redirect != nil, "redirect"},
		{r.Response != nil, "direct_response"},
		{r.Rewrite != nil, "rewrite"},
		{slices.ContainsFunc(r.Match, func(m policy.RouteMatch) bool { return !(match{headers: m.Headers, query: m.Query}).proxyless() }), "match"},
	} {
		if part.there {
			whole, parts = true, append(parts, part.name)
		}
	}
	if whole {
		return true, parts
	}
	headers := !reflect.ValueOf(r.Headers).IsZero() || slices.ContainsFunc(r.Split, func(s policy.Share) bool { return !reflect.ValueOf(s.Headers).IsZero() })
	for _, part := range []struct {
		there bool
		name  string
	}{{r.Mirror != nil, "mirror"}, {headers, "headers"}, {r.Sticky != nil, "sticky"}, {r.Hedging, "hedging"}, {r.CORS != nil, "cors"}} {
		if part.there {
			parts = append(parts, part.name)
		}
	}
	return false, parts
}

// proxylessNotes are about routes of which these clients have not all. Of a service
// that is no gRPC's nobody misses them.
func proxylessNotes(s *policy.Service) (notes []string) {
	if s.Protocol != policy.GRPC {
		return nil
	}
	for i := range s.Routes {
		switch whole, parts := beyondProxyless(&s.Routes[i]); {
		case whole:
			notes = append(notes, fmt.Sprintf("service %s: clients with gRPC's own xDS do not have the route %s: they know no %s", s.Name, s.Routes[i].Name, strings.Join(parts, ", ")))
		case len(parts) > 0:
			notes = append(notes, fmt.Sprintf("service %s: clients with gRPC's own xDS have the route %s without its %s", s.Name, s.Routes[i].Name, strings.Join(parts, ", ")))
		}
	}
	return notes
}
