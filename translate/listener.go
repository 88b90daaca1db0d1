package translate

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// The names of listeners, the same in every view: a second name on a bound
// port would be refused as a duplicate address.
const (
	listenerOutbound    = "outbound"
	listenerInbound     = resource.ListenerInbound
	listenerMetrics     = "metrics"
	listenerOutboundTCP = "outbound_tcp_" // and the service
)

// anyAddress is every address of the machine.
const anyAddress = "0.0.0.0"

// clientHelloTimeout is how long a TCP caller may be silent before it counts as
// one in plaintext, in permissive mode. A sidecar sends its ClientHello at once.
const clientHelloTimeout = 2 * time.Second

// connectAttempts is how many instances a TCP connection tries.
const connectAttempts = 3

// outboundListener takes the application's HTTP calls to every service.
func outboundListener(c *compiler, s *policy.Service) listenerTemplate {
	var d builder
	l := &listenerv3.Listener{
		Name:                          listenerOutbound,
		FilterChains:                  []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{httpFilter(&d, outboundHTTP(&d, c, s))}}},
		TrafficDirection:              corev3.TrafficDirection_OUTBOUND,
		PerConnectionBufferLimitBytes: u32(connectionBuffer),
		// On by default, and then two Envoys bind one port in silence and
		// share its calls, half of them under the wrong identity.
		EnableReusePort: boolean(false),
	}
	return d.template(l, listenerKeys(s), c.httpRefs())
}

// tcpUpstream is a TCP service with a port of its own on loopback.
type tcpUpstream struct {
	service string
	port    uint16
	idle    time.Duration // the service's own, as of its cluster
}

// outboundTCPListener takes the application's connections to one service.
func outboundTCPListener(c *compiler, s *policy.Service, u tcpUpstream) listenerTemplate {
	var d builder
	name := listenerOutboundTCP + u.service
	proxy := tcpProxy(&d, c, name, u.service, u.idle)
	proxy.MaxConnectAttempts = u32(connectAttempts)
	l := &listenerv3.Listener{
		Name:                          name,
		FilterChains:                  []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{tcpFilter(&d, proxy)}}},
		TrafficDirection:              corev3.TrafficDirection_OUTBOUND,
		PerConnectionBufferLimitBytes: u32(connectionBuffer),
		EnableReusePort:               boolean(false),
	}
	keys := append(s.Keys(policy.SettingUpstreams), listenerKeys(s)...)
	return d.template(l, keys, []resource.Ref{resource.Cluster.Ref(u.service)})
}

// inboundListener takes the calls of the mesh to the application.
func inboundListener(c *compiler, s *policy.Service, plaintextTCP bool) listenerTemplate {
	var d builder
	l := &listenerv3.Listener{
		Name:                          listenerInbound,
		TrafficDirection:              corev3.TrafficDirection_INBOUND,
		PerConnectionBufferLimitBytes: u32(connectionBuffer),
		EnableReusePort:               boolean(false),
	}
	var refs []resource.Ref
	var secure, plain *listenerv3.FilterChain
	if s.Protocol == policy.TCP {
		refs = []resource.Ref{resource.Cluster.Ref(resource.ClusterLocalApp)}
		secure, plain = inboundTCPChains(&d, c, s, plaintextTCP)
		if c.tls != tlsOff {
			refs = append(refs, resource.Secret.Ref(resource.SecretIdentity), resource.Secret.Ref(resource.SecretCallers(s.Name)))
		}
	} else {
		refs = append([]resource.Ref{resource.Route.Ref(routeInbound)}, c.httpRefs()...)
		filter := httpFilter(&d, inboundHTTP(&d, c, s))
		secure = &listenerv3.FilterChain{Name: "mtls", Filters: []*listenerv3.Filter{filter}}
		plain = &listenerv3.FilterChain{Name: "plaintext", Filters: []*listenerv3.Filter{filter}}
		if c.tls != tlsOff {
			refs = append(refs, resource.Secret.Ref(resource.SecretIdentity), resource.Secret.Ref(resource.SecretRoots))
			secure.TransportSocket = downstreamTLS(&d, c.anyIdentity())
		}
	}
	switch c.tls {
	case tlsOff:
		l.FilterChains = []*listenerv3.FilterChain{plain}
	case tlsStrict:
		l.FilterChains = []*listenerv3.FilterChain{secure}
		if s.Protocol != policy.TCP {
			// Nothing needs to look here. But so the listener is that of
			// permissive mode with a chain less: Envoy adds and removes one
			// in place, and no call over the other is drained.
			inspectTLS(&d, l, secure)
		}
	case tlsPermissive:
		if s.Protocol == policy.TCP {
			// A caller that waits for the server's first word would be cut
			// off after Envoy's 15 s.
			l.ListenerFiltersTimeout = duration(clientHelloTimeout)
			l.ContinueOnListenerFiltersTimeout = true
		}
		l.FilterChains = []*listenerv3.FilterChain{secure}
		inspectTLS(&d, l, secure)
		if plain != nil {
			plain.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer"}
			l.FilterChains = append(l.FilterChains, plain)
		}
	}
	return d.template(l, listenerKeys(s), refs)
}

// inspectTLS has a listener look what a caller speaks, and the chain take TLS
// alone.
func inspectTLS(d *builder, l *listenerv3.Listener, secure *listenerv3.FilterChain) {
	l.ListenerFilters = []*listenerv3.ListenerFilter{{
		Name:       "envoy.filters.listener.tls_inspector",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: d.pack(&tlsinspectorv3.TlsInspector{})},
	}}
	secure.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "tls"}
}

// inboundTCPChains connect to the application when the TLS handshake is done
// and not before, so that it never sees a caller who was refused. A caller
// without a certificate has a chain only if nobody has to be refused.
func inboundTCPChains(d *builder, c *compiler, s *policy.Service, plaintext bool) (secure, plain *listenerv3.FilterChain) {
	chain := func(name string) (*listenerv3.FilterChain, *tcpproxyv3.TcpProxy) {
		proxy := tcpProxy(d, c, listenerInbound, resource.ClusterLocalApp, later(s.Timeout.Idle))
		if s.Timeout.MaxConnection > 0 {
			proxy.MaxDownstreamConnectionDuration = duration(s.Timeout.MaxConnection)
		}
		return &listenerv3.FilterChain{Name: name}, proxy
	}
	if plaintext || c.tls == tlsOff {
		var proxy *tcpproxyv3.TcpProxy
		plain, proxy = chain("plaintext")
		plain.Filters = []*listenerv3.Filter{tcpFilter(d, proxy)}
	}
	if c.tls == tlsOff {
		return nil, plain
	}
	secure, proxy := chain("mtls")
	proxy.UpstreamConnectMode = tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE
	proxy.MaxEarlyDataBytes = &wrapperspb.UInt32Value{}
	secure.Filters = []*listenerv3.Filter{tcpFilter(d, proxy)}
	secure.TransportSocket = callersTLS(d, s.Name)
	return secure, plain
}

func tcpProxy(d *builder, c *compiler, statPrefix, cluster string, idle time.Duration) *tcpproxyv3.TcpProxy {
	return &tcpproxyv3.TcpProxy{
		StatPrefix:       statPrefix,
		AccessLog:        accessLog(d, c),
		ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: cluster},
		IdleTimeout:      duration(idle),
	}
}

func httpFilter(d *builder, m *hcmv3.HttpConnectionManager) *listenerv3.Filter {
	return &listenerv3.Filter{
		Name:       "envoy.filters.network.http_connection_manager",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: d.pack(m)},
	}
}

func tcpFilter(d *builder, p *tcpproxyv3.TcpProxy) *listenerv3.Filter {
	return &listenerv3.Filter{
		Name:       "envoy.filters.network.tcp_proxy",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: d.pack(p)},
	}
}

// httpRefs are what a listener of HTTP needs beside its routes. Envoy does not
// miss a tracing cluster that is not there, but the spans are lost.
func (c *compiler) httpRefs() []resource.Ref {
	if c.traced {
		return []resource.Ref{resource.Cluster.Ref(resource.ClusterTracing)}
	}
	return nil
}

func listenerKeys(s *policy.Service) []string {
	return append(s.Keys(policy.SettingTimeout, policy.SettingProtocol), policy.KeyTracing, policy.KeyAccessLogs, policy.KeyMTLS)
}
