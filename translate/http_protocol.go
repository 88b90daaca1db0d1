package translate

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/policy"
)

// httpMode is what a proxy speaks to a cluster.
type httpMode uint8

const (
	notHTTP httpMode = iota
	http1
	http2
	// sameAsCaller speaks HTTP/1 for a call that came by HTTP/1, HTTP/2
	// for one that came by HTTP/2.
	sameAsCaller
)

// upstreamHTTP is what a proxy speaks to the instances of a service. Between
// sidecars that is HTTP/2, whatever the applications speak: one connection
// instead of one a concurrent request. Where mTLS is not strict, an instance
// may be the bare application, which need not understand HTTP/2 unless the
// call is one that came by it, such as gRPC.
func (g *globals) upstreamHTTP(p policy.Protocol) httpMode {
	switch {
	case p == policy.TCP:
		return notHTTP
	case g.dial == tlsStrict || p == policy.HTTP2 || p == policy.GRPC:
		return http2
	default:
		return sameAsCaller
	}
}

const httpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

type httpKey struct {
	mode httpMode
	to   hop
	idle time.Duration
}

// httpOptions are the options of a cluster that speaks HTTP, whose answers are
// measured at a hop.
func httpOptions(d *builder, c *compiler, mode httpMode, to hop, idle time.Duration) map[string]*anypb.Any {
	if mode == notHTTP {
		return nil
	}
	return part(c, httpKey{mode, to, idle}, func() map[string]*anypb.Any {
		options := &httpv3.HttpProtocolOptions{
			CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
				IdleTimeout:           duration(idle),
				MaxConnectionDuration: duration(connectionAge),
				MaxHeadersCount:       u32(to.width().headers),
				MaxResponseHeadersKb:  u32(to.width().kb),
			},
		}
		switch mode {
		case http1:
			options.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: upstreamHTTP1()},
			}}
		case http2:
			options.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: to.http2()},
			}}
		case sameAsCaller:
			options.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions:  upstreamHTTP1(),
				Http2ProtocolOptions: to.http2(),
			}}
		}
		return map[string]*anypb.Any{httpProtocolOptions: d.pack(options)}
	})
}

// upstreamHTTP1 passes trailers on, which Envoy drops unless it is told.
func upstreamHTTP1() *corev3.Http1ProtocolOptions {
	return &corev3.Http1ProtocolOptions{EnableTrailers: true}
}
