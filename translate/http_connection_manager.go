package translate

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"datapunk.dev/controlplane/policy"
)

const (
	// streamIdle cuts an outbound stream that has been silent. Routes say
	// it again with the service's own value; this one is for the time before
	// a route is found, and never changes, since a changed listener drains.
	streamIdle = 5 * time.Minute

	// requestHeadersTimeout is for a client that sends its headers slowly.
	requestHeadersTimeout = 10 * time.Second

	maxConcurrentStreams = 1024
)

// outboundHTTP serves the application's calls to the mesh.
func outboundHTTP(d *builder, c *compiler, s *policy.Service) *hcmv3.HttpConnectionManager {
	m := httpManager(d, c, s, "outbound", routeOutbound)
	m.StreamIdleTimeout = duration(streamIdle)
	// What the application says of certificates is not evidence.
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE
	m.HttpFilters = []*hcmv3.HttpFilter{router(d)}
	m.LocalReplyConfig = localReplies()
	return m
}

// inboundHTTP serves the mesh's calls to the application. The RBAC filters are
// constant; the route configuration overrides them (see rbac.go).
func inboundHTTP(d *builder, c *compiler, s *policy.Service) *hcmv3.HttpConnectionManager {
	m := httpManager(d, c, s, "inbound", routeInbound)
	m.CommonHttpProtocolOptions.MaxConnectionDuration = duration(connectionAge)
	m.StreamIdleTimeout = &durationpb.Duration{} // gRPC and WebSocket may be silent
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	m.HttpFilters = append(rbacFilters(d), router(d))
	return m
}

// httpManager is what both directions share: tracing, access logs, limits, and
// the treatment of paths without which a DENY by path can be walked around.
func httpManager(d *builder, c *compiler, s *policy.Service, statPrefix, routes string) *hcmv3.HttpConnectionManager {
	options := http2Options()
	options.AllowConnect = true // WebSocket between sidecars is extended CONNECT
	options.MaxConcurrentStreams = u32(maxConcurrentStreams)
	return &hcmv3.HttpConnectionManager{
		StatPrefix: statPrefix,
		// AUTO: calls come by HTTP/1 and by HTTP/2, in plaintext too.
		CodecType: hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource:    adsUntilThere(),
			RouteConfigName: routes,
		}},
		AccessLog: accessLog(d, c),
		Tracing:   spans(d, c, s.Name),
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:     duration(s.Timeout.Idle),
			MaxHeadersCount: u32(maxHeaders),
		},
		Http2ProtocolOptions:       options,
		MaxRequestHeadersKb:        u32(maxHeadersKB),
		RequestHeadersTimeout:      duration(requestHeadersTimeout),
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		NormalizePath:              boolean(true),
		MergeSlashes:               true,
		// The callee's routes refuse them, unless it wants them: noEncodedSlash.
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		UseRemoteAddress:             boolean(false),
		SkipXffAppend:                true,
		// Nobody is trusted to steer the proxy by x-envoy-* headers.
		InternalAddressConfig: &hcmv3.HttpConnectionManager_InternalAddressConfig{},
		UpgradeConfigs:        []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		StripTrailingHostDot:  true,
	}
}

func router(d *builder) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{
		Name:       "envoy.filters.http.router",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: d.pack(&routerv3.Router{})},
	}
}
