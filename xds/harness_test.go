package xds

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	runtimepb "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const (
	delta = wire.Delta
	sotw  = wire.SotW
)

type protocol = wire.Protocol

// The tests speak to the stream handlers as gRPC would, in a bubble of
// testing/synctest: time is fake, and "nothing more is sent" is a fact, not a
// pause. Messages pass through the codec in both directions.

// res returns a resource with an encoded message of its type.
func res(t resource.Type, name, version string, refs ...resource.Ref) *resource.Resource {
	var m proto.Message
	switch t {
	case resource.Runtime:
		m = &runtimepb.Runtime{Name: name, Layer: &structpb.Struct{Fields: map[string]*structpb.Value{"version": structpb.NewStringValue(version)}}}
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
	case resource.Extension:
		m = &corepb.TypedExtensionConfig{Name: name, TypedConfig: &anypb.Any{TypeUrl: version}}
	case resource.ScopedRoute:
		m = &routepb.ScopedRouteConfiguration{Name: name, RouteConfigurationName: version}
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
		refs = append(refs, resource.Cluster.Ref(c))
	}
	return res(resource.Route, name, version, refs...)
}

// world is the configuration of one profile, changed step by step.
type world struct {
	server  *Server
	profile resource.Profile
	scope   string // the key of its scope
	// owns says which resources are the proxies' own; the others are the scope's.
	owns       func(resource.Type, string) bool
	shared, of resource.Sets
}

// newWorld returns a world with the resources, unpublished.
func newWorld(s *Server, resources ...*resource.Resource) *world {
	w := &world{server: s, owns: func(t resource.Type, _ string) bool { return t == resource.Listener }}
	w.be(resource.Profile{Service: "nexus"})
	w.scope = w.profile.Key()
	for t := range w.of {
		w.of[t], w.shared[t] = resource.NewSet(), resource.NewSet()
	}
	w.put(resources...)
	return w
}

// be makes the world another profile's, in a scope of its own.
func (w *world) be(p resource.Profile) *world {
	w.profile, w.scope = p, p.Key()
	return w
}

// beside returns a world of another profile that sees the same, in the same
// scope.
func (w *world) beside(p resource.Profile) *world {
	o := *w
	o.profile = p
	return &o
}

func (w *world) half(t resource.Type, name string) **resource.Set {
	if w.owns(t, name) {
		return &w.of[t]
	}
	return &w.shared[t]
}

func (w *world) get(t resource.Type, name string) *resource.Resource {
	return (*w.half(t, name)).Get(name)
}

// all are the resources of a type, of both halves.
func (w *world) all(t resource.Type) (all []*resource.Resource) {
	return slices.AppendSeq(slices.Collect(w.shared[t].All()), w.of[t].All())
}

func (w *world) put(resources ...*resource.Resource) *world {
	halves := map[**resource.Set][]*resource.Resource{}
	for _, r := range resources {
		h := w.half(r.Type, r.Name)
		halves[h] = append(halves[h], r)
	}
	for h, rs := range halves {
		*h = (*h).Update(rs, nil)
	}
	return w
}

func (w *world) remove(t resource.Type, names ...string) *world {
	for _, name := range names {
		h := w.half(t, name)
		*h = (*h).Update(nil, []string{name})
	}
	return w
}

func (w *world) publish() { publish(w.server, w) }

// publish makes the worlds, as they are now, all that there is.
func publish(s *Server, worlds ...*world) {
	var all snapshot
	for _, w := range worlds {
		now := *w
		all = append(all, &now)
	}
	s.Publish(all)
}

// snapshot is all that there is, and all of it may have changed.
type snapshot []*world

func (s snapshot) Scope(key string) *resource.Scope {
	for _, w := range s {
		if w.scope == key {
			return &resource.Scope{Key: key, Kind: w.profile.Kind, Sets: w.shared}
		}
	}
	return nil
}

func (s snapshot) View(p resource.Profile) *resource.View {
	for _, w := range s {
		if w.profile == p {
			return &resource.View{Profile: p, Scope: w.scope, Own: w.of}
		}
	}
	return nil
}

func (s snapshot) Changed() (scopes []*resource.Scope, views []*resource.View) {
	for _, w := range s {
		if !slices.ContainsFunc(scopes, func(s *resource.Scope) bool { return s.Key == w.scope }) {
			scopes = append(scopes, s.Scope(w.scope))
		}
		views = append(views, s.View(w.profile))
	}
	return scopes, views
}

// testServer returns a server with quiet logs.
func testServer(change ...func(*Options)) *Server {
	o := Options{Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	return New(o)
}

// What a test sees of a server that clients do not.

// view is what the connected proxies of the world's profile are to have.
func (w *world) view() *view { return w.server.slots[w.profile].load() }

// illegal collects names of clients that are in a state that there must not be, as
// their streams see it after each push.
type illegal struct {
	mu     sync.Mutex
	states []error
}

func watchStates(s *Server) *illegal {
	found := &illegal{}
	s.pushed = func(st *stream) {
		for i := range st.types {
			for name, n := range st.types[i].names {
				if err := n.check(); err != nil {
					found.mu.Lock()
					found.states = append(found.states, fmt.Errorf("%s %s of %s: %w", st.types[i].typ, name, st.node.ID, err))
					found.mu.Unlock()
				}
			}
		}
	}
	return found
}

func (f *illegal) check(t rapid.TB) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.states) > 0 {
		t.Fatalf("%v", errors.Join(f.states...))
	}
}

// unansweredChanges returns how many changes of responses that were not answered
// all streams remember.
func (s *Server) unansweredChanges(t resource.Type) (n int) {
	synctest.Wait()
	for st := range s.streams {
		for _, r := range st.types[t].inflight {
			n += len(r.changes)
		}
	}
	return n
}

// wantEmpty fails the test if the server still holds something of a client.
func (s *Server) wantEmpty(t *testing.T) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams)+len(s.slots)+len(s.nodes)+len(s.served.plain) != 0 {
		t.Errorf("left: %d streams, %d slots, %d nodes, %d served sets", len(s.streams), len(s.slots), len(s.nodes), len(s.served.plain))
	}
	if n := len(s.budget.nodes); n != 0 {
		t.Errorf("names of %d nodes are counted", n)
	}
	if n := testutil.ToFloat64(s.metrics.panics); n != 0 {
		t.Errorf("%v panics", n)
	}
}
