package translate

import (
	"errors"
	"fmt"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"datapunk.dev/controlplane/resource"
)

// The names of route configurations, the same in every view.
const (
	routeOutbound = "outbound"
	routeInbound  = "inbound"
)

// encodeHost is a virtual host of the outbound route configuration, encoded; nil
// for none.
func encodeHost(h *virtualHost) ([]byte, error) {
	if h == nil {
		return nil, nil
	}
	var d builder
	host := &routev3.VirtualHost{
		Name:                       h.name,
		Domains:                    h.domains,
		IncludeRequestAttemptCount: true,
	}
	for _, r := range h.routes {
		host.Routes = append(host.Routes, outboundRoute(&d, r))
	}
	if err := host.ValidateAll(); err != nil {
		d.errs = append(d.errs, err)
	}
	if err := errors.Join(d.errs...); err != nil {
		return nil, err
	}
	return encode(host)
}

func outboundRoute(d *builder, r route) *routev3.Route {
	action := &routev3.RouteAction{
		Timeout: duration(r.timeout),
		// Wins over the listener's, which does not know the callee.
		IdleTimeout: duration(r.streamIdle),
		RetryPolicy: retryPolicy(d, r.retry),
		HashPolicy:  hashPolicy(d, r.hash),
	}
	lead(action, r.to)
	out := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: r.match.prefix}}
	if r.match.grpc {
		out.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	}
	if r.callerDeadline {
		action.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{GrpcTimeoutHeaderMax: &durationpb.Duration{}}
	}
	if len(r.match.methods) > 0 {
		out.Headers = []*routev3.HeaderMatcher{onlyMethods(d, r.match.methods)}
	}
	if r.match.unsized {
		out.Headers = append(out.Headers, unsized(d)...)
	}
	made := &routev3.Route{
		Name:      r.name,
		Match:     out,
		Decorator: decorator(r.span),
		Tracing:   r.begin.tracing(),
		Action:    &routev3.Route_Route{Route: action},
	}
	if r.retry != nil && r.keeps > 0 {
		// Where a call comes by HTTP/2, Envoy would keep a stream's window.
		made.RequestBodyBufferLimit = wrapperspb.UInt64(r.keeps)
	}
	return made
}

// lead sets where a route leads to.
func lead(action *routev3.RouteAction, to []weightedDestination) {
	if len(to) == 1 {
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: to[0].destination}
		return
	}
	split := &routev3.WeightedCluster{}
	for _, t := range to {
		split.Clusters = append(split.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: t.destination, Weight: u32(t.weight)})
	}
	action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: split}
}

// decorator names spans after the service, instead of after whatever the
// caller wrote into its Host header.
func decorator(operation string) *routev3.Decorator {
	return &routev3.Decorator{Operation: operation, Propagate: boolean(false)}
}

// Fields of envoy.config.route.v3.RouteConfiguration.
const (
	fieldName         protowire.Number = 1
	fieldVirtualHosts protowire.Number = 2
)

// outboundConfiguration joins virtual hosts that are encoded already: an edit
// of one service among thousands encodes that service alone. It is what
// encoding the whole message would give, since fields are encoded in the order
// of their numbers.
func outboundConfiguration(hosts [][]byte, keys []string, refs []resource.Ref) *resource.Resource {
	head := protowire.AppendTag(nil, fieldName, protowire.BytesType)
	head = protowire.AppendString(head, routeOutbound)
	tail := afterHosts()
	size := len(head) + len(tail)
	for _, h := range hosts {
		size += protowire.SizeTag(fieldVirtualHosts) + protowire.SizeBytes(len(h))
	}
	body := make([]byte, 0, size)
	body = append(body, head...)
	for _, h := range hosts {
		body = protowire.AppendTag(body, fieldVirtualHosts, protowire.BytesType)
		body = protowire.AppendBytes(body, h)
	}
	body = append(body, tail...)
	return resource.New(resource.Route, routeOutbound, body, keys, refs)
}

// afterHosts is what follows the virtual hosts in the encoded configuration.
func afterHosts() []byte {
	add, remove := givenID()
	tail, err := encode(&routev3.RouteConfiguration{
		RequestHeadersToAdd: add, RequestHeadersToRemove: remove, IgnorePortInHostMatching: true,
	})
	if err != nil {
		panic(fmt.Sprintf("a constant cannot be encoded: %v", err))
	}
	return tail
}

// keptToApplication is the largest body that is sent to an application again.
const keptToApplication = 1 << 20

// localRoutes lead from the inbound listener to the application. They have no
// timeout: the caller's sidecar has one, and knows the operator's wishes.
func localRoutes(begin sampling, slashes bool) []*routev3.Route {
	grpc := localRoute("grpc", resource.ClusterLocalAppGRPC, begin, retryToApplication("refused-stream"))
	grpc.Match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	safe := localRoute("http-safe", resource.ClusterLocalApp, begin, retryToApplication("reset", bodyShorterThan(keptToApplication+1), absent(contentLength)))
	safe.Match.Headers = []*routev3.HeaderMatcher{headerMatch(":method", regex("GET|HEAD|OPTIONS|TRACE"))}
	rest := localRoute("http", resource.ClusterLocalApp, begin, retryToApplication("refused-stream,reset-before-request", bodyShorterThan(keptToApplication+1)))
	routes := []*routev3.Route{grpc, safe, rest}
	if !slashes {
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
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 400,
			Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
				InlineString: "the path has an encoded slash or backslash, which this service does not take\n",
			}},
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
