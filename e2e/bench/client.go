package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
)

// fleet is the proxies: ADS streams, each on a connection of its own, that ask
// for all clusters and for the endpoints of their services by name, and
// acknowledge everything at once.
type fleet struct {
	w        world
	creds    credentials.TransportCredentials
	sidecars bool // they are those of Consul's own mesh
	streams  []*proxy
	bytes    atomic.Int64
	failed   atomic.Pointer[error]
	arrived  atomic.Pointer[func(arrival)]
}

// arrival is an assignment that a stream got after it had all.
type arrival struct {
	stream, service int
	place           int // of its first instance
	at, acked       time.Time
}

// proxy is one stream.
type proxy struct {
	fleet  *fleet
	id     int
	stream grpc.ClientStream
	close  func()

	endpoints request             // by name
	routes    request             // likewise
	asked     map[string]struct{} // the clusters of Consul's that it has asked for by name
	want      int                 // services that it does not have yet
	have      []bool              // by the number of the service
	full      chan struct{}
	news      []arrival // in the response at hand
}

// request is an encoded DiscoveryRequest, or its delta variant, that lacks what
// differs from one to the next.
type request struct {
	url  string
	body encoded // the subscription, which SotW repeats in each
}

// message is the request, as an answer to a response if there is a nonce.
func (r request) message(sotw bool, version, nonce []byte) encoded {
	if !sotw {
		if nonce == nil {
			return protowire.AppendString(protowire.AppendTag(r.body[:len(r.body):len(r.body)], 2, protowire.BytesType), r.url)
		}
		m := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), r.url)
		return protowire.AppendBytes(protowire.AppendTag(m, 6, protowire.BytesType), nonce)
	}
	m := append(make(encoded, 0, len(r.body)+128), r.body...)
	m = protowire.AppendString(protowire.AppendTag(m, 4, protowire.BytesType), r.url)
	if nonce != nil {
		m = protowire.AppendBytes(protowire.AppendTag(m, 1, protowire.BytesType), version)
		m = protowire.AppendBytes(protowire.AppendTag(m, 5, protowire.BytesType), nonce)
	}
	return m
}

// named is the request for resources by their names.
func named(url string, names []string) request {
	var body encoded // resource_names, and resource_names_subscribe: both are field 3
	for _, name := range names {
		body = protowire.AppendString(protowire.AppendTag(body, 3, protowire.BytesType), name)
	}
	return request{url: url, body: body}
}

// connectTime bounds how long all streams may take until each has all.
const connectTime = 5 * time.Minute

// connect opens all streams and waits until each has everything.
func connect(ctx context.Context, s *subject, w world) (*fleet, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	f := &fleet{w: w, creds: s.creds, sidecars: s.sidecars}
	var shared, routes request // where all ask the same
	for i := range w.Streams {
		names := w.upstreams(i)
		if shared.url == "" || w.Scope > 0 {
			shared, routes = named(resource.Endpoint.URL(), w.parts(names)), named(resource.Route.URL(), routed(names))
		}
		p, err := f.open(s.xds, i, shared, routes, len(names))
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
			f.stop()
			return nil, fmt.Errorf("stream %d does not have its %d assignments: %w", p.id, p.want, ctx.Err())
		}
	}
	return f, nil
}

func (f *fleet) open(addr string, id int, endpoints, routes request, want int) (*proxy, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(f.creds),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newRawCodec()), grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithReadBufferSize(0), grpc.WithNoProxy())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &proxy{
		fleet: f, id: id, endpoints: endpoints, routes: routes, want: want,
		have: make([]bool, f.w.Services), full: make(chan struct{}),
		close: func() { cancel(); _ = conn.Close() },
	}
	desc := grpc.StreamDesc{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true}
	if f.w.SotW {
		desc.StreamName = "StreamAggregatedResources"
	}
	if p.stream, err = conn.NewStream(ctx, &desc, "/envoy.service.discovery.v3.AggregatedDiscoveryService/"+desc.StreamName); err != nil {
		p.close()
		return nil, err
	}
	// The node is field 1 of a delta request and field 2 of the other.
	var hello proto.Message = &discovery.DeltaDiscoveryRequest{Node: f.node(id), TypeUrl: resource.Cluster.URL()}
	if f.w.SotW {
		hello = &discovery.DiscoveryRequest{Node: f.node(id), TypeUrl: resource.Cluster.URL()}
	}
	first, err := proto.Marshal(hello)
	if err == nil {
		err = p.stream.SendMsg(encoded(first))
	}
	if f.sidecars {
		p.asked = make(map[string]struct{}) // it learns the names from its clusters
	} else {
		err = errors.Join(err, p.stream.SendMsg(p.endpoints.message(f.w.SotW, nil, nil)))
	}
	if f.w.Routed {
		all := request{url: resource.ScopedRoute.URL()}
		err = errors.Join(err, p.stream.SendMsg(all.message(f.w.SotW, nil, nil)), p.stream.SendMsg(p.routes.message(f.w.SotW, nil, nil)))
	}
	if err != nil {
		p.close()
		return nil, err
	}
	go p.run()
	return p, nil
}

// node is who a stream says it is.
func (f *fleet) node(id int) *corev3.Node {
	text := structpb.NewStringValue
	if f.sidecars {
		return &corev3.Node{
			Id: sidecarID(id), Cluster: "client",
			Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
				"node_name": text(sidecarNode(id)), "namespace": text("default"), "partition": text("default"),
			}},
			UserAgentName: "envoy",
			UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
				Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 29, Patch: 7}, // the newest that Consul 1.19 knows
			}},
		}
	}
	service := f.w.client(id)
	return &corev3.Node{
		Id: service + "-" + strconv.Itoa(id), Cluster: service, UserAgentName: "envoy",
		Metadata: metadata(f.w.profile(id)),
	}
}

func (p *proxy) run() {
	for {
		var m encoded
		err := p.stream.RecvMsg(&m)
		if err == nil {
			err = p.take(m, time.Now())
		}
		if err != nil {
			p.fleet.failed.CompareAndSwap(nil, &err)
			return
		}
	}
}

// take acknowledges a response and says what was in it.
func (p *proxy) take(m encoded, at time.Time) error {
	p.fleet.bytes.Add(int64(len(m)))
	// What is wanted of a response has the same number in both variants.
	answers := request{url: string(field(m, 4))}
	p.news = p.news[:0]
	if answers.url == resource.Endpoint.URL() {
		answers.body = p.endpoints.body
		p.assignments(m, at)
	}
	if answers.url == resource.Route.URL() {
		answers.body = p.routes.body
		p.configurations(m, at)
	}
	var version []byte
	if p.fleet.w.SotW {
		version = field(m, 1)
	}
	if err := p.stream.SendMsg(answers.message(p.fleet.w.SotW, version, field(m, 5))); err != nil {
		return err
	}
	if arrived := p.fleet.arrived.Load(); arrived != nil {
		acked := time.Now()
		for _, a := range p.news {
			a.acked = acked
			(*arrived)(a)
		}
	}
	if p.fleet.sidecars && answers.url == resource.Cluster.URL() {
		return p.askFor(clusterNames(m))
	}
	return nil
}

// askFor subscribes to the endpoints of clusters that are new: Consul alone
// knows how it names them, and it does not know all at once.
func (p *proxy) askFor(names []string) error {
	names = slices.DeleteFunc(names, func(name string) bool {
		_, asked := p.asked[name]
		p.asked[name] = struct{}{}
		return asked
	})
	if len(names) == 0 {
		return nil
	}
	return p.stream.SendMsg(named(resource.Endpoint.URL(), names).message(false, nil, nil))
}

// clusterNames are those of a delta response's clusters that are services.
func clusterNames(m []byte) (names []string) {
	fields(m, func(num protowire.Number, res []byte, _ uint64) {
		if name := field(res, 3); num == 2 && serviceNumber(name) >= 0 {
			names = append(names, string(name))
		}
	})
	return names
}

// assignments counts assignments until the stream has all, and then notes each
// that comes.
func (p *proxy) assignments(m encoded, at time.Time) {
	fields(m, func(num protowire.Number, res []byte, _ uint64) {
		if num != 2 {
			return
		}
		body := field(res, 2) // an Any's value, or a Resource's Any
		name := field(res, 3)
		if p.fleet.w.SotW {
			name = field(body, 1)
		} else {
			body = field(body, 2)
		}
		a := arrival{stream: p.id, service: serviceNumber(name), place: place(body), at: at}
		switch {
		case bytes.IndexByte(name, '|') >= 0: // of a subset
		case a.service < 0 || a.place < 0:
		case p.want == 0:
			p.news = append(p.news, a)
		case !p.have[a.service]:
			p.have[a.service] = true
			if p.want--; p.want == 0 {
				close(p.full)
				p.have = nil
			}
		}
	})
}

// observe has f called for each assignment that comes from now on, from many
// goroutines.
func (f *fleet) observe(arrived func(arrival)) { f.arrived.Store(&arrived) }

func (f *fleet) stop() {
	for _, p := range f.streams {
		p.close()
	}
}

// metadata is what a bootstrap says of a proxy.
func metadata(p resource.Profile) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		"address":       structpb.NewStringValue(p.Address),
		"app_port":      structpb.NewNumberValue(float64(p.AppPort)),
		"mesh_port":     structpb.NewNumberValue(float64(p.MeshPort)),
		"outbound_port": structpb.NewNumberValue(float64(p.OutboundPort)),
	}}
}
