package translate

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	skipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	filterchainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	envoymatcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// The HTTP filters of a listener stand there from the first day on and never
// change: a filter more would drain every connection. Routes say what they do. Those
// that no route uses yet are off and cost nothing; what comes later has a place that
// is filled without a listener.
//
// Whether a filter that is off comes on is settled by the first look for a route,
// which finds none for a host in capitals: so one that a caller must not be able to
// get around by those is on, with a configuration that does nothing.

// The names by which routes configure filters.
const (
	filterFault     = "envoy.filters.http.fault"
	filterCORS      = "envoy.filters.http.cors"
	filterRateLimit = "controlplane.ratelimit"
	// filterOutbound is a place that routes fill, each for its own requests.
	filterOutbound = "controlplane.outbound"
)

func outboundFilters(d *builder) []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		lowerHost(d),
		off(filterCORS, d.pack(&corsv3.Cors{})),
		// Series by what a caller says of itself would be as many as it likes.
		on(filterFault, d.pack(&faultv3.HTTPFault{DisableDownstreamClusterStats: true})),
		off(filterRateLimit, d.pack(&ratelimitv3.LocalRateLimit{StatPrefix: "mesh"})),
		on("envoy.filters.http.grpc_stats", d.pack(&grpcstatsv3.FilterConfig{
			EnableUpstreamStats:    true,
			PerMethodStatSpecifier: &grpcstatsv3.FilterConfig_StatsForAllMethods{StatsForAllMethods: boolean(false)},
		})),
		trailers(d),
		vacant(d, filterOutbound),
		router(d),
	}
}

func inboundFilters(d *builder) []*hcmv3.HttpFilter {
	return append(rbacFilters(d),
		off(filterRateLimit, d.pack(&ratelimitv3.LocalRateLimit{StatPrefix: "mesh"})),
		trailers(d),
		vacant(d, filterInbound),
		router(d),
	)
}

func on(name string, config *anypb.Any) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
}

func off(name string, config *anypb.Any) *hcmv3.HttpFilter {
	f := on(name, config)
	f.Disabled = true
	return f
}

// vacant is a place for filters, which an extension of the name fills: see
// filterInbound. The listener waits for none.
func vacant(d *builder, name string) *hcmv3.HttpFilter {
	nothing := d.pack(&filterchainv3.FilterChainConfig{})
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
		ConfigSource:                     adsUntilThere(),
		DefaultConfig:                    nothing,
		ApplyDefaultConfigWithoutWarming: true,
		TypeUrls:                         []string{nothing.GetTypeUrl()},
	}}}
}

// lowering is run for hosts with a capital alone, and has the route looked for
// again.
const lowering = `function envoy_on_request(request)
  local headers = request:headers()
  headers:replace(":authority", string.lower(headers:get(":authority")))
  request:clearRouteCache()
end
`

// lowerHost finds a service under a host in capitals: scopes are compared letter
// by letter, and hosts have no case (RFC 9110 section 4.2.3).
func lowerHost(d *builder) *hcmv3.HttpFilter {
	host := &xdscorev3.TypedExtensionConfig{Name: "host", TypedConfig: d.pack(&envoymatcherv3.HttpRequestHeaderMatchInput{HeaderName: ":authority"})}
	skip := &xdscorev3.TypedExtensionConfig{Name: "skip", TypedConfig: d.pack(&skipv3.SkipFilter{})}
	return on("controlplane.host", d.pack(&matchingv3.ExtensionWithMatcher{
		ExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.filters.http.lua", TypedConfig: d.pack(&luav3.Lua{
			DefaultSourceCode: inlineText(lowering),
		})},
		XdsMatcher: &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
			Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{
				Predicate: &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
					SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
						Input: host,
						Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: &xdsmatcherv3.StringMatcher{
							MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
								EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}},
								Regex:      "[^A-Z]*",
							}},
						}},
					},
				}},
				OnMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: skip}},
			}},
		}}},
	}))
}

func inlineText(text string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}}
}
