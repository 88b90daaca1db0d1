package xds

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// pipe is a gRPC stream without a transport.
type pipe struct {
	ctx   context.Context
	close context.CancelFunc
	codec wire.Codec
	in    chan []byte // nil ends the requests
	out   chan []byte
	ended chan error // what the handler returned
}

func (w *pipe) Context() context.Context     { return w.ctx }
func (w *pipe) SetHeader(metadata.MD) error  { return nil }
func (w *pipe) SendHeader(metadata.MD) error { return nil }
func (w *pipe) SetTrailer(metadata.MD)       {}

func (w *pipe) SendMsg(m any) error {
	b, err := w.codec.Marshal(m)
	if err != nil {
		return err
	}
	select {
	case w.out <- b.Materialize():
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

func (w *pipe) RecvMsg(m any) error {
	select {
	case b := <-w.in:
		if b == nil {
			return io.EOF
		}
		return w.codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m)
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

// client is a test client of either protocol.
type client struct {
	*pipe
	t    *testing.T
	node *corepb.Node // sent with the first request
}

// open starts a stream of the server: ADS, or of one type URL.
func open(t *testing.T, s *Server, p protocol, typeURL string) *client {
	t.Helper()
	c := newClient(t)
	var conn *grpc.ClientConn
	if via.dial != nil {
		conn = via.dial(t, s)
	}
	switch {
	case via.separate && typeURL == "":
		go c.split(s, conn, p)
	case conn != nil:
		go c.pump(conn, p, typeURL)
	default:
		go func() {
			c.ended <- s.serve(p, c.pipe, typeURL)
			c.close() // as gRPC does when the handler returns
		}()
	}
	return c
}

// newClient returns a client that is connected to nothing.
func newClient(t *testing.T) *client {
	ctx, cancel := context.WithCancel(t.Context())
	return &client{
		pipe: &pipe{
			ctx: ctx, close: cancel, codec: wire.NewCodec(),
			in: make(chan []byte, 100), out: make(chan []byte, 1000), ended: make(chan error, resource.NumTypes),
		},
		t: t, node: &corepb.Node{Id: "nexus-1", Cluster: "nexus"},
	}
}

func (c *client) send(m proto.Message) {
	c.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	c.in <- b
	synctest.Wait()
}

// takeNode returns the node for the first request, then nil.
func (c *client) takeNode() *corepb.Node {
	n := c.node
	c.node = nil
	return n
}

// receive returns the next message once the server has nothing left to do.
func (c *client) receive() []byte {
	c.t.Helper()
	synctest.Wait()
	select {
	case b := <-c.out:
		return b
	default:
	}
	select {
	case err := <-c.ended:
		c.t.Fatalf("the stream ended: %v", err)
	default:
	}
	c.t.Fatal("no response")
	return nil
}

// silence fails the test if there is a response.
func (c *client) silence(why string) {
	c.t.Helper()
	synctest.Wait()
	select {
	case b := <-c.out:
		c.t.Fatalf("%s: unexpected response %s", why, describe(b))
	default:
	}
}

// end returns the error with which the server ended the stream.
func (c *client) end() error {
	c.t.Helper()
	synctest.Wait()
	select {
	case err := <-c.ended:
		return err
	default:
		c.t.Fatal("the stream goes on")
		return nil
	}
}

func describe(b []byte) string {
	m := &discovery.DeltaDiscoveryResponse{}
	if proto.Unmarshal(b, m) == nil {
		return fmt.Sprint(summary(m))
	}
	return fmt.Sprintf("%q", b)
}

// deltaClient speaks the incremental protocol.
type deltaClient struct{ *client }

func openDelta(t *testing.T, s *Server) deltaClient { return deltaClient{open(t, s, delta, "")} }

func (c deltaClient) request(t resource.Type, change ...func(*discovery.DeltaDiscoveryRequest)) {
	c.t.Helper()
	r := &discovery.DeltaDiscoveryRequest{Node: c.takeNode(), TypeUrl: t.URL()}
	for _, f := range change {
		f(r)
	}
	c.send(r)
}

func (c deltaClient) subscribe(t resource.Type, names ...string) {
	c.t.Helper()
	c.request(t, func(r *discovery.DeltaDiscoveryRequest) { r.ResourceNamesSubscribe = names })
}

func (c deltaClient) unsubscribe(t resource.Type, names ...string) {
	c.t.Helper()
	c.request(t, func(r *discovery.DeltaDiscoveryRequest) { r.ResourceNamesUnsubscribe = names })
}

// reconnect subscribes and reports versions: "name", "version", and so on.
func (c deltaClient) reconnect(t resource.Type, names []string, versions ...string) {
	c.t.Helper()
	c.request(t, func(r *discovery.DeltaDiscoveryRequest) {
		r.ResourceNamesSubscribe = names
		r.InitialResourceVersions = map[string]string{}
		for pair := range slices.Chunk(versions, 2) {
			r.InitialResourceVersions[pair[0]] = pair[1]
		}
	})
}

func (c deltaClient) next() *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	m := &discovery.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(c.receive(), m); err != nil {
		c.t.Fatal(err)
	}
	for _, r := range m.Resources {
		if r.Resource.TypeUrl != m.TypeUrl {
			c.t.Fatalf("a %s in a response of %s", r.Resource.TypeUrl, m.TypeUrl)
		}
	}
	return m
}

func (c deltaClient) ack(m *discovery.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce})
}

func (c deltaClient) nack(m *discovery.DeltaDiscoveryResponse, message string) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{
		TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce,
		ErrorDetail: &rpcstatus.Status{Code: 13, Message: message},
	})
}

// expect takes the next response, checks it, and acknowledges it. The form is
// "cluster a@1 b@2 -c".
func (c deltaClient) expect(want string) *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	m := c.peek(want)
	c.ack(m)
	return m
}

// peek is expect without the acknowledgement.
func (c deltaClient) peek(want string) *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	m := c.next()
	if got := summary(m); got != want {
		c.t.Fatalf("got %q, want %q", got, want)
	}
	return m
}

func summary(m *discovery.DeltaDiscoveryResponse) string {
	t, _ := resource.TypeOf(m.TypeUrl)
	parts := []string{t.String()}
	for _, r := range m.Resources {
		parts = append(parts, r.Name+"@"+r.Version)
	}
	for _, n := range m.RemovedResources {
		parts = append(parts, "-"+n)
	}
	return strings.Join(parts, " ")
}

// sotwClient speaks the state-of-the-world protocol.
type sotwClient struct {
	*client
	names    map[resource.Type][]string
	accepted map[resource.Type]string // version
}

func openSotw(t *testing.T, s *Server) sotwClient {
	return sotwClient{open(t, s, sotw, ""), map[resource.Type][]string{}, map[resource.Type]string{}}
}

func (c sotwClient) subscribe(t resource.Type, names ...string) {
	c.t.Helper()
	c.names[t] = names
	c.send(&discovery.DiscoveryRequest{
		Node: c.takeNode(), TypeUrl: t.URL(), ResourceNames: names, VersionInfo: c.accepted[t],
	})
}

func (c sotwClient) next() *discovery.DiscoveryResponse {
	c.t.Helper()
	m := &discovery.DiscoveryResponse{}
	if err := proto.Unmarshal(c.receive(), m); err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c sotwClient) ack(m *discovery.DiscoveryResponse) {
	c.t.Helper()
	t, _ := resource.TypeOf(m.TypeUrl)
	c.accepted[t] = m.VersionInfo
	c.send(&discovery.DiscoveryRequest{
		TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce, VersionInfo: m.VersionInfo, ResourceNames: c.names[t],
	})
}

func (c sotwClient) nack(m *discovery.DiscoveryResponse, message string) {
	c.t.Helper()
	t, _ := resource.TypeOf(m.TypeUrl)
	c.send(&discovery.DiscoveryRequest{
		TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce, VersionInfo: c.accepted[t], ResourceNames: c.names[t],
		ErrorDetail: &rpcstatus.Status{Code: 13, Message: message},
	})
}

func (c sotwClient) expect(want string) *discovery.DiscoveryResponse {
	c.t.Helper()
	m := c.peek(want)
	c.ack(m)
	return m
}

func (c sotwClient) peek(want string) *discovery.DiscoveryResponse {
	c.t.Helper()
	m := c.next()
	if got := sotwSummary(c.t, m); got != want {
		c.t.Fatalf("got %q, want %q", got, want)
	}
	return m
}

// identify returns the name and version of a resource that res made: SotW
// resources have no version of their own.
func (w *world) identify(t *testing.T, typ resource.Type, body []byte) (name, version string) {
	t.Helper()
	var err error
	switch typ {
	case resource.Cluster:
		m := &clusterpb.Cluster{}
		err = proto.Unmarshal(body, m)
		name, version = m.Name, m.AltStatName
	case resource.Endpoint:
		m := &endpointpb.ClusterLoadAssignment{}
		err = proto.Unmarshal(body, m)
		name = m.ClusterName
		for v := range m.NamedEndpoints {
			version = v
		}
	case resource.Listener:
		m := &listenerpb.Listener{}
		err = proto.Unmarshal(body, m)
		name, version = m.Name, m.StatPrefix
	case resource.Route:
		m := &routepb.RouteConfiguration{}
		err = proto.Unmarshal(body, m)
		name, version = m.Name, "empty"
		if len(m.InternalOnlyHeaders) > 0 {
			version = m.InternalOnlyHeaders[0]
		}
	case resource.Extension:
		m := &corepb.TypedExtensionConfig{}
		err = proto.Unmarshal(body, m)
		name, version = m.Name, m.GetTypedConfig().GetTypeUrl()
	case resource.ScopedRoute:
		m := &routepb.ScopedRouteConfiguration{}
		err = proto.Unmarshal(body, m)
		name, version = m.Name, m.RouteConfigurationName
	}
	if err != nil {
		t.Fatal(err)
	}
	return name, version
}

// sotwSummary is "cluster a b": SotW resources have no versions of their own.
func sotwSummary(t *testing.T, m *discovery.DiscoveryResponse) string {
	typ, _ := resource.TypeOf(m.TypeUrl)
	parts := []string{typ.String()}
	for _, r := range m.Resources {
		if r.TypeUrl != m.TypeUrl {
			t.Fatalf("a %s in a response of %s", r.TypeUrl, m.TypeUrl)
		}
		msg, err := r.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		switch msg := msg.(type) {
		case *endpointpb.ClusterLoadAssignment:
			parts = append(parts, msg.ClusterName)
		case *clusterpb.Cluster:
			parts = append(parts, msg.Name+"@"+msg.AltStatName)
		case *listenerpb.Listener:
			parts = append(parts, msg.Name+"@"+msg.StatPrefix)
		case interface{ GetName() string }:
			parts = append(parts, msg.GetName())
		}
	}
	return strings.Join(parts, " ")
}

func metadataOf(t *testing.T, fields map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
