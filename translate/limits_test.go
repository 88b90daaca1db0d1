package translate

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// What an Envoy has where nothing is said, as of 1.40.
const (
	envoyFieldKB         = 64
	envoyPrematureResets = 500
	envoyResetBurst      = 1000
)

// A caller's sidecar adds these at most to a request, and a callee's to an answer.
const (
	addedHeaders = 24
	addedKB      = 8
)

// TestNoHopIsNarrowerThanTheOneBefore reads what two sidecars are served, the
// caller's and the callee's, and compares every limit that a call meets twice. A
// limit that the second hop reaches first makes the callee fail for what is the
// caller's affair.
func TestNoHopIsNarrowerThanTheOneBefore(t *testing.T) {
	for _, mtls := range []string{"{}", "{mode: permissive}", "{enabled: false}"} {
		for _, protocol := range []string{"http", "http2", "grpc"} {
			t.Run(fmt.Sprintf("mtls %s, %s", mtls, protocol), func(t *testing.T) {
				way := wayOf(t, mtls, protocol)
				holdsHTTP(t, way)
			})
		}
		t.Run(fmt.Sprintf("mtls %s, tcp", mtls), func(t *testing.T) { holdsTCP(t, wayOf(t, mtls, "tcp")) })
	}
}

func holdsHTTP(t *testing.T, way *way) {
	t.Helper()
	outbound, inbound := managerOf(t, way.caller, listenerOutbound), managerOf(t, way.callee, listenerInbound)
	cluster := clusterOf(t, way.caller, "web")
	toCallee := options(t, cluster)

	// A request: what the outbound listener takes, the inbound takes.
	first, second := outbound.CommonHttpProtocolOptions, inbound.CommonHttpProtocolOptions
	wider(t, "the number of a request's headers", first.MaxHeadersCount.GetValue()+addedHeaders, second.MaxHeadersCount.GetValue())
	wider(t, "the size of a request's headers", outbound.MaxRequestHeadersKb.GetValue()+addedKB, inbound.MaxRequestHeadersKb.GetValue())
	wider(t, "one header of a request", outbound.MaxRequestHeadersKb.GetValue(), field(inbound.Http2ProtocolOptions))

	for _, local := range []string{resource.ClusterLocalApp, resource.ClusterLocalAppGRPC} {
		toApp := clusterOf(t, way.callee, local)
		app := options(t, toApp)

		// An answer: what the callee's sidecar takes of the application, the caller's
		// takes of it.
		wider(t, "the number of an answer's headers", app.CommonHttpProtocolOptions.MaxHeadersCount.GetValue()+addedHeaders, toCallee.CommonHttpProtocolOptions.MaxHeadersCount.GetValue())
		wider(t, "the size of an answer's headers", app.CommonHttpProtocolOptions.MaxResponseHeadersKb.GetValue()+addedKB, toCallee.CommonHttpProtocolOptions.MaxResponseHeadersKb.GetValue())
		for _, h2 := range http2Of(toCallee) {
			wider(t, "one header of an answer", app.CommonHttpProtocolOptions.MaxResponseHeadersKb.GetValue(), field(h2))
		}

		wider(t, "the time to connect", cluster.ConnectTimeout.AsDuration(), toApp.ConnectTimeout.AsDuration())
		limits := toApp.CircuitBreakers.Thresholds[0]
		of := cluster.CircuitBreakers.Thresholds[0]
		wider(t, "connections", of.MaxConnections.GetValue(), limits.MaxConnections.GetValue())
		wider(t, "waiting requests", of.MaxPendingRequests.GetValue(), limits.MaxPendingRequests.GetValue())
		wider(t, "requests", of.MaxRequests.GetValue(), limits.MaxRequests.GetValue())
		wider(t, "retries", of.MaxRetries.GetValue(), limits.MaxRetries.GetValue())
		wider(t, "the buffer of a connection", cluster.PerConnectionBufferLimitBytes.GetValue(), toApp.PerConnectionBufferLimitBytes.GetValue())
		holdsStreams(t, http2Of(app)...)
	}

	// The connection that calls share.
	for _, h2 := range http2Of(toCallee) {
		wider(t, "streams of a connection", h2.MaxConcurrentStreams.GetValue(), inbound.Http2ProtocolOptions.MaxConcurrentStreams.GetValue())
		holdsStreams(t, h2)
	}
	holdsStreams(t, outbound.Http2ProtocolOptions, inbound.Http2ProtocolOptions)
	wider(t, "an idle connection", strictly(toCallee.CommonHttpProtocolOptions.IdleTimeout), second.IdleTimeout.AsDuration())
	wider(t, "the age of a connection", strictly(toCallee.CommonHttpProtocolOptions.MaxConnectionDuration), second.MaxConnectionDuration.AsDuration())
	if second.MaxRequestsPerConnection != nil || second.MaxStreamDuration != nil || inbound.RequestTimeout.AsDuration() != 0 {
		t.Error("the inbound listener ends streams or connections by a count or a time of its own")
	}
	if burst := inbound.Http2ProtocolOptions.StreamResetBurst.GetValue(); burst <= envoyResetBurst {
		t.Errorf("after %d resets a connection that all callers of a machine share is cut", burst)
	}
	var runtime runtimev3.Runtime
	decode(t, way.callee.Sets[resource.Runtime].Get(resource.RuntimeMesh), &runtime)
	if resets := runtime.Layer.Fields[runtimePrematureResets].GetNumberValue(); resets <= envoyPrematureResets {
		t.Errorf("after %v early resets a connection that all callers of a machine share is cut", resets/2)
	}
	wider(t, "the buffer of a connection", listenerOf(t, way.caller, listenerOutbound).PerConnectionBufferLimitBytes.GetValue(), listenerOf(t, way.callee, listenerInbound).PerConnectionBufferLimitBytes.GetValue())

	// Times: the caller's route has them, the callee's none.
	if inbound.StreamIdleTimeout == nil || inbound.StreamIdleTimeout.AsDuration() != 0 {
		t.Errorf("the inbound listener cuts a stream that is silent for %v", inbound.StreamIdleTimeout)
	}
	var routes routev3.RouteConfiguration
	decode(t, way.callee.Sets[resource.Route].Get(routeInbound), &routes)
	for _, r := range routes.VirtualHosts[0].Routes {
		if r.GetDirectResponse() != nil {
			continue // the sidecar's own answer
		}
		if timeout := r.GetRoute().Timeout; timeout == nil || timeout.AsDuration() != 0 || r.GetRoute().IdleTimeout != nil || r.GetRoute().MaxStreamDuration != nil {
			t.Errorf("the inbound route %s has times of its own: %v", r.Name, r.GetRoute())
		}
	}
}

func holdsTCP(t *testing.T, way *way) {
	t.Helper()
	outbound, inbound := proxyOf(t, way.caller, listenerOutboundTCP+"web"), proxyOf(t, way.callee, listenerInbound)
	wider(t, "an idle connection", strictly(outbound.IdleTimeout), inbound.IdleTimeout.AsDuration())
	to, local := clusterOf(t, way.caller, "web"), clusterOf(t, way.callee, resource.ClusterLocalApp)
	wider(t, "the time to connect", to.ConnectTimeout.AsDuration(), local.ConnectTimeout.AsDuration())
	wider(t, "connections", to.CircuitBreakers.Thresholds[0].MaxConnections.GetValue(), local.CircuitBreakers.Thresholds[0].MaxConnections.GetValue())
}

// holdsStreams is of each end of a connection: what waits for a reader who does not
// read takes no room from others.
func holdsStreams(t *testing.T, ends ...*corev3.Http2ProtocolOptions) {
	t.Helper()
	for _, o := range ends {
		wider(t, "the window of a connection", uint64(o.MaxConcurrentStreams.GetValue())*uint64(o.InitialStreamWindowSize.GetValue()), uint64(o.InitialConnectionWindowSize.GetValue()))
		if !o.OverrideStreamErrorOnInvalidHttpMessage.GetValue() {
			t.Error("a message that is invalid costs the whole connection")
		}
	}
}

func wider[N uint32 | uint64 | time.Duration](t *testing.T, what string, first, second N) {
	t.Helper()
	if second < first || second == 0 {
		t.Errorf("%s: the second hop has %v, where what comes to it may have %v", what, second, first)
	}
}

// strictly is a time that the second hop has to be longer than, not as long.
func strictly(d *durationpb.Duration) time.Duration { return d.AsDuration() + time.Second }

func field(o *corev3.Http2ProtocolOptions) uint32 {
	if o.MaxHeaderFieldSizeKb == nil {
		return envoyFieldKB
	}
	return o.MaxHeaderFieldSizeKb.Value
}

func options(t *testing.T, c *clusterv3.Cluster) *httpv3.HttpProtocolOptions {
	t.Helper()
	var o httpv3.HttpProtocolOptions
	if err := c.TypedExtensionProtocolOptions[httpProtocolOptions].UnmarshalTo(&o); err != nil {
		t.Fatal(err)
	}
	return &o
}

// http2Of are the options of HTTP/2 of a cluster that may speak it.
func http2Of(o *httpv3.HttpProtocolOptions) []*corev3.Http2ProtocolOptions {
	for _, h2 := range []*corev3.Http2ProtocolOptions{
		o.GetExplicitHttpConfig().GetHttp2ProtocolOptions(), o.GetUseDownstreamProtocolConfig().GetHttp2ProtocolOptions(),
	} {
		if h2 != nil {
			return []*corev3.Http2ProtocolOptions{h2}
		}
	}
	return nil
}

// way is a call's: from the sidecar of shop to that of web.
type way struct{ caller, callee *sight }

// wayOf has limits of the file's own, which the callee's sidecar is not to undercut.
func wayOf(t *testing.T, mtls, protocol string) *way {
	t.Helper()
	shop := resource.Profile{Service: "shop", AppPort: 8080, MeshPort: 15008, OutboundPort: 15001}
	web := resource.Profile{Service: "web", AppPort: 8080, MeshPort: 15008, OutboundPort: 15001}
	in := Input{
		Mesh: parse(t, fmt.Sprintf(`mesh:
  name: m
  security: {mtls: %s}
  circuit_breakers: {default: {max_connections: 5000, max_requests: 9000}}
  services:
    shop: {upstreams: [{service: web, local_bind_port: 15100}], timeout: {idle: 2h}}
    web: {protocol: %s, timeout: {idle: 10m, connect: 30s}}
`, mtls, protocol)),
		Catalog: watch.NewCatalog().Update([]*watch.Service{{Name: "web", Instances: []*watch.Instance{{
			ID: "web-1", Address: netip.MustParseAddr("10.0.0.1"), Port: 8080, MeshPort: 15008, Weight: 1,
		}}}}, nil),
		Fleet: resource.NewFleet(shop, web),
		Roots: testRoots(t),
	}
	if protocol != "tcp" {
		in.Mesh = parse(t, fmt.Sprintf(`mesh:
  name: m
  security: {mtls: %s}
  circuit_breakers: {default: {max_connections: 5000, max_requests: 9000}}
  services: {web: {protocol: %s, timeout: {idle: 10m, connect: 30s}}}
`, mtls, protocol))
	}
	snapshot := Translate(nil, in)
	if len(snapshot.Held) > 0 {
		t.Fatalf("held: %+v", snapshot.Held)
	}
	return &way{caller: sightOf(snapshot, shop), callee: sightOf(snapshot, web)}
}

func listenerOf(t *testing.T, s *sight, name string) *listenerv3.Listener {
	t.Helper()
	r := s.Sets[resource.Listener].Get(name)
	if r == nil {
		t.Fatalf("%s has no listener %s", s.Profile.Service, name)
	}
	return decode(t, r, &listenerv3.Listener{})
}

func managerOf(t *testing.T, s *sight, name string) *hcmv3.HttpConnectionManager {
	t.Helper()
	return onlyFilter(t, listenerOf(t, s, name), &hcmv3.HttpConnectionManager{})
}

func proxyOf(t *testing.T, s *sight, name string) *tcpproxyv3.TcpProxy {
	t.Helper()
	return onlyFilter(t, listenerOf(t, s, name), &tcpproxyv3.TcpProxy{})
}

// onlyFilter is the one filter of a listener's chains.
func onlyFilter[M proto.Message](t *testing.T, l *listenerv3.Listener, m M) M {
	t.Helper()
	if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func clusterOf(t *testing.T, s *sight, name string) *clusterv3.Cluster {
	t.Helper()
	r := s.Sets[resource.Cluster].Get(name)
	if r == nil {
		t.Fatalf("%s has no cluster %s", s.Profile.Service, name)
	}
	return decode(t, r, &clusterv3.Cluster{})
}
