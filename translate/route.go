package translate

import (
	"errors"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// The names of route configurations, the same in every view.
const (
	routeOutbound = "outbound"
	routeInbound  = "inbound"
)

// outboundHost is the virtual host of a service in the outbound route
// configuration, encoded. It is nil for a service that does not speak HTTP.
func outboundHost(s *policy.Service) ([]byte, error) {
	if s.Protocol == policy.TCP {
		return nil, nil
	}
	var d draft
	host := &routev3.VirtualHost{
		Name:                       s.Name,
		Domains:                    []string{s.Name, s.Name + resource.HostSuffix},
		Routes:                     outboundRoutes(&d, s),
		IncludeRequestAttemptCount: true,
	}
	if err := host.ValidateAll(); err != nil {
		d.errs = append(d.errs, err)
	}
	if err := errors.Join(d.errs...); err != nil {
		return nil, err
	}
	return encode(host)
}

// outboundRoutes are gRPC's first, then those of ordinary requests. Where the
// file names the methods that may be tried again, each kind has a route with
// retries for these and one without for the rest.
func outboundRoutes(d *draft, s *policy.Service) []*routev3.Route {
	grpc := outboundRoute{service: s, grpc: true, retry: grpcRetry(d, s.Retry)}
	rest := outboundRoute{service: s, timeout: routeTimeout(s.Timeout, s.Retry)}
	rest.retry = httpRetry(d, s.Retry, rest.timeout)
	hashed := hashPolicy(d, s.LoadBalancing)

	var routes []*routev3.Route
	for _, r := range []outboundRoute{grpc, rest} {
		r.hashed = hashed
		if len(s.Retry.Methods) > 0 && r.retry != nil {
			limited := r
			limited.methods = s.Retry.Methods
			routes = append(routes, limited.build(d))
			r.retry, r.suffix = nil, "-once"
		}
		routes = append(routes, r.build(d))
	}
	return routes
}

// outboundRoute is one route to a service.
type outboundRoute struct {
	service *policy.Service
	grpc    bool
	methods []string // empty: every method
	suffix  string   // of the route's name
	retry   *routev3.RetryPolicy
	timeout time.Duration // 0: none
	hashed  []*routev3.RouteAction_HashPolicy
}

func (r outboundRoute) build(d *draft) *routev3.Route {
	name := r.service.Name
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name},
		Timeout:          duration(r.timeout),
		// Wins over the listener's, which does not know the callee.
		IdleTimeout: duration(r.service.Timeout.StreamIdle),
		RetryPolicy: r.retry,
		HashPolicy:  r.hashed,
	}
	match := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	routeName := name + r.suffix
	if r.grpc {
		routeName = name + "-grpc" + r.suffix
		match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
		// The caller's own deadline holds, however long it is.
		action.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{GrpcTimeoutHeaderMax: &durationpb.Duration{}}
	}
	if len(r.methods) > 0 {
		match.Headers = []*routev3.HeaderMatcher{onlyMethods(d, r.methods)}
	}
	return &routev3.Route{
		Name:      routeName,
		Match:     match,
		Decorator: decorator(name),
		Action:    &routev3.Route_Route{Route: action},
	}
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
	fieldIgnorePort   protowire.Number = 14 // ignore_port_in_host_matching
)

// outboundConfiguration joins virtual hosts that are encoded already: an edit
// of one service among thousands encodes that service alone. It is what
// encoding the whole message would give, since fields are encoded in the order
// of their numbers.
func outboundConfiguration(hosts [][]byte, keys []string, refs []resource.Ref) *resource.Resource {
	head := protowire.AppendTag(nil, fieldName, protowire.BytesType)
	head = protowire.AppendString(head, routeOutbound)
	tail := protowire.AppendTag(nil, fieldIgnorePort, protowire.VarintType)
	tail = protowire.AppendVarint(tail, 1)
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

// localRoutes lead from the inbound listener to the application. They have no
// timeout: the caller's sidecar has one, and knows the operator's wishes.
func localRoutes() []*routev3.Route {
	return []*routev3.Route{
		localRoute("grpc", resource.ClusterLocalAppGRPC, &routev3.RouteMatch_GrpcRouteMatchOptions{}),
		localRoute("http", resource.ClusterLocalApp, nil),
	}
}

func localRoute(name, cluster string, grpc *routev3.RouteMatch_GrpcRouteMatchOptions) *routev3.Route {
	return &routev3.Route{
		Name:  name,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}, Grpc: grpc},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			Timeout:          &durationpb.Duration{},
		}},
	}
}
