package translate

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// A call passes two sidecars, and each adds to it: headers, spans, an identity.
// So whatever is limited is limited once, at the first hop that sees it, and is
// wider at every later one. A request that only the second hop refused would be
// a failure of the callee in the eyes of the first: a 503, retries, and in the
// end the ejection of an instance that is well.
//
//	                     first hop                      later hop
//	request headers      outbound listener 100, 60 KB   inbound listener 200, 96 KB
//	response headers     local cluster 500, 256 KB      service cluster 1000, 512 KB
//	trailers             as the headers of their way
//	one header, HTTP/2   as all together                256 KB, Envoy's most
//	streams              service cluster 1024           inbound listener 1024
//	window               of a stream                    of its connection: all streams'
//	idle connection      service cluster timeout.idle   inbound listener and 5 s
//	age of a connection  service cluster 1 h            inbound listener and 5 min
//	time to connect      service cluster                local cluster the same
//	time of a request    outbound route                 inbound route none
//	silent stream        outbound route                 inbound listener none
//	breakers             service cluster                local cluster none
//
// TestNoHopIsNarrowerThanTheOneBefore holds all of it.

// hop is one of the four places of a call where its headers are measured.
type hop uint8

const (
	requestAtCaller  hop = iota // by the outbound listener
	requestAtCallee             // by the inbound listener
	responseAtCallee            // by the cluster of the callee's application
	responseAtCaller            // by the cluster of the callee
)

// width is what a hop takes of headers, and again of trailers.
type width struct {
	headers, kb uint32
	field       uint32 // KB of one header over HTTP/2; 0: Envoy's own 64
}

// maxFieldKB is the longest header that Envoy can be told to take over HTTP/2.
// For a longer one it cuts the whole connection.
const maxFieldKB = 256

func (h hop) width() width {
	switch h {
	case requestAtCaller:
		return width{headers: 100, kb: 60}
	case requestAtCallee:
		return width{headers: 200, kb: 96, field: 96}
	case responseAtCallee:
		return width{headers: 500, kb: 256, field: maxFieldKB}
	default:
		return width{headers: 1000, kb: 512, field: maxFieldKB}
	}
}

// streams is how many calls share a connection. An application is sent calls
// before it has said how many it takes, so it is as many as every HTTP/2 server
// should take; there are more connections then.
func (h hop) streams() uint32 {
	if h == responseAtCallee {
		return 100
	}
	return 1024
}

const (
	// streamWindow is how much may be on its way to somebody who does not read.
	// Those who do not share a connection with others who do, so the window of a
	// connection has room for all of its streams.
	streamWindow = 256 << 10 // bytes

	// connectionBuffer bounds what is buffered of one connection.
	connectionBuffer = 1 << 20 // bytes

	// connectionAge ends a connection, so that a renewed certificate is in
	// use an hour later everywhere. The caller ends it; the callee does only
	// if the caller does not.
	connectionAge        = time.Hour
	inboundConnectionAge = connectionAge + 5*time.Minute

	// closingTime is how much longer the callee keeps an idle connection than
	// the caller, so that no request meets a connection that is being closed.
	closingTime = 5 * time.Second

	// A client that resets many streams may be attacking, or have short timeouts
	// and a callee that is slow. All callers of a machine share a connection to
	// the callee, which Envoy cuts after 1,000 resets and 33 a second more, and
	// after 250 in their first second if they are half of all. These bounds no
	// sidecar reaches, and an attack does in seconds.
	resetBurst        = 100_000
	resetsPerSecond   = 1_000
	maxPrematureReset = 200_000
)

// later is how long a hop waits so that the one before it is first; 0 is for
// ever.
func later(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return d + closingTime
}

const (
	keepaliveInterval = 30 * time.Second
	keepaliveTimeout  = 5 * time.Second
)

// http2 bounds the memory of a connection and notices a dead peer. What is wrong
// with one stream costs that stream and not its connection.
func (h hop) http2() *corev3.Http2ProtocolOptions {
	o := &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:                    u32(h.streams()),
		InitialStreamWindowSize:                 u32(streamWindow),
		InitialConnectionWindowSize:             u32(h.streams() * streamWindow),
		OverrideStreamErrorOnInvalidHttpMessage: boolean(true),
		ConnectionKeepalive:                     &corev3.KeepaliveSettings{Interval: duration(keepaliveInterval), Timeout: duration(keepaliveTimeout)},
	}
	if field := h.width().field; field > 0 {
		o.MaxHeaderFieldSizeKb = u32(field)
	}
	return o
}
