package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// fleet is the proxies: delta ADS streams, each on a connection of its own,
// that ask for all clusters and for the endpoints of their services by name,
// and acknowledge everything at once.
type fleet struct {
	w       world
	streams []*proxy
	bytes   atomic.Int64
	failed  atomic.Pointer[error]

	mu      sync.Mutex
	arrived func(stream, service, n int, at time.Time)
}

// proxy is one stream.
type proxy struct {
	fleet  *fleet
	id     int
	stream grpc.ClientStream
	want   int           // services
	full   chan struct{} // closed once it has every assignment
	have   int
	close  func()
}

var adsStream = grpc.StreamDesc{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true}

const adsMethod = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

// connect opens all streams and waits until each has everything.
func connect(ctx context.Context, addr string, w world) (*fleet, error) {
	f := &fleet{w: w}
	var shared encoded // the request for endpoints, where all ask the same
	for i := range w.Streams {
		names := w.upstreams(i)
		if shared == nil || w.Scope > 0 {
			shared = marshal(&discovery.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNamesSubscribe: names})
		}
		p, err := f.open(ctx, addr, i, shared, len(names))
		if err != nil {
			f.stop()
			return nil, fmt.Errorf("stream %d: %w", i, err)
		}
		f.streams = append(f.streams, p)
	}
	for _, p := range f.streams {
		select {
		case <-p.full:
		case <-ctx.Done():
			err := fmt.Errorf("stream %d has %d of %d assignments: %w", p.id, p.have, p.want, ctx.Err())
			f.stop()
			return nil, err
		}
	}
	return f, nil
}

func (f *fleet) open(ctx context.Context, addr string, id int, endpoints encoded, want int) (*proxy, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newRawCodec()), grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithReadBufferSize(0), grpc.WithNoProxy())
	if err != nil {
		return nil, err
	}
	stream, err := conn.NewStream(ctx, &adsStream, adsMethod)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	p := &proxy{fleet: f, id: id, stream: stream, want: want, full: make(chan struct{}), close: func() { _ = conn.Close() }}
	service := f.w.client(id)
	err = errors.Join(
		stream.SendMsg(marshal(&discovery.DeltaDiscoveryRequest{
			TypeUrl: resource.ClusterType,
			Node: &corev3.Node{
				Id: service + "-" + strconv.Itoa(id), Cluster: service, UserAgentName: "envoy",
				Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"outbound_port": structpb.NewNumberValue(15001)}},
			},
		})),
		stream.SendMsg(endpoints),
	)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	go p.run()
	return p, nil
}

func marshal(m proto.Message) encoded {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // made here
	}
	return b
}

func (p *proxy) run() {
	for {
		var m encoded
		if err := p.stream.RecvMsg(&m); err != nil {
			p.fleet.failed.CompareAndSwap(nil, &err)
			return
		}
		at := time.Now()
		p.fleet.bytes.Add(int64(len(m)))
		url := field(m, 4)
		if string(url) == resource.EndpointType {
			p.endpoints(m, at)
		}
		ack := protowire.AppendTag(nil, 2, protowire.BytesType)
		ack = protowire.AppendBytes(ack, url)
		ack = protowire.AppendTag(ack, 6, protowire.BytesType)
		ack = protowire.AppendBytes(ack, field(m, 5))
		if err := p.stream.SendMsg(encoded(ack)); err != nil {
			return
		}
	}
}

// endpoints counts assignments until the stream has all, and then says of each
// that comes which change it is.
func (p *proxy) endpoints(m encoded, at time.Time) {
	b := []byte(m)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		b = b[n:]
		if num != 2 || typ != protowire.BytesType {
			b = b[protowire.ConsumeFieldValue(num, typ, b):]
			continue
		}
		res, n := protowire.ConsumeBytes(b)
		b = b[n:]
		if p.have < p.want {
			p.have++
			if p.have == p.want {
				close(p.full)
			}
			continue
		}
		p.fleet.mu.Lock()
		arrived := p.fleet.arrived
		p.fleet.mu.Unlock()
		if arrived != nil {
			service, _ := strconv.Atoi(string(field(res, 3))[len("service-"):])
			arrived(p.id, service, place(field(field(res, 2), 2)), at)
		}
	}
}

// place is how often the first instance of an assignment has moved.
func place(body []byte) int {
	var m endpointv3.ClusterLoadAssignment
	if err := proto.Unmarshal(body, &m); err != nil {
		return -1
	}
	return int(m.GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().GetPortValue()) - 20000
}

// observe has f called for each assignment that comes from now on.
func (f *fleet) observe(arrived func(stream, service, n int, at time.Time)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arrived = arrived
}

func (f *fleet) stop() {
	for _, p := range f.streams {
		p.close()
	}
}
