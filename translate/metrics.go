package translate

import (
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// scrapeTimeout bounds one scrape of a proxy.
const scrapeTimeout = 10 * time.Second

// statsPath is what the admin socket is asked.
const statsPath = "/stats/prometheus?usedonly"

// metricsListener gives Prometheus the proxy's statistics and nothing else of
// its admin interface. It keeps answering while the proxy is overloaded, which
// is when somebody looks.
func metricsListener(c *compiler) listenerTemplate {
	var d builder
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: listenerMetrics,
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: listenerMetrics,
			VirtualHosts: []*routev3.VirtualHost{{
				Name:    "all",
				Domains: []string{"*"},
				Routes: []*routev3.Route{
					{
						Name: "scrape",
						Match: &routev3.RouteMatch{
							PathSpecifier: &routev3.RouteMatch_Path{Path: c.metrics.path},
							Headers: []*routev3.HeaderMatcher{
								headerMatch(":method", exact("GET")),
								// Here :path has the query too. A rewrite would keep the
								// scraper's own, which the admin understands: filter= is any
								// regular expression over every name.
								headerMatch(":path", exact(c.metrics.path)),
							},
						},
						Action: &routev3.Route_Route{Route: &routev3.RouteAction{
							ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: resource.ClusterMeshAdmin},
							PathRewrite:      statsPath,
							Timeout:          duration(scrapeTimeout),
						}},
					},
					{
						Name:   "rest",
						Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
						Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 404}},
					},
				},
			}},
		}},
		HttpFilters:                  []*hcmv3.HttpFilter{router(&d)},
		NormalizePath:                boolean(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
		InternalAddressConfig:        nobodyInside(),
	}
	if len(c.metrics.path) == 0 || c.metrics.path[0] != '/' {
		d.failf("telemetry.metrics.path: %q does not begin with /", c.metrics.path)
	}
	return d.template(&listenerv3.Listener{
		Name:                  listenerMetrics,
		FilterChains:          []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{httpFilter(&d, manager)}}},
		EnableReusePort:       boolean(false),
		BypassOverloadManager: true,
		IgnoreGlobalConnLimit: true,
	}, []string{policy.KeyMetrics}, nil)
}
