package xds

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// assignmentOf returns a ClusterLoadAssignment of ten instances.
func assignmentOf(name, version string) *resource.Resource {
	m := &endpointpb.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointpb.LocalityLbEndpoints{{}}}
	for i := range 10 {
		m.Endpoints[0].LbEndpoints = append(m.Endpoints[0].LbEndpoints, &endpointpb.LbEndpoint{
			HostIdentifier: &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: &corepb.Address{
				Address: &corepb.Address_SocketAddress{SocketAddress: &corepb.SocketAddress{
					Address: fmt.Sprintf("10.0.%d.%d", len(name), i), PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: 20000},
				}},
			}}},
		})
	}
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &resource.Resource{Type: resource.Endpoint, Name: name, Version: version, Body: body}
}

// clusterOf returns a cluster of the size of a real one.
func clusterOf(name string) *resource.Resource {
	r := cluster(name, "1")
	r.Body = append(r.Body, 0xfa, 0x3f, 0xbc, 0x05) // field 1023, 700 bytes
	r.Body = append(r.Body, make([]byte, 700)...)
	return r
}

func benchWorld(s *Server, services int) (*world, []string) {
	w := newWorld(s)
	names := make([]string, services)
	all := make([]*resource.Resource, 0, 2*services)
	for i := range services {
		names[i] = fmt.Sprintf("service-%04d", i)
		all = append(all, clusterOf(names[i]), assignmentOf(names[i], "1"))
	}
	w.put(all...).publish()
	return w, names
}

// engine is a server whose streams have no transport, and whose clients
// acknowledge everything at once: what is left is the cost of the engine, and
// that of a client which does little.
type engine struct {
	*world
	protocol protocol
	names    []string
	streams  int
	pending  sync.WaitGroup // responses that are to be acknowledged
	handlers sync.WaitGroup
	ctx      context.Context
	stop     context.CancelFunc
	changes  int
}

// newEngine opens streams that ask for the assignments of all services.
func newEngine(p protocol, streams, services int) *engine {
	e := &engine{protocol: p}
	e.world, e.names = benchWorld(testServer(), services)
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.open(streams)
	return e
}

// open opens more streams, and waits until they have acknowledged everything.
func (e *engine) open(streams int) {
	e.pending.Add(streams)
	for range streams {
		node := &corepb.Node{Id: strconv.Itoa(e.streams), Cluster: "nexus"}
		e.streams++
		l := &loop{ctx: e.ctx, codec: wire.NewCodec(), protocol: e.protocol, in: make(chan []byte, 1), acked: e.pending.Done}
		if e.protocol == sotw {
			l.names = marshal(&discovery.DiscoveryRequest{ResourceNames: e.names})
			l.in <- marshal(&discovery.DiscoveryRequest{Node: node, TypeUrl: eds.URL(), ResourceNames: e.names})
		} else {
			l.in <- marshal(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: eds.URL(), ResourceNamesSubscribe: e.names})
		}
		e.handlers.Go(func() { _ = e.server.serve(e.protocol, l, "") })
	}
	e.pending.Wait()
}

// change changes one endpoint and waits until all clients have acknowledged it.
func (e *engine) change() {
	e.pending.Add(e.streams)
	e.put(assignmentOf(e.names[e.changes%len(e.names)], strconv.Itoa(e.changes+2))).publish()
	e.changes++
	e.pending.Wait()
}

func (e *engine) close() {
	e.stop()
	e.handlers.Wait()
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// Fields of a response of either protocol.
const (
	versionField = 1
	typeURLField = 4
	nonceField   = 5
)

// eachField calls f with each field of a response.
func eachField(b []byte, f func(protowire.Number, []byte)) {
	for len(b) > 0 {
		number, _, n := protowire.ConsumeTag(b)
		v, m := protowire.ConsumeBytes(b[n:])
		f(number, v)
		b = b[n+m:]
	}
}

func stringField(b []byte, number protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), v)
}

// loop is the transport of one stream.
type loop struct {
	ctx      context.Context
	codec    wire.Codec
	protocol protocol
	names    []byte // as a SotW client repeats them
	in       chan []byte
	sent     bool // a response, which the next request acknowledges
	acked    func()
}

func (l *loop) Context() context.Context     { return l.ctx }
func (l *loop) SetHeader(metadata.MD) error  { return nil }
func (l *loop) SendHeader(metadata.MD) error { return nil }
func (l *loop) SetTrailer(metadata.MD)       {}

func (l *loop) SendMsg(m any) error {
	var version, nonce []byte
	data, err := l.codec.Marshal(m)
	if err != nil {
		return err
	}
	for _, piece := range data { // none is cut inside of a field: the bodies are small
		eachField(piece.ReadOnlyData(), func(number protowire.Number, v []byte) {
			switch number {
			case versionField:
				version = v
			case nonceField:
				nonce = v
			}
		})
	}
	ack := make([]byte, 0, len(l.names)+len(eds.URL())+50)
	if l.protocol == delta {
		ack = stringField(ack, 2, eds.URL())
		ack = stringField(ack, 6, string(nonce))
	} else {
		ack = stringField(ack, 1, string(version))
		ack = append(ack, l.names...)
		ack = stringField(ack, 4, eds.URL())
		ack = stringField(ack, 5, string(nonce))
	}
	select {
	case l.in <- ack:
		return nil
	case <-l.ctx.Done():
		return io.EOF
	}
}

func (l *loop) RecvMsg(m any) error {
	select {
	case b := <-l.in:
		if l.sent {
			defer l.acked()
		}
		l.sent = true
		return l.codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m)
	case <-l.ctx.Done():
		return io.EOF
	}
}

// BenchmarkEngine is the engine without gRPC: one endpoint of one service
// changes, and streams that ask for all services get and acknowledge it. One
// operation is one change.
func BenchmarkEngine(b *testing.B) {
	for _, p := range []protocol{delta, sotw} {
		for _, size := range []struct{ streams, services int }{{10, 100}, {100, 100}, {100, 1000}} {
			b.Run(fmt.Sprintf("%s/streams=%d/services=%d", p, size.streams, size.services), func(b *testing.B) {
				e := newEngine(p, size.streams, size.services)
				defer e.close()
				b.ReportAllocs()
				for b.Loop() {
					e.change()
				}
			})
		}
	}
}

// What a stream costs depends on the size of the change, and on nothing else:
// not on the number of services, and hardly on the number of streams. The
// bounds are about a tenth above what it takes; time has none.
func TestWhatAStreamAllocates(t *testing.T) {
	type cost struct{ allocs, bytes float64 }
	for _, tt := range []struct {
		protocol     protocol
		services     int
		sync, change cost
	}{
		{delta, 100, cost{72, 12_000}, cost{18, 1100}},
		{delta, 1000, cost{72, 28_000}, cost{18, 1100}}, // the client names them all, in 16 KB
		{sotw, 100, cost{78, 14_000}, cost{19, 2600}},   // and in SotW with each answer
		{sotw, 1000, cost{78, 60_000}, cost{19, 17_000}},
	} {
		t.Run(fmt.Sprintf("%s, %d services", tt.protocol, tt.services), func(t *testing.T) {
			measure := func(n int, f func()) cost {
				runtime.GC()
				before := memStats()
				f()
				after := memStats()
				return cost{
					float64(after.Mallocs-before.Mallocs) / float64(n),
					float64(after.TotalAlloc-before.TotalAlloc) / float64(n),
				}
			}
			within := func(what string, got, want cost) bool {
				t.Logf("%s: %.1f allocations and %.0f bytes a stream, of at most %.0f and %.0f",
					what, got.allocs, got.bytes, want.allocs, want.bytes)
				return got.allocs <= want.allocs && got.bytes <= want.bytes
			}
			// The whole process is counted, so on a busy machine one try may find
			// more than the streams'.
			for range 3 {
				e := newEngine(tt.protocol, 10, tt.services)
				sync := measure(40, func() { e.open(40) })
				for range 20 {
					e.change()
				}
				change := measure(100*e.streams, func() {
					for range 100 {
						e.change()
					}
				})
				e.close()
				if within("a first sync", sync, tt.sync) && within("a change", change, tt.change) {
					return
				}
			}
			t.Error("more than that in each of three tries")
		})
	}
}

// BenchmarkPublish changes an endpoint of a scope with one stream each of so many
// profiles. What is timed holds the server's lock.
func BenchmarkPublish(b *testing.B) {
	for _, profiles := range []int{1, 1000, 20_000} {
		b.Run(fmt.Sprintf("profiles=%d", profiles), func(b *testing.B) {
			s := testServer()
			w := newWorld(s, cluster("a", "1"), endpoint("a", "0"))
			publish(s, w)
			for i := range profiles {
				p := resource.Profile{Service: "nexus", AppPort: uint16(i), MeshPort: uint16(i >> 8)}
				publish(s, w.beside(p))
				st := &stream{server: s, node: &wire.Node{ID: fmt.Sprint("nexus-", i), Cluster: "nexus"}, wakeup: make(chan struct{}, 1)}
				if err := s.identify(st, p); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w.put(endpoint("a", fmt.Sprint(i)))
				s.Publish(scopeOnly{snapshot{w}})
			}
		})
	}
}

// scopeOnly is a snapshot in which no proxy has anything new of its own.
type scopeOnly struct{ snapshot }

func (s scopeOnly) Changed() ([]*resource.Scope, []*resource.View) {
	scopes, _ := s.snapshot.Changed()
	return scopes, nil
}
