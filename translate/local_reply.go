package translate

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
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

// localReplies are the refusals that a person would not understand as Envoy
// words them: an upgrade is 403 without a word, which looks like a denial,
// CONNECT is 404, a request without a host 400, and a service without an instance
// reads like a fault of the network. They are the same in every mesh, since a
// listener that changes drains.
func localReplies() *hcmv3.LocalReplyConfig {
	other := headerMatch("upgrade", exact(webSocket))
	other.GetStringMatch().IgnoreCase = true
	other.InvertMatch = true
	connect := headerMatch(":method", exact("CONNECT"))
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{
		notImplemented(allOf(present("upgrade"), other), "This proxy passes on no upgrade to %REQ(UPGRADE):64%, only to websocket.\n"),
		notImplemented(allOf(connect), "This proxy takes no CONNECT: it is none for other hosts. Send it the request itself, with the service in its Host header.\n"),
		{
			Filter:             allOf(present(":method"), absent(":authority")),
			BodyFormatOverride: text("The request has no Host header, which says what service it is for.\n"),
		},
		{
			Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
				ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"UH"}},
			}},
			BodyFormatOverride: text(nobodyToCall),
		},
	}}
}

// nobodyToCall is what a caller reads with a 503 for which no instance was even
// tried.
const nobodyToCall = "no healthy upstream: %UPSTREAM_CLUSTER% has no instance that may be called; " +
	"none is registered, or all are in maintenance, of weight 0, or unhealthy"

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
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{Filters: filters}}}
}

func present(header string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: header, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
}

func absent(header string) *routev3.HeaderMatcher {
	m := present(header)
	m.InvertMatch = true
	return m
}
