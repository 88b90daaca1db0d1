package translate

import (
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/policy"
)

// pathRewrite is what becomes of a path that matched.
type pathRewrite struct {
	prefix string // in the place of what matched
	regex  *matcherv3.RegexMatchAndSubstitute
}

// replaced has a prefix in the place of the path, or of the prefix, that matched.
// What stands behind it begins with a slash, and that is not doubled.
func replaced(path policy.PathMatch, with string) pathRewrite {
	if path.Exact != "" {
		return pathRewrite{prefix: with}
	}
	with = strings.TrimSuffix(with, "/")
	from := strings.TrimSuffix(path.Prefix, "/")
	switch {
	case from == "":
		return pathRewrite{prefix: with + "/"}
	case with == "":
		return pathRewrite{regex: substitute("^"+regexp.QuoteMeta(from)+"/?", "/")}
	default:
		return pathRewrite{prefix: with}
	}
}

func substitute(pattern, by string) *matcherv3.RegexMatchAndSubstitute {
	return &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: pattern}, Substitution: by}
}

// rewritePath changes the path and the host on the way to the service.
func rewritePath(d *builder, action *routev3.RouteAction, path policy.PathMatch, r *policy.Rewrite) {
	if r == nil {
		return
	}
	switch {
	case r.Regex != "":
		d.checkRegex(regex(r.Regex))
		action.RegexRewrite = substitute(r.Regex, r.Substitution)
	case r.Prefix != "":
		made := replaced(path, r.Prefix)
		action.PrefixRewrite, action.RegexRewrite = made.prefix, made.regex
	}
	if r.Host != "" {
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.Host}
	}
}

// redirectCodes are Envoy's numbers of the statuses.
var redirectCodes = map[uint32]routev3.RedirectAction_RedirectResponseCode{
	301: routev3.RedirectAction_MOVED_PERMANENTLY,
	302: routev3.RedirectAction_FOUND,
	303: routev3.RedirectAction_SEE_OTHER,
	307: routev3.RedirectAction_TEMPORARY_REDIRECT,
	308: routev3.RedirectAction_PERMANENT_REDIRECT,
}

func redirect(path policy.PathMatch, r *policy.Redirect) *routev3.Route_Redirect {
	action := &routev3.RedirectAction{HostRedirect: r.Host, ResponseCode: redirectCodes[r.Status]}
	switch {
	case r.Path != "":
		action.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: r.Path}
	case r.Prefix != "":
		if made := replaced(path, r.Prefix); made.regex != nil {
			action.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: made.regex}
		} else {
			action.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: made.prefix}
		}
	}
	return &routev3.Route_Redirect{Redirect: action}
}

func directResponse(r *policy.DirectResponse) *routev3.Route_DirectResponse {
	action := &routev3.DirectResponseAction{Status: r.Status}
	if r.Body != "" {
		action.Body = inlineText(r.Body)
	}
	return &routev3.Route_DirectResponse{DirectResponse: action}
}

// notCopied are what a copy of a request has no business with: who is sent it is
// not who the caller showed them to.
var notCopied = []string{"authorization", "proxy-authorization", "cookie"}

// headerMirrored tells an application that a request is a copy.
const headerMirrored = "x-mesh-mirror"

func mirrorTo(cluster string, percent float64) []*routev3.RouteAction_RequestMirrorPolicy {
	m := &routev3.RouteAction_RequestMirrorPolicy{
		Cluster:                       cluster,
		RuntimeFraction:               &corev3.RuntimeFractionalPercent{DefaultValue: fraction(percent)},
		DisableShadowHostSuffixAppend: true,
	}
	for _, name := range notCopied {
		m.RequestHeadersMutations = append(m.RequestHeadersMutations, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: name}})
	}
	m.RequestHeadersMutations = append(m.RequestHeadersMutations, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{
		Append: headerOption(headerMirrored, "true", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
	}})
	return []*routev3.RouteAction_RequestMirrorPolicy{m}
}

func fraction(percent float64) *typev3.FractionalPercent {
	const parts = 10_000 // of a percent
	return &typev3.FractionalPercent{Numerator: uint32(math.Round(percent * parts)), Denominator: typev3.FractionalPercent_MILLION}
}

// filtersOf switches on the filters that a route wants; nil for none.
func filtersOf(d *builder, says *policy.Route, r route) map[string]*anypb.Any {
	configs := make(map[string]*anypb.Any)
	add := func(filter string, config *anypb.Any) {
		if config != nil {
			configs[filter] = config
		}
	}
	add(filterFault, faults(d, says.Fault, r.match.grpc))
	add(filterCORS, cors(d, says.CORS))
	if r.sticky() && says.Sticky.Cookie != "" {
		add(filterOutbound, cookieGiver(d, says.Sticky))
	}
	if len(configs) == 0 {
		return nil
	}
	return configs
}

// faults switches the filter on; nil for none. A status of gRPC means nothing to
// other requests: they would be answered 200.
func faults(d *builder, f *policy.Fault, grpc bool) *anypb.Any {
	if f == nil {
		return nil
	}
	config := &faultv3.HTTPFault{DisableDownstreamClusterStats: true}
	if f.Delay != nil {
		config.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: duration(f.Delay.Duration)}, Percentage: fraction(f.Delay.Percent),
		}
	}
	switch a := f.Abort; {
	case a == nil:
	case a.GRPCStatus == nil:
		config.Abort = &faultv3.FaultAbort{ErrorType: &faultv3.FaultAbort_HttpStatus{HttpStatus: a.Status}, Percentage: fraction(a.Percent)}
	case grpc:
		config.Abort = &faultv3.FaultAbort{ErrorType: &faultv3.FaultAbort_GrpcStatus{GrpcStatus: *a.GRPCStatus}, Percentage: fraction(a.Percent)}
	}
	if config.Delay == nil && config.Abort == nil {
		return nil
	}
	return d.pack(config)
}

// headerOptions are what is set and added, in the order of names.
func headerOptions(e policy.HeaderEdit) (options []*corev3.HeaderValueOption) {
	for _, of := range []struct {
		values map[string]string
		how    corev3.HeaderValueOption_HeaderAppendAction
	}{{e.Set, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}, {e.Add, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD}} {
		for _, name := range slices.Sorted(maps.Keys(of.values)) {
			// A percent sign begins a command of Envoy's.
			o := headerOption(name, strings.ReplaceAll(of.values[name], "%", "%%"), of.how)
			o.KeepEmptyValue = true
			options = append(options, o)
		}
	}
	return options
}

// requestMatch is which requests take a route.
func requestMatch(d *builder, m match) *routev3.RouteMatch {
	out := &routev3.RouteMatch{}
	switch p := m.path; {
	case p.Exact != "":
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: p.Exact}
	case p.Template != "":
		out.PathSpecifier = &routev3.RouteMatch_PathMatchPolicy{PathMatchPolicy: pathTemplate(d, p.Template)}
	case p.Regex != "":
		d.checkRegex(regex(p.Regex))
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: p.Regex}}
	default:
		if below := strings.TrimSuffix(p.Prefix, "/"); below != "" {
			out.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: below}
		} else {
			out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
		}
	}
	if m.grpc {
		out.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	}
	out.Headers = methodsOf(d, m)
	for _, h := range m.headers {
		out.Headers = append(out.Headers, headerMatcher(d, h))
	}
	for _, q := range m.query {
		out.QueryParameters = append(out.QueryParameters, queryMatcher(d, q))
	}
	return out
}

func headerMatcher(d *builder, h policy.HeaderMatch) *routev3.HeaderMatcher {
	switch {
	case h.Present != nil && *h.Present:
		return present(h.Name)
	case h.Present != nil:
		return absent(h.Name)
	}
	m := headerMatch(h.Name, stringMatcher(d, h.Exact, h.Prefix, h.Suffix, h.Regex))
	if h.Invert { // which alone does not match where there is no header
		m.InvertMatch, m.TreatMissingHeaderAsEmpty = true, true
	}
	return m
}

func queryMatcher(d *builder, q policy.QueryMatch) *routev3.QueryParameterMatcher {
	m := &routev3.QueryParameterMatcher{Name: q.Name}
	if q.Present != nil {
		m.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: *q.Present}
	} else {
		m.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: stringMatcher(d, q.Exact, q.Prefix, nil, q.Regex)}
	}
	return m
}

// stringMatcher matches by the one that is there.
func stringMatcher(d *builder, whole, begin, end, expression *string) *matcherv3.StringMatcher {
	switch {
	case whole != nil:
		return exact(*whole)
	case begin != nil:
		return prefix(*begin)
	case end != nil:
		return suffix(*end)
	case expression != nil:
		m := regex(*expression)
		d.checkRegex(m)
		return m
	}
	d.failf("a match of nothing")
	return nil
}
