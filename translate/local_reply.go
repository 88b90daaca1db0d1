package translate

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// webSocket is the one protocol that a connection may be upgraded to.
const webSocket = "websocket"

// ignoredUpgrades are what clients offer by themselves, to whatever server they
// meet: TLS, and other versions of HTTP. RFC 9110 section 7.8 lets a server
// ignore an offer; the request is served as if it had not been made.
func ignoredUpgrades() []*matcherv3.StringMatcher {
	ignored := []*matcherv3.StringMatcher{prefix("TLS/"), prefix("HTTP/"), exact("h2"), exact("h2c")}
	for _, m := range ignored {
		m.IgnoreCase = true
	}
	return ignored
}

// headerError has the code of what went wrong, for programs, and for a HEAD request,
// whose answer has no body.
const headerError = "x-mesh-error"

// codeRateLimit is of a request that is too much.
const codeRateLimit = "MC3017"

// localReplies are what a proxy says in its own name: that it is the mesh, why, and the
// code that `controlplane explain` knows. Envoy's own words look like an application's
// (a 404 without a body), like a denial (an upgrade: 403) or like a fault of the network.
// They are the same in every mesh, since a listener that changes drains. What an
// application answers is no local reply, and neither is what is said here of what the
// file has a route answer.
func localReplies(own ...*hcmv3.ResponseMapper) *hcmv3.LocalReplyConfig {
	other := headerMatch("upgrade", exact(webSocket))
	other.GetStringMatch().IgnoreCase = true
	other.InvertMatch = true
	connect := headerMatch(":method", exact("CONNECT"))
	return &hcmv3.LocalReplyConfig{Mappers: append([]*hcmv3.ResponseMapper{
		notImplemented(allOf(present("upgrade"), other), "This proxy passes on no upgrade to %REQ(UPGRADE):64%, only to websocket.\n"),
		notImplemented(allOf(connect), "This proxy takes no CONNECT: it is none for other hosts. Send it the request itself, with the service in its Host header.\n"),
		{
			Filter:             allOf(present(":method"), absent(":authority")),
			BodyFormatOverride: text("The request has no Host header, which says what service it is for.\n"),
		},
	}, own...)}
}

// repliesAtCaller are of calls that the mesh did not bring to an application. Where
// several tries failed in several ways, the last one counts, and the flags of all stand:
// the one that says most comes first.
func repliesAtCaller() *hcmv3.LocalReplyConfig {
	return localReplies(
		reply("MC3009", flagged("FI"), "a fault of the mesh file answers this call: route %ROUTE_NAME%"),
		reply("MC3001", flagged("NR"), "the mesh has no route to the host %REQ(:AUTHORITY):128%: it is no service of the mesh or, MC3002, none of the upstreams that this application declares"),
		reply("MC3004", flagged("NC"), "the mesh has no cluster for the route %ROUTE_NAME%"),
		reply("MC3003", flagged("UH"), "no healthy upstream: %UPSTREAM_CLUSTER% has no instance that may be called; none is registered, or all are in maintenance, of weight 0, or unhealthy"),
		reply("MC3014", flagged("UT"), "%UPSTREAM_CLUSTER% did not answer in the time that the request has"),
		reply("MC3013", flagged("UF"), "no connection to an instance of %UPSTREAM_CLUSTER%: %LOCAL_REPLY_BODY%"),
		reply("MC3010", flagged("UC", "UR", "LR"), "the connection to an instance of %UPSTREAM_CLUSTER% ended before its answer: %LOCAL_REPLY_BODY%"),
		reply("MC3012", flagged("UO"), "a circuit breaker of this proxy for %UPSTREAM_CLUSTER% is full"),
		reply("MC3015", flagged("URX"), "every try to call %UPSTREAM_CLUSTER% has failed: %LOCAL_REPLY_BODY%"),
	)
}

// runtimeNamesPolicies has a denied caller told which policy denied it, or that none
// admits it. It is a value of the runtime layer, so that an edit drains nothing.
const runtimeNamesPolicies = "controlplane.denials.explained"

// repliesAtCallee are of calls that did not come to the application of a service, though
// they came to its proxy.
func repliesAtCallee(service string) *hcmv3.LocalReplyConfig {
	denied := answered(403, "controlplane.denials.status")
	named := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_RuntimeFilter{RuntimeFilter: &accesslogv3.RuntimeFilter{
		RuntimeKey: runtimeNamesPolicies, PercentSampled: &typev3.FractionalPercent{}, UseIndependentRandomness: true,
	}}}
	return localReplies(
		reply("MC3005", both(denied, named), "RBAC: access denied: "+service+" does not admit this call: %RESPONSE_CODE_DETAILS%"),
		reply("MC3005", denied, "RBAC: access denied: "+service+" does not admit this call"),
		// The filter that counts by itself says that it was the one after it has answered.
		reply(codeRateLimit, answered(429, "controlplane.limits.status"), "too many requests: the rate limit of "+service+" is used up"),
		reply(codeRateLimit, flagged("RL"), "too many requests: the rate limit of "+service+" is used up"),
		reply("MC3018", flagged("RLSE"), "the server that counts for the rate limit of "+service+" says nothing"),
		reply("MC3016", flagged("UF", "UC", "UR", "LR", "UH", "URX"), "the application of "+service+" does not take the call: %LOCAL_REPLY_BODY%"),
	)
}

// reply says why, on one line.
func reply(code string, filter *accesslogv3.AccessLogFilter, why string) *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{
		Filter:             filter,
		HeadersToAdd:       []*corev3.HeaderValueOption{errorHeader(code)},
		BodyFormatOverride: text(why + " (" + code + ")"),
	}
}

func errorHeader(code string) *corev3.HeaderValueOption {
	return headerOption(headerError, code, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
}

// answered matches replies of a status.
func answered(status uint32, runtimeKey string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
		Comparison: &accesslogv3.ComparisonFilter{
			Op: accesslogv3.ComparisonFilter_EQ, Value: &corev3.RuntimeUInt32{DefaultValue: status, RuntimeKey: runtimeKey},
		},
	}}}
}

// flagged matches replies with one of Envoy's response flags.
func flagged(flags ...string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: flags},
	}}
}

func both(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{Filters: filters}}}
}

func notImplemented(filter *accesslogv3.AccessLogFilter, why string) *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{Filter: filter, StatusCode: wrapperspb.UInt32(501), BodyFormatOverride: text(why)}
}

func text(format string) *corev3.SubstitutionFormatString {
	return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
		TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: format}},
	}}
}

// allOf matches requests whose headers all match.
func allOf(headers ...*routev3.HeaderMatcher) *accesslogv3.AccessLogFilter {
	filters := make([]*accesslogv3.AccessLogFilter, len(headers))
	for i, h := range headers {
		filters[i] = &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{Header: h}}}
	}
	if len(filters) == 1 {
		return filters[0]
	}
	return both(filters...)
}

func present(header string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: header, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
}

func absent(header string) *routev3.HeaderMatcher {
	m := present(header)
	m.InvertMatch = true
	return m
}
