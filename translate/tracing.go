package translate

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

const (
	zipkin = "zipkin"

	otlpPort   = 4317 // of OTLP over gRPC
	zipkinPort = 9411

	// spanTimeout bounds what one export of spans may take.
	spanTimeout = 250 * time.Millisecond

	tracingConnectTimeout = time.Second
	tracingIdleTimeout    = 5 * time.Minute

	// maxPathTag is how much of a path goes into a span, in bytes.
	maxPathTag = 256
)

// spans is how a listener makes spans; nil if tracing is off.
func spans(d *builder, c *compiler, service string) *hcmv3.HttpConnectionManager_Tracing {
	t := c.tracing
	if !c.traced {
		return nil
	}
	spans := &hcmv3.HttpConnectionManager_Tracing{
		ClientSampling:   &typev3.Percent{Value: 100},
		RandomSampling:   &typev3.Percent{}, // the routes say it: see sampling
		OverallSampling:  &typev3.Percent{Value: 100},
		MaxPathTagLength: u32(maxPathTag),
	}
	if t.Provider == zipkin {
		spans.Provider = zipkinTracer(d)
	} else {
		spans.Provider = openTelemetryTracer(d, service)
	}
	for _, tag := range t.Tags {
		switch {
		case tag.Variable != "":
			spans.CustomTags = append(spans.CustomTags, &tracingv3.CustomTag{Tag: tag.Key, Type: &tracingv3.CustomTag_Environment_{
				Environment: &tracingv3.CustomTag_Environment{Name: tag.Variable, DefaultValue: tag.Value},
			}})
		case tag.Value == "":
			// Envoy refuses an empty literal, and the listener with it.
			d.failf("telemetry.tracing.tags: tag %s has an empty value", tag.Key)
		default:
			spans.CustomTags = append(spans.CustomTags, &tracingv3.CustomTag{Tag: tag.Key, Type: &tracingv3.CustomTag_Literal_{
				Literal: &tracingv3.CustomTag_Literal{Value: tag.Value},
			}})
		}
	}
	return spans
}

// zipkinTracer reads B3 in all its forms, and traceparent where there is none of
// them; it writes both. Either brings the decision of whoever began the trace.
func zipkinTracer(d *builder) *tracev3.Tracing_Http {
	return &tracev3.Tracing_Http{
		Name: "envoy.tracers.zipkin",
		ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: d.pack(&tracev3.ZipkinConfig{
			CollectorCluster:         resource.ClusterTracing,
			CollectorEndpoint:        "/api/v2/spans",
			CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON,
			TraceId_128Bit:           true,
			TraceContextOption:       tracev3.ZipkinConfig_USE_B3_WITH_W3C_PROPAGATION,
		})},
	}
}

// openTelemetryTracer samples a span whose parent was sampled, if Envoy's own
// decision is not against it: see decideByParent.
func openTelemetryTracer(d *builder, service string) *tracev3.Tracing_Http {
	return &tracev3.Tracing_Http{
		Name: "envoy.tracers.opentelemetry",
		ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: d.pack(&tracev3.OpenTelemetryConfig{
			GrpcService: &corev3.GrpcService{
				TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: resource.ClusterTracing}},
				Timeout:         duration(spanTimeout),
			},
			ServiceName: service,
		})},
	}
}

// collector is the cluster of the spans' collector and, if the catalog has
// it, its assignment. It is the same in every view.
type collector struct {
	cluster, endpoints *resource.Resource
}

// collects reports whether the catalog's service is the collector, which is
// dialed in plaintext and needs no sidecar.
func (g *globals) collects(s *watch.Service) bool {
	return s != nil && g.tracing.Enabled && g.tracing.Service == s.Name
}

// member is what a scope takes of the collector, which may be nil.
func (c *collector) member() (m member) {
	if c != nil {
		m.add(c.cluster)
		m.add(c.endpoints)
	}
	return m
}

// reusing returns before, or what c shares with it in its place.
func (c *collector) reusing(before *collector) *collector {
	if c == nil || before == nil {
		return c
	}
	if c.cluster.Same(before.cluster) {
		c.cluster = before.cluster
	}
	if c.endpoints != nil && before.endpoints != nil && c.endpoints.Same(before.endpoints) {
		c.endpoints = before.endpoints
	}
	if *c == *before {
		return before
	}
	return c
}

// collectorOf makes the collector from where the file says that it is, else
// from the catalog's service, else from that service's name as a host name. A
// collector that is away, or whose name does not resolve, must not hold back
// the start of an Envoy.
func collectorOf(c *compiler, s *watch.Service) (*collector, error) {
	if !c.tracing.Enabled {
		return nil, nil
	}
	port, mode := uint16(otlpPort), http2
	if c.tracing.Provider == zipkin {
		port, mode = zipkinPort, http1
	}
	var d builder
	cluster := &clusterv3.Cluster{
		Name:                          resource.ClusterTracing,
		ConnectTimeout:                duration(tracingConnectTimeout),
		PerConnectionBufferLimitBytes: u32(connectionBuffer),
		LoadBalancingPolicy:           loadBalancing(&d, c, lbKey{policy: "least_request"}),
		CircuitBreakers:               noCircuitBreakers(),
		WaitForWarmOnInit:             boolean(false),
		TypedExtensionProtocolOptions: httpOptions(&d, c, mode, responseAtCaller, tracingIdleTimeout),
	}
	made := &collector{}
	var refs []resource.Ref
	switch {
	case c.tracing.Endpoint == "" && !s.Empty():
		assignment, names := collectorAssignment(s, port)
		if names {
			resolve(&d, cluster, assignment)
			break
		}
		cluster.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		cluster.EdsClusterConfig = eds()
		refs = []resource.Ref{resource.Endpoint.Ref(resource.ClusterTracing)}
		var ofEndpoints builder
		var err error
		if made.endpoints, err = ofEndpoints.finish(resource.Endpoint, resource.ClusterTracing, assignment, nil, nil); err != nil {
			return nil, err
		}
	default:
		host := c.tracing.Service
		if c.tracing.Endpoint != "" {
			var err error
			if host, port, err = splitEndpoint(c.tracing.Endpoint, port); err != nil {
				return nil, err
			}
		}
		kind := clusterv3.Cluster_STRICT_DNS
		if _, err := netip.ParseAddr(host); err == nil {
			kind = clusterv3.Cluster_STATIC
		}
		cluster.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: kind}
		cluster.LoadAssignment = fixedAssignment(resource.ClusterTracing, host, port)
	}
	var err error
	if made.cluster, err = d.finish(resource.Cluster, resource.ClusterTracing, cluster, []string{policy.KeyTracing}, refs); err != nil {
		return nil, err
	}
	return made, nil
}

// collectorAssignment dials the collector in plaintext; at the port that its
// meta names, if it takes OTLP. It reports whether an instance is a name.
func collectorAssignment(s *watch.Service, port uint16) (assignment *endpointv3.ClusterLoadAssignment, names bool) {
	var group []*endpointv3.LbEndpoint
	for _, i := range s.Instances {
		host := i.Host
		switch {
		case i.Health > watch.Warning, i.Weight == 0, host == "" && !i.Address.IsValid():
			continue
		case host == "":
			host = i.Address.Unmap().String()
		default:
			names = true
		}
		at := port
		if p, err := strconv.ParseUint(i.Meta["otlp_port"], 10, 16); err == nil && p > 0 && port == otlpPort {
			at = uint16(p)
		}
		group = append(group, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: socketAddress(host, at)},
		}})
	}
	assignment = &endpointv3.ClusterLoadAssignment{ClusterName: resource.ClusterTracing}
	if len(group) > 0 {
		assignment.Endpoints = []*endpointv3.LocalityLbEndpoints{{LbEndpoints: group}}
	}
	return assignment, names
}

// splitEndpoint reads HOST:PORT, or HOST with the protocol's usual port.
func splitEndpoint(endpoint string, usual uint16) (string, uint16, error) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return endpoint, usual, nil //nolint:nilerr // no port in it
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" {
		return "", 0, fmt.Errorf("telemetry.tracing.endpoint: %q is not HOST:PORT", endpoint)
	}
	return host, uint16(n), nil
}
