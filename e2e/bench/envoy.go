package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	gcp "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/bootstrap"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/internal/tool"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
)

// What a change costs a real Envoy, by the clock of its process. A server that only
// hands over what translate made stands in the place of the control plane.

// oneConfiguration names the route configuration with the hosts of all services.
const oneConfiguration = "outbound"

// inEnvoy is an Envoy with all resources of a world.
type inEnvoy struct {
	*run.Envoy
	caches map[string]*cache.LinearCache // by type URL
	acked  chan error
	stop   func()
}

// content is the resources of a world by type URL and name.
type content map[string]map[string]types.Resource

// startInEnvoy starts an Envoy that has the content.
func startInEnvoy(ctx context.Context, name string, p resource.Profile, all content) (_ *inEnvoy, err error) {
	dir, err := os.MkdirTemp("", "bench-envoy-")
	if err != nil {
		return nil, err
	}
	e := &inEnvoy{caches: make(map[string]*cache.LinearCache), acked: make(chan error, 1024)}
	cleanup := []func(){func() { _ = os.RemoveAll(dir) }}
	e.stop = func() {
		for i := len(cleanup) - 1; i >= 0; i-- {
			cleanup[i]()
		}
	}
	defer func() {
		if err != nil {
			e.stop()
		}
	}()
	mux := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        make(map[string]cache.Cache),
	}
	for t := range resource.NumTypes {
		e.caches[t.URL()] = cache.NewLinearCache(t.URL(), cache.WithInitialResources(all[t.URL()]))
		mux.Caches[t.URL()] = e.caches[t.URL()]
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(g, gcp.NewServer(context.Background(), mux, gcp.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) error {
			if r.GetErrorDetail() != nil {
				e.acked <- errors.New(r.GetErrorDetail().GetMessage())
			} else if r.GetResponseNonce() != "" {
				e.acked <- nil
			}
			return nil
		},
	}))
	go func() { _ = g.Serve(listener) }()
	cleanup = append(cleanup, g.Stop)

	b, err := bootstrap.New(bootstrap.Options{
		Service: p.Service, NodeID: name, AppPort: p.AppPort, MeshPort: p.MeshPort, OutboundPort: p.OutboundPort, MetricsPort: p.MetricsPort, Address: p.Address,
		AdminSocket: filepath.Join(dir, "admin.sock"), XDSAddresses: []string{listener.Addr().String()}, Plaintext: true,
	})
	if err != nil {
		return nil, err
	}
	b.HdsConfig = nil // nobody answers it here
	text, err := bootstrap.YAML(b)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, err
	}
	e.Envoy, err = run.StartEnvoy(run.EnvoyOptions{Name: name, Dir: dir, Config: config, Socket: filepath.Join(dir, "admin.sock")})
	if err != nil {
		return nil, err
	}
	cleanup = append(cleanup, e.Kill)
	if err := e.WaitReady(ctx, time.Minute); err != nil {
		return nil, err
	}
	return e, nil
}

// settle waits until the Envoy has acknowledged nothing for a while, and says what it
// refused.
func (e *inEnvoy) settle() error {
	for {
		select {
		case err := <-e.acked:
			if err != nil {
				return err
			}
		case <-time.After(2 * time.Second):
			return nil
		}
	}
}

// take gives the Envoy other contents of a resource, and waits for its answer.
func (e *inEnvoy) take(t resource.Type, name string, r types.Resource) error {
	if err := e.caches[t.URL()].UpdateResource(name, r); err != nil {
		return err
	}
	select {
	case err := <-e.acked:
		return err
	case <-time.After(10 * time.Second):
		return fmt.Errorf("%s %s: no answer", t, name)
	}
}

// cost runs something, and returns the CPU of the Envoy for it in seconds.
func (e *inEnvoy) cost(do func() error) (float64, error) {
	before, err := processUsage(e.Pid())
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	time.Sleep(settle) // its workers take it up after the answer
	after, err := processUsage(e.Pid())
	return after.CPU - before.CPU, err
}

// edition is a world as one of its proxies is to have it, in a sequence of edits.
type edition struct {
	w        world
	profile  resource.Profile
	input    translate.Input
	snapshot *translate.Snapshot
	times    map[int]int
}

func newEdition(w world, p resource.Profile) (*edition, error) {
	m, err := w.mesh()
	if err != nil {
		return nil, err
	}
	e := &edition{w: w, profile: p, times: make(map[int]int)}
	e.input = translate.Input{Mesh: m, Catalog: w.catalog(), Roots: roots, Fleet: resource.NewFleet(p)}
	e.snapshot = translate.Translate(nil, e.input)
	return e, nil
}

// message decodes a resource.
func message(t resource.Type, r *resource.Resource) (types.Resource, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByURL(t.URL())
	if err != nil {
		return nil, err
	}
	m := kind.New().Interface()
	return m, proto.Unmarshal(r.Body, m)
}

// content is all of it.
func (e *edition) content() (content, error) {
	all := make(content)
	for t, set := range see(e.snapshot, e.profile) {
		of := make(map[string]types.Resource)
		for r := range set.All() {
			m, err := message(resource.Type(t), r)
			if err != nil {
				return nil, err
			}
			of[r.Name] = m
		}
		all[resource.Type(t).URL()] = of
	}
	return all, nil
}

// edit has a route of a service say something else, or moves its first instance, and
// returns what has changed.
func (e *edition) edit(t resource.Type, service, n int) (types.Resource, error) {
	name := serviceName(service)
	if t == resource.Route {
		name = routesPrefix + name
		e.times[service] = n
		m, err := e.w.edited(e.times)
		if err != nil {
			return nil, err
		}
		e.input.Mesh = m
	} else {
		e.input.Catalog = e.input.Catalog.Update([]*watch.Service{e.w.service(service, n)}, nil)
	}
	e.snapshot = translate.Translate(e.snapshot, e.input)
	r := e.snapshot.Scope(e.snapshot.View(e.profile).Scope).Sets[t].Get(name)
	if r == nil {
		return nil, fmt.Errorf("no %s %s", t, name)
	}
	return message(t, r)
}

// inOne has the listener lead to one route configuration with the hosts of all
// services, as it was before each had one of its own.
func inOne(all content) (content, *routev3.RouteConfiguration, error) {
	one := &routev3.RouteConfiguration{Name: oneConfiguration, IgnorePortInHostMatching: true}
	for _, r := range all[resource.ScopedRoute.URL()] {
		scope := r.(*routev3.ScopedRouteConfiguration)
		of := all[resource.Route.URL()][scope.GetRouteConfigurationName()].(*routev3.RouteConfiguration)
		if scope.GetName() != of.VirtualHosts[0].GetName() {
			continue // its other name
		}
		one.RequestHeadersToAdd, one.RequestHeadersToRemove = of.RequestHeadersToAdd, of.RequestHeadersToRemove
		one.VirtualHosts = append(one.VirtualHosts, amongOthers(of.VirtualHosts[0]))
	}
	old := make(content)
	for url, of := range all {
		old[url] = make(map[string]types.Resource)
		for name, r := range of {
			if l, ok := r.(*listenerv3.Listener); ok {
				var err error
				if r, err = byOneConfiguration(l); err != nil {
					return nil, nil, err
				}
			}
			if _, ok := r.(*routev3.ScopedRouteConfiguration); !ok {
				old[url][name] = r
			}
		}
	}
	old[resource.Route.URL()][oneConfiguration] = one
	return old, one, nil
}

// amongOthers is the host of a service among those of others.
func amongOthers(host *routev3.VirtualHost) *routev3.VirtualHost {
	host = proto.Clone(host).(*routev3.VirtualHost)
	host.Domains = []string{host.GetName(), host.GetName() + resource.HostSuffix}
	return host
}

func byOneConfiguration(l *listenerv3.Listener) (*listenerv3.Listener, error) {
	l = proto.Clone(l).(*listenerv3.Listener)
	chains := append([]*listenerv3.FilterChain{l.GetDefaultFilterChain()}, l.GetFilterChains()...)
	for _, chain := range chains {
		for _, filter := range chain.GetFilters() {
			var m hcmv3.HttpConnectionManager
			if !filter.GetTypedConfig().MessageIs(&m) {
				continue
			}
			if err := filter.GetTypedConfig().UnmarshalTo(&m); err != nil {
				return nil, err
			}
			scoped := m.GetScopedRoutes()
			if scoped == nil {
				continue
			}
			m.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: scoped.GetRdsConfigSource(), RouteConfigName: oneConfiguration}}
			packed, err := anypb.New(&m)
			if err != nil {
				return nil, err
			}
			filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
		}
	}
	return l, nil
}

// envoyCost is what a change costs an Envoy.
type envoyCost struct {
	Title string  `json:"title"`
	World world   `json:"world"`
	What  string  `json:"what"`
	Times int     `json:"times"`
	CPU   float64 `json:"cpu_ms"`
	Bytes float64 `json:"bytes"` // of the resource
}

// envoyCosts are those of a change of an endpoint, of an edit of one service's routes,
// and of the same where the routes of all services are one configuration. They take
// turns; what the Envoys do without any change is taken off.
func envoyCosts(ctx context.Context, w world, rounds, each int) ([]envoyCost, error) {
	ports := &tool.Ports{}
	defer ports.Close()
	on, err := ports.TakeN(8)
	if err != nil {
		return nil, err
	}
	profile := func(on []int) resource.Profile {
		return resource.Profile{
			Service: w.client(0), Address: "127.0.0.1",
			AppPort: uint16(on[0]), MeshPort: uint16(on[1]), OutboundPort: uint16(on[2]), MetricsPort: uint16(on[3]), //nolint:gosec // ports
		}
	}
	scopedWorld, err := newEdition(w, profile(on[:4]))
	if err != nil {
		return nil, err
	}
	oldWorld, err := newEdition(w, profile(on[4:]))
	if err != nil {
		return nil, err
	}
	all, err := scopedWorld.content()
	if err != nil {
		return nil, err
	}
	scoped, err := startInEnvoy(ctx, "scoped", scopedWorld.profile, all)
	if err != nil {
		return nil, err
	}
	defer scoped.stop()
	if all, err = oldWorld.content(); err != nil {
		return nil, err
	}
	all, one, err := inOne(all)
	if err != nil {
		return nil, err
	}
	old, err := startInEnvoy(ctx, "one", oldWorld.profile, all)
	if err != nil {
		return nil, err
	}
	defer old.stop()
	if err := errors.Join(scoped.settle(), old.settle()); err != nil {
		return nil, err
	}
	place := make(map[string]int)
	for i, host := range one.VirtualHosts {
		place[host.GetName()] = i
	}

	kinds := []struct {
		what string
		in   *inEnvoy
		of   resource.Type
		give func(service int, r types.Resource) (int, error)
	}{
		{"an endpoint", scoped, resource.Endpoint, func(service int, r types.Resource) (int, error) {
			return proto.Size(r), scoped.take(resource.Endpoint, serviceName(service), r)
		}},
		{"a route", scoped, resource.Route, func(service int, r types.Resource) (int, error) {
			return proto.Size(r), scoped.take(resource.Route, routesPrefix+serviceName(service), r)
		}},
		{"a route, and one configuration of all", old, resource.Route, func(service int, r types.Resource) (int, error) {
			next := &routev3.RouteConfiguration{
				Name: one.Name, IgnorePortInHostMatching: true, RequestHeadersToAdd: one.RequestHeadersToAdd, RequestHeadersToRemove: one.RequestHeadersToRemove,
				VirtualHosts: append([]*routev3.VirtualHost(nil), one.VirtualHosts...),
			}
			next.VirtualHosts[place[serviceName(service)]] = amongOthers(r.(*routev3.RouteConfiguration).VirtualHosts[0])
			one = next
			return proto.Size(next), old.take(resource.Route, oneConfiguration, next)
		}},
	}
	costs := make([]envoyCost, len(kinds))
	for round := range rounds {
		for k, kind := range kinds {
			edits, services := make([]types.Resource, each), make([]int, each)
			for i := range edits {
				services[i] = w.changes(round*each + i)
				if edits[i], err = scopedWorld.edit(kind.of, services[i], round*len(kinds)+k+1); err != nil {
					return nil, err
				}
			}
			began, bytes := time.Now(), 0
			cpu, err := kind.in.cost(func() error {
				for i, r := range edits {
					size, err := kind.give(services[i], r)
					if err != nil {
						return err
					}
					bytes += size
				}
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind.what, err)
			}
			length := time.Since(began)
			idle, err := kind.in.cost(func() error { time.Sleep(max(0, length-settle)); return nil })
			if err != nil {
				return nil, err
			}
			costs[k].CPU += (cpu - idle) * 1e3
			costs[k].Bytes += float64(bytes)
		}
	}
	times := float64(rounds * each)
	for k, kind := range kinds {
		costs[k] = envoyCost{World: w, What: kind.what, Times: rounds * each, CPU: costs[k].CPU / times, Bytes: costs[k].Bytes / times}
	}
	return costs, nil
}
