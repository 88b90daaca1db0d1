package xds

import (
	"iter"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// The tests speak to the stream handlers as gRPC would, in a bubble of
// testing/synctest: time is fake, and "nothing more is sent" is a fact, not a
// pause. Messages pass through the codec in both directions.

// res returns a resource with an encoded message of its type.
func res(t resource.Type, name, version string, refs ...resource.Ref) *resource.Resource {
	var m proto.Message
	switch t {
	case resource.Cluster:
		m = &clusterpb.Cluster{Name: name, AltStatName: version}
	case resource.Endpoint:
		m = &endpointpb.ClusterLoadAssignment{
			ClusterName: name, NamedEndpoints: map[string]*endpointpb.Endpoint{version: {}},
		}
	case resource.Secret:
		m = &tlspb.Secret{Name: name}
	case resource.Listener:
		m = &listenerpb.Listener{Name: name, StatPrefix: version}
	case resource.Route:
		m = &routepb.RouteConfiguration{Name: name, InternalOnlyHeaders: []string{version}}
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &resource.Resource{Type: t, Name: name, Version: version, Body: body, Keys: []string{"key." + name}, Refs: refs}
}

func cluster(name, version string) *resource.Resource { return res(resource.Cluster, name, version) }

func endpoint(name, version string) *resource.Resource {
	return res(resource.Endpoint, name, version)
}

func secret(name, version string) *resource.Resource { return res(resource.Secret, name, version) }

func listener(name, version string, refs ...resource.Ref) *resource.Resource {
	return res(resource.Listener, name, version, refs...)
}

func route(name, version string, clusters ...string) *resource.Resource {
	var refs []resource.Ref
	for _, c := range clusters {
		refs = append(refs, resource.Ref{Type: resource.Cluster, Name: c})
	}
	return res(resource.Route, name, version, refs...)
}

// world is the configuration of one profile, changed step by step.
type world struct {
	server  *Server
	profile resource.Profile
	sets    [resource.NumTypes]*resource.Set
}

// of returns a world with the resources, unpublished.
func newWorld(s *Server, resources ...*resource.Resource) *world {
	w := &world{server: s, profile: resource.Profile{Service: "nexus"}}
	for t := range w.sets {
		w.sets[t] = resource.NewSet()
	}
	w.put(resources...)
	return w
}

func (w *world) put(resources ...*resource.Resource) *world {
	byType := map[resource.Type][]*resource.Resource{}
	for _, r := range resources {
		byType[r.Type] = append(byType[r.Type], r)
	}
	for t, rs := range byType {
		w.sets[t] = w.sets[t].Update(rs, nil)
	}
	return w
}

func (w *world) remove(t resource.Type, names ...string) *world {
	w.sets[t] = w.sets[t].Update(nil, names)
	return w
}

func (w *world) publish() {
	v := &resource.View{Profile: w.profile, Sets: w.sets}
	w.server.publish(views{v}, []*resource.View{v})
}

// views are all that a snapshot holds.
type views []*resource.View

func (v views) Views() iter.Seq[*resource.View] { return slices.Values(v) }

func (v views) View(p resource.Profile) *resource.View {
	for _, view := range v {
		if view.Profile == p {
			return view
		}
	}
	return nil
}

// testServer returns a server with quiet logs.
func testServer(change ...func(*Options)) *Server {
	o := Options{Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	return New(o)
}
