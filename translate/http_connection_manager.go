package translate

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"datapunk.dev/controlplane/policy"
)

const (
	// streamIdle cuts an outbound stream that has been silent. Routes say
	// it again with the service's own value; this one is for the time before
	// a route is found, and never changes, since a changed listener drains.
	streamIdle = 5 * time.Minute

	// requestHeadersTimeout is for a client that sends its headers slowly.
	requestHeadersTimeout = 10 * time.Second
)

// outboundHTTP serves the application's calls to the mesh.
func outboundHTTP(d *builder, c *compiler, s *policy.Service) *hcmv3.HttpConnectionManager {
	m := httpManager(d, c, s, requestAtCaller, "outbound")
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_ScopedRoutes{ScopedRoutes: scopedRoutes()}
	m.CommonHttpProtocolOptions.IdleTimeout = duration(s.Timeout.Idle)
	m.StreamIdleTimeout = duration(streamIdle)
	m.LocalReplyConfig = repliesAtCaller()
	// What the application says of certificates is not evidence.
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE
	m.HttpFilters = outboundFilters(d)
	return m
}

// inboundHTTP serves the mesh's calls to the application. The RBAC filters are
// constant; the route configuration overrides them (see rbac.go).
func inboundHTTP(d *builder, c *compiler, s *policy.Service) *hcmv3.HttpConnectionManager {
	m := httpManager(d, c, s, requestAtCallee, "inbound")
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: adsUntilThere(), RouteConfigName: routeInbound}}
	m.CommonHttpProtocolOptions.IdleTimeout = duration(later(s.Timeout.Idle))
	m.CommonHttpProtocolOptions.MaxConnectionDuration = duration(inboundConnectionAge)
	m.Http1SafeMaxConnectionDuration = true      // a request may be under way already
	m.StreamIdleTimeout = &durationpb.Duration{} // gRPC and WebSocket may be silent
	m.LocalReplyConfig = repliesAtCallee(s.Name)
	m.HttpProtocolOptions.DefaultHostForHttp_10 = s.Name
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	m.HttpFilters = inboundFilters(d)
	return m
}

// httpManager is what both directions share: tracing, access logs, limits, and
// the treatment of paths without which a DENY by path can be walked around.
func httpManager(d *builder, c *compiler, s *policy.Service, at hop, statPrefix string) *hcmv3.HttpConnectionManager {
	options := at.http2()
	options.AllowConnect = true // WebSocket between sidecars is extended CONNECT
	options.StreamResetBurst = wrapperspb.UInt64(resetBurst)
	options.StreamResetRate = wrapperspb.UInt64(resetsPerSecond)
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: statPrefix,
		// AUTO: calls come by HTTP/1 and by HTTP/2, in plaintext too.
		CodecType:                  hcmv3.HttpConnectionManager_AUTO,
		AccessLog:                  accessLog(d, c),
		Tracing:                    spans(d, c, s.Name),
		CommonHttpProtocolOptions:  &corev3.HttpProtocolOptions{MaxHeadersCount: u32(at.width().headers)},
		HttpProtocolOptions:        downstreamHTTP1(),
		Http2ProtocolOptions:       options,
		MaxRequestHeadersKb:        u32(at.width().kb),
		RequestHeadersTimeout:      duration(requestHeadersTimeout),
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		NormalizePath:              boolean(true),
		MergeSlashes:               true,
		// The callee's routes refuse them, unless it wants them: noEncodedSlash.
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		UseRemoteAddress:             boolean(false),
		SkipXffAppend:                true,
		// Nobody is trusted to steer the proxy by x-envoy-* headers.
		InternalAddressConfig:         nobodyInside(),
		EarlyHeaderMutationExtensions: withoutSteering(d),

		UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: webSocket}},
		// Of the answers before the answer, Envoy passes on the first: 100, 102,
		// 103 or 104. The Expect header goes to the application with it.
		Proxy_100Continue:    true,
		StripTrailingHostDot: true,
	}
	decideByParent(d, c, m)
	return m
}

// downstreamHTTP1 serves old clients too, and passes trailers on.
func downstreamHTTP1() *corev3.Http1ProtocolOptions {
	return &corev3.Http1ProtocolOptions{
		AcceptHttp_10:        true,
		EnableTrailers:       true,
		IgnoreHttp_11Upgrade: ignoredUpgrades(),
	}
}

func router(d *builder) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{
		Name:       "envoy.filters.http.router",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: d.pack(&routerv3.Router{})},
	}
}
