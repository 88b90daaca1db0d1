package main

import (
	"fmt"
	"sync"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// floor is the least that a gRPC server can do: it knows beforehand what each
// stream will ask for, sends bytes that it encoded before the stream began, and
// reads the answers without looking at them.
type floor struct {
	w     world
	full  map[string][2]encoded // by the client's service: clusters, endpoints
	names map[string]map[string]bool

	mu       sync.Mutex
	prepared map[[2]int]encoded      // by service and place
	streams  map[chan encoded]string // the client's service of each
}

// encoded is a message that needs no encoding.
type encoded []byte

// rawCodec passes encoded messages and leaves received ones unread.
type rawCodec struct{ encoding.CodecV2 }

func newRawCodec() rawCodec { return rawCodec{encoding.GetCodecV2("proto")} }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if b, ok := v.(*encoded); ok {
		*b = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

func newFloor(w world) (*floor, error) {
	f := &floor{
		w: w, full: make(map[string][2]encoded), names: make(map[string]map[string]bool),
		prepared: make(map[[2]int]encoded), streams: make(map[chan encoded]string),
	}
	views, err := w.views(w.catalog())
	if err != nil {
		return nil, err
	}
	for client, v := range views {
		f.full[client] = [2]encoded{
			respond(resource.Cluster.URL(), v[resource.Cluster]), respond(resource.Endpoint.URL(), v[resource.Endpoint]),
		}
		f.names[client] = make(map[string]bool)
		for r := range v[resource.Endpoint].All() {
			f.names[client][r.Name] = true
		}
	}
	return f, nil
}

func respond(url string, set *resource.Set) encoded {
	r := &discovery.DeltaDiscoveryResponse{TypeUrl: url, Nonce: "1", SystemVersionInfo: "1"}
	for res := range set.All() {
		r.Resources = append(r.Resources, &discovery.Resource{
			Name: res.Name, Version: res.Version, Resource: &anypb.Any{TypeUrl: url, Value: res.Body},
		})
	}
	b, err := proto.Marshal(r)
	if err != nil {
		panic(err) // made of what was decoded before
	}
	return b
}

func (f *floor) options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ForceServerCodecV2(newRawCodec()), grpc.MaxRecvMsgSize(32 << 20)}
}

func (f *floor) register(g *grpc.Server) {
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.discovery.v3.AggregatedDiscoveryService",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error { return f.stream(s) },
		}},
	}, f)
}

func (f *floor) stream(s grpc.ServerStream) error {
	var first encoded
	if err := s.RecvMsg(&first); err != nil {
		return err
	}
	client := nodeCluster(first)
	full, ok := f.full[client]
	if !ok {
		return fmt.Errorf("no stream of %q was expected", client)
	}
	if err := s.SendMsg(full[0]); err != nil {
		return err
	}
	out := make(chan encoded, 64)
	failed := make(chan error, 1)
	go func() {
		for asked := false; ; {
			var m encoded
			if err := s.RecvMsg(&m); err != nil {
				failed <- err
				return
			}
			if !asked && hasNames(m) {
				asked = true
				out <- full[1]
				f.mu.Lock()
				f.streams[out] = client
				f.mu.Unlock()
			}
		}
	}()
	for {
		select {
		case err := <-failed:
			f.mu.Lock()
			delete(f.streams, out)
			f.mu.Unlock()
			return err
		case b := <-out:
			if err := s.SendMsg(b); err != nil {
				return err
			}
		}
	}
}

// prepare encodes the response that the change will need.
func (f *floor) prepare(service, n int) error {
	one := f.w.service(service, n)
	views, err := world{Streams: 1}.views(watch.NewCatalog().Update([]*watch.Service{one}, nil))
	if err != nil {
		return err
	}
	changed := resource.NewSet(views["client"][resource.Endpoint].Get(one.Name))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.prepared[[2]int{service, n}] = respond(resource.Endpoint.URL(), changed)
	return nil
}

// change sends the one resource that changed to those who asked for it.
func (f *floor) change(service, n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.prepared[[2]int{service, n}]
	if !ok {
		return fmt.Errorf("change %d of service %d was not prepared", n, service)
	}
	delete(f.prepared, [2]int{service, n})
	name := serviceName(service)
	for out, client := range f.streams {
		if f.names[client][name] {
			out <- b
		}
	}
	return nil
}

// nodeCluster reads node.cluster of a DeltaDiscoveryRequest.
func nodeCluster(b []byte) string {
	return string(field(field(b, 1), 2))
}

// hasNames reports whether a DeltaDiscoveryRequest subscribes to anything.
func hasNames(b []byte) bool { return field(b, 3) != nil }
