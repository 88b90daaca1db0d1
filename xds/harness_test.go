package xds

import (
	"iter"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/proto"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"datapunk.dev/controlplane/translate"
)

// The tests speak to the stream handlers as gRPC would, in a bubble of
// testing/synctest: time is fake, and "nothing more is sent" is a fact, not a
// pause. Messages pass through the codec in both directions.

// res returns a resource with an encoded message of its type.
func res(t translate.Type, name, version string, refs ...translate.Ref) *translate.Resource {
	var m proto.Message
	switch t {
	case translate.Cluster:
		m = &clusterpb.Cluster{Name: name, AltStatName: version}
	case translate.Endpoint:
		m = &endpointpb.ClusterLoadAssignment{
			ClusterName: name, NamedEndpoints: map[string]*endpointpb.Endpoint{version: {}},
		}
	case translate.Secret:
		m = &tlspb.Secret{Name: name}
	case translate.Listener:
		m = &listenerpb.Listener{Name: name, StatPrefix: version}
	case translate.Route:
		m = &routepb.RouteConfiguration{Name: name, InternalOnlyHeaders: []string{version}}
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &translate.Resource{Type: t, Name: name, Version: version, Body: body, Keys: []string{"key." + name}, Refs: refs}
}

func cluster(name, version string) *translate.Resource { return res(translate.Cluster, name, version) }

func endpoint(name, version string) *translate.Resource {
	return res(translate.Endpoint, name, version)
}

func secret(name, version string) *translate.Resource { return res(translate.Secret, name, version) }

func listener(name, version string, refs ...translate.Ref) *translate.Resource {
	return res(translate.Listener, name, version, refs...)
}

func route(name, version string, clusters ...string) *translate.Resource {
	var refs []translate.Ref
	for _, c := range clusters {
		refs = append(refs, translate.Ref{Type: translate.Cluster, Name: c})
	}
	return res(translate.Route, name, version, refs...)
}

// world is the configuration of one profile, changed step by step.
type world struct {
	server  *Server
	profile translate.Profile
	sets    [translate.NumTypes]*translate.Set
}

// of returns a world with the resources, unpublished.
func newWorld(s *Server, resources ...*translate.Resource) *world {
	w := &world{server: s, profile: translate.Profile{Service: "nexus"}}
	for t := range w.sets {
		w.sets[t] = translate.NewSet()
	}
	w.put(resources...)
	return w
}

func (w *world) put(resources ...*translate.Resource) *world {
	byType := map[translate.Type][]*translate.Resource{}
	for _, r := range resources {
		byType[r.Type] = append(byType[r.Type], r)
	}
	for t, rs := range byType {
		w.sets[t] = w.sets[t].Update(rs, nil)
	}
	return w
}

func (w *world) remove(t translate.Type, names ...string) *world {
	w.sets[t] = w.sets[t].Update(nil, names)
	return w
}

func (w *world) publish() {
	v := &translate.View{Profile: w.profile, Sets: w.sets}
	w.server.publish(views{v}, []*translate.View{v})
}

// views are all that a snapshot holds.
type views []*translate.View

func (v views) Views() iter.Seq[*translate.View] { return slices.Values(v) }

func (v views) View(p translate.Profile) *translate.View {
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
