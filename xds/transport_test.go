package xds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// transport is a way on which the test clients reach the server.
type transport struct {
	name     string
	separate bool // a stream a type instead of ADS
	// dial returns a connection to the server; nil: the handlers are called
	// without one.
	dial func(*testing.T, *Server) *grpc.ClientConn
}

var transports = []transport{
	{name: "ADS"},
	{name: "ADS, plaintext", dial: plaintext},
	{name: "ADS, TLS", dial: overTLS},
	{name: "separate", separate: true},
	{name: "separate, plaintext", separate: true, dial: plaintext},
	{name: "separate, TLS", separate: true, dial: overTLS},
}

// via is the transport of the running test. Tests run one at a time.
var via = transports[0]

func plaintext(t *testing.T, s *Server) *grpc.ClientConn {
	return dialInMemory(t, s, insecure.NewCredentials(), insecure.NewCredentials())
}

func overTLS(t *testing.T, s *Server) *grpc.ClientConn {
	server, client := throwAway()
	return dialInMemory(t, s, server, client)
}

// throwAway returns credentials of an identity that all tests share.
var throwAway = sync.OnceValues(func() (server, client credentials.TransportCredentials) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		// A bubble begins in the year 2000.
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	return server, credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots})
})

// dialInMemory connects to a gRPC server of its own, by a pipe: the whole
// transport is inside the bubble.
func dialInMemory(t *testing.T, s *Server, server, client credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	return dialThrough(t, s, server, client, func(c net.Conn) net.Conn { return c })
}

func dialThrough(t *testing.T, s *Server, server, client credentials.TransportCredentials, through func(net.Conn) net.Conn) *grpc.ClientConn {
	t.Helper()
	g := grpc.NewServer(append(s.ServerOptions(), grpc.Creds(server))...)
	s.Register(g)
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///127.0.0.1",
		grpc.WithTransportCredentials(client),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := l.dial(ctx)
			if err != nil {
				return nil, err
			}
			return through(c), nil
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// halfOpen is a connection whose other end is gone without a word once it is
// cut: what is written to it vanishes, and nothing comes.
type halfOpen struct {
	net.Conn
	cut atomic.Bool
}

func (c *halfOpen) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.cut.Load() {
			return n, err
		}
	}
}

func (c *halfOpen) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// raw is a codec of bytes.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// method returns the gRPC method of the protocol, on ADS or on the service of
// one type.
func method(p protocol, typeURL string) string {
	if typeURL == "" {
		m := "StreamAggregatedResources"
		if p == delta {
			m = "DeltaAggregatedResources"
		}
		return "/envoy.service.discovery.v3.AggregatedDiscoveryService/" + m
	}
	typ, _ := resource.TypeOf(typeURL)
	name := typ.String()
	title := strings.ToUpper(name[:1]) + name[1:]
	verb := "Stream"
	if p == delta {
		verb = "Delta"
	}
	method := verb + title + "s"
	if typ == resource.Runtime {
		method = verb + title
	}
	return "/envoy.service." + name + ".v3." + title + "DiscoveryService/" + method
}

// pump connects the pipe to a stream of a gRPC connection.
func (w *pipe) pump(conn *grpc.ClientConn, p protocol, typeURL string) {
	defer w.close()
	stream, err := conn.NewStream(w.ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method(p, typeURL))
	if err != nil {
		w.ended <- err
		return
	}
	go func() {
		for {
			select {
			case b := <-w.in:
				if b == nil {
					_ = stream.CloseSend()
				} else if stream.SendMsg(&b) != nil {
					return // the reader knows why
				}
			case <-w.ctx.Done():
				return
			}
		}
	}()
	for {
		var b []byte
		if err := stream.RecvMsg(&b); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			w.ended <- err
			return
		}
		select {
		case w.out <- b:
		case <-w.ctx.Done():
			w.ended <- w.ctx.Err()
			return
		}
	}
}

// split connects the pipe to a stream for each type that it sends a request
// of. As a client of such streams would, it sends the node first on each.
func (w *pipe) split(s *Server, conn *grpc.ClientConn, p protocol) {
	streams := make(map[string]*pipe)
	var node []byte
	for {
		var b []byte
		select {
		case b = <-w.in:
		case <-w.ctx.Done():
			return
		}
		typeURL, withNode := inspect(p, b)
		if withNode != nil {
			node = withNode
		}
		one := streams[typeURL]
		if one == nil {
			ctx, cancel := context.WithCancel(w.ctx)
			one = &pipe{ctx: ctx, close: cancel, codec: w.codec, in: make(chan []byte, 100), out: w.out, ended: w.ended}
			streams[typeURL] = one
			if conn != nil {
				go one.pump(conn, p, typeURL)
			} else {
				go func() {
					w.ended <- s.serve(p, one, typeURL)
					cancel()
				}()
			}
			if withNode == nil {
				b = append(b, node...) // the later of two fields of a message counts
			}
		}
		one.in <- b
	}
}

// inspect returns the type of a request, and its node as an encoded request
// that holds nothing else.
func inspect(p protocol, b []byte) (typeURL string, node []byte) {
	var m proto.Message = &discovery.DiscoveryRequest{}
	if p == delta {
		m = &discovery.DeltaDiscoveryRequest{}
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return "", nil
	}
	switch m := m.(type) {
	case *discovery.DiscoveryRequest:
		typeURL = m.TypeUrl
		if m.Node != nil {
			node, _ = proto.Marshal(&discovery.DiscoveryRequest{Node: m.Node})
		}
	case *discovery.DeltaDiscoveryRequest:
		typeURL = m.TypeUrl
		if m.Node != nil {
			node, _ = proto.Marshal(&discovery.DeltaDiscoveryRequest{Node: m.Node})
		}
	}
	return typeURL, node
}
