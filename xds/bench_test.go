package xds

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"datapunk.dev/controlplane/translate"
)

// assignmentOf returns a ClusterLoadAssignment of ten instances.
func assignmentOf(name, version string) *translate.Resource {
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
	return &translate.Resource{Type: translate.Endpoint, Name: name, Version: version, Body: body}
}

// clusterOf returns a cluster of the size of a real one.
func clusterOf(name string) *translate.Resource {
	r := cluster(name, "1")
	r.Body = append(r.Body, 0xfa, 0x3f, 0xbc, 0x05) // field 1023, 700 bytes
	r.Body = append(r.Body, make([]byte, 700)...)
	return r
}

func benchWorld(s *Server, services int) (*world, []string) {
	w := newWorld(s)
	names := make([]string, services)
	all := make([]*translate.Resource, 0, 2*services)
	for i := range services {
		names[i] = fmt.Sprintf("service-%04d", i)
		all = append(all, clusterOf(names[i]), assignmentOf(names[i], "1"))
	}
	w.put(all...).publish()
	return w, names
}

// loop is a stream without a transport whose client acknowledges everything
// at once: what is left is the cost of the engine.
type loop struct {
	ctx   context.Context
	codec codec
	in    chan *discovery.DeltaDiscoveryRequest
	acked func(typeURL string)
}

func (l *loop) Context() context.Context     { return l.ctx }
func (l *loop) SetHeader(metadata.MD) error  { return nil }
func (l *loop) SendHeader(metadata.MD) error { return nil }
func (l *loop) SetTrailer(metadata.MD)       {}

func (l *loop) SendMsg(m any) error {
	f := m.(*frame)
	tail := f.data[len(f.data)-1].ReadOnlyData()
	// The nonce is the last field: tag, length, digits.
	i := len(tail)
	for tail[i-1] >= '0' && tail[i-1] <= '9' {
		i--
	}
	select {
	case l.in <- &discovery.DeltaDiscoveryRequest{TypeUrl: eds.URL(), ResponseNonce: string(tail[i:])}:
		return nil
	case <-l.ctx.Done():
		return io.EOF
	}
}

func (l *loop) RecvMsg(m any) error {
	select {
	case r := <-l.in:
		b, err := proto.Marshal(r)
		if err != nil {
			return err
		}
		if r.ResponseNonce != "" {
			defer l.acked(r.TypeUrl)
		}
		return l.codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m)
	case <-l.ctx.Done():
		return io.EOF
	}
}

// BenchmarkEngine is the engine without gRPC: one endpoint of one service
// changes, and streams that ask for all services get and acknowledge it. One
// operation is one stream's part of one change.
func BenchmarkEngine(b *testing.B) {
	for _, size := range []struct{ streams, services int }{{10, 100}, {100, 100}, {100, 1000}} {
		b.Run(fmt.Sprintf("streams=%d/services=%d", size.streams, size.services), func(b *testing.B) {
			s := testServer()
			w, names := benchWorld(s, size.services)
			ctx, cancel := context.WithCancel(context.Background())
			var handlers, pending sync.WaitGroup
			pending.Add(size.streams)
			for i := range size.streams {
				l := &loop{ctx: ctx, codec: newCodec(), in: make(chan *discovery.DeltaDiscoveryRequest, 1), acked: func(string) { pending.Done() }}
				handlers.Go(func() { _ = s.serve(delta, l, "") })
				l.in <- &discovery.DeltaDiscoveryRequest{
					Node: &corepb.Node{Id: strconv.Itoa(i), Cluster: "nexus"}, TypeUrl: eds.URL(), ResourceNamesSubscribe: names,
				}
			}
			pending.Wait()
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += size.streams {
				pending.Add(size.streams)
				w.put(assignmentOf(names[n%len(names)], strconv.Itoa(n+2))).publish()
				pending.Wait()
			}
			b.StopTimer()
			cancel()
			handlers.Wait()
		})
	}
}
