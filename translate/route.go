package translate

import (
	"reflect"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"datapunk.dev/controlplane/resource"
)

// routeInbound is the route configuration of every inbound listener.
const routeInbound = "inbound"

// outboundConfiguration is the route configuration of a service.
func outboundConfiguration(h *virtualHost, keys []string) (*resource.Resource, error) {
	var d builder
	host := &routev3.VirtualHost{
		Name:                       h.name,
		Domains:                    []string{"*"}, // who is here has the right host
		IncludeRequestAttemptCount: true,
	}
	for _, r := range withoutTwins(h.routes) {
		host.Routes = append(host.Routes, outboundRoute(&d, r))
	}
	shareRetries(host)
	add, remove := givenID()
	return d.finish(resource.Route, outboundRoutes(h.name), &routev3.RouteConfiguration{
		Name:                   outboundRoutes(h.name),
		VirtualHosts:           []*routev3.VirtualHost{host},
		RequestHeadersToAdd:    add,
		RequestHeadersToRemove: remove,
	}, keys, h.refs())
}

func outboundRoute(d *builder, r route) *routev3.Route {
	made := &routev3.Route{
		Name:    r.name,
		Match:   requestMatch(d, r.match),
		Tracing: r.begin.tracing(),
	}
	if r.begin.on {
		made.Decorator = decorator(r.span)
	}
	if says := r.says; says != nil {
		made.RequestHeadersToAdd, made.RequestHeadersToRemove = headerOptions(says.Headers.Request), says.Headers.Request.Remove
		made.ResponseHeadersToAdd, made.ResponseHeadersToRemove = headerOptions(says.Headers.Response), says.Headers.Response.Remove
		made.TypedPerFilterConfig = filtersOf(d, says, r)
		switch {
		case says.Redirect != nil:
			made.Action = redirect(r.match.path, says.Redirect)
			return made
		case says.Response != nil:
			made.Action = directResponse(says.Response)
			return made
		}
	}
	made.RequestHeadersToAdd = append(made.RequestHeadersToAdd, retryAnswers(r.retry)...)
	action := &routev3.RouteAction{
		RetryPolicy: retryPolicy(d, r.retry),
		HashPolicy:  hashedBy(d, r),
	}
	if r.timeout != envoyTimeout {
		action.Timeout = duration(r.timeout)
	}
	if r.streamIdle != streamIdle {
		// Wins over the listener's, which does not know the callee.
		action.IdleTimeout = duration(r.streamIdle)
	}
	lead(action, r.to, r.sticky())
	if r.hedged {
		action.HedgePolicy = &routev3.HedgePolicy{HedgeOnPerTryTimeout: true}
	}
	action.MaxStreamDuration = maxStream(r)
	if r.says != nil {
		rewritePath(d, action, r.match.path, r.says.Rewrite)
	}
	if r.mirror != "" {
		action.RequestMirrorPolicies = mirrorTo(r.mirror, r.says.Mirror.Percent)
	}
	made.Action = &routev3.Route_Route{Route: action}
	if r.retry != nil && r.keeps > 0 {
		// Where a call comes by HTTP/2, Envoy would keep a stream's window.
		made.RequestBodyBufferLimit = wrapperspb.UInt64(r.keeps)
	}
	return made
}

// maxStream bounds the age of a stream; nil for no bound. A caller of gRPC says how
// long its call may take, at most as long as the file says.
//
// Where it is there at all, Envoy takes no notice of the route's timeout
// (RouteEntry::usingNewTimeouts), so that of a call of gRPC is said here.
func maxStream(r route) *routev3.RouteAction_MaxStreamDuration {
	if r.maxStream == 0 && !r.callerDeadline {
		return nil
	}
	if r.callerDeadline && r.timeout > 0 && (r.maxStream == 0 || r.timeout < r.maxStream) {
		r.maxStream = r.timeout
	}
	bound := &routev3.RouteAction_MaxStreamDuration{}
	if r.maxStream > 0 {
		bound.MaxStreamDuration = duration(r.maxStream)
	}
	if r.callerDeadline {
		bound.GrpcTimeoutHeaderMax = duration(r.maxStream)
	}
	return bound
}

// pathTemplate matches paths by their segments.
func pathTemplate(d *builder, template string) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{
		Name: "envoy.path.match.uri_template.uri_template_matcher", TypedConfig: d.pack(&uritemplatev3.UriTemplateMatchConfig{PathTemplate: template}),
	}
}

// lead sets where a route leads to, whoever comes again to where they were if it is
// sticky.
func lead(action *routev3.RouteAction, to []weightedDestination, sticky bool) {
	if len(to) == 1 && reflect.ValueOf(to[0].headers).IsZero() {
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: to[0].destination}
		return
	}
	split := &routev3.WeightedCluster{}
	if sticky {
		split.RandomValueSpecifier = &routev3.WeightedCluster_UseHashPolicy{UseHashPolicy: boolean(true)}
	}
	for _, t := range to {
		split.Clusters = append(split.Clusters, &routev3.WeightedCluster_ClusterWeight{
			Name: t.destination, Weight: u32(t.weight),
			RequestHeadersToAdd: headerOptions(t.headers.Request), RequestHeadersToRemove: t.headers.Request.Remove,
			ResponseHeadersToAdd: headerOptions(t.headers.Response), ResponseHeadersToRemove: t.headers.Response.Remove,
		})
	}
	action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: split}
}

// decorator names spans after the service, instead of after whatever the
// caller wrote into its Host header.
func decorator(operation string) *routev3.Decorator {
	return &routev3.Decorator{Operation: operation, Propagate: boolean(false)}
}

// keptToApplication is the largest body that is sent to an application again.
const keptToApplication = 1 << 20

// localRoutes lead from the inbound listener to the application. They have no
// timeout: the caller's sidecar has one, and knows the operator's wishes.
func localRoutes(d *builder, begin sampling, r rules) []*routev3.Route {
	grpc := localRoute("grpc", resource.ClusterLocalAppGRPC, begin, retryToApplication("refused-stream"))
	grpc.Match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	safe := localRoute("http-safe", resource.ClusterLocalApp, begin, retryToApplication("reset", bodyShorterThan(keptToApplication+1), absent(contentLength)))
	safe.Match.Headers = []*routev3.HeaderMatcher{headerMatch(":method", regex("GET|HEAD|OPTIONS|TRACE"))}
	rest := localRoute("http", resource.ClusterLocalApp, begin, retryToApplication("refused-stream,reset-before-request", bodyShorterThan(keptToApplication+1)))
	routes := []*routev3.Route{grpc, safe, rest}
	if check := r.notCounted; check.path != "" {
		route := localRoute("health-check", resource.ClusterLocalApp, begin, nil)
		if check.method == "POST" {
			route = localRoute("health-check", resource.ClusterLocalAppGRPC, begin, nil)
			route.Match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
		}
		route.Match.PathSpecifier = &routev3.RouteMatch_Path{Path: check.path}
		route.Match.Headers = []*routev3.HeaderMatcher{headerMatch(":method", exact(check.method))}
		route.TypedPerFilterConfig = map[string]*anypb.Any{filterInbound: d.pack(&routev3.FilterConfig{Disabled: true})}
		routes = slices.Insert(routes, 0, route)
	}
	if !r.slashes {
		routes = slices.Insert(routes, 0, noEncodedSlash(begin))
	}
	return routes
}

// noEncodedSlash refuses what a policy by path cannot see through. The listener
// could do it, and would drain when a service comes to want such paths.
func noEncodedSlash(begin sampling) *routev3.Route {
	return &routev3.Route{
		Name:    "encoded-slash",
		Tracing: begin.tracing(),
		Match: &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "(?i).*%(2f|5c).*"}},
			// Few paths have a percent sign, and looking for one is cheap.
			Headers: []*routev3.HeaderMatcher{headerMatch(":path", &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: "%"}})},
		},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{errorHeader("MC3011")},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 400,
			Body:   inlineText("the path has an encoded slash or backslash, which this service does not take (MC3011)\n"),
		}},
	}
}

func localRoute(name, cluster string, begin sampling, retries *routev3.RetryPolicy) *routev3.Route {
	return &routev3.Route{
		Name:                   name,
		Tracing:                begin.tracing(),
		Match:                  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		RequestBodyBufferLimit: wrapperspb.UInt64(keptToApplication),
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			Timeout:          &durationpb.Duration{},
			RetryPolicy:      retries,
		}},
	}
}
