package features

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3" // its message
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	// Messages that stand inside of others, for the pages.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/composite/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/admission_control/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/cluster_provided/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"datapunk.dev/controlplane/resource"
)

// client asks as an Envoy does, for all clusters and listeners, or as gRPC does,
// for those that a page shows; and then for what those name. It acknowledges
// everything.
type client struct {
	m    *mesh
	stop func()

	mu     sync.Mutex // guards what follows, and sending
	have   map[resource.Type]map[string]proto.Message
	bytes  int      // that it was sent
	scoped bool     // it has asked for scoped routes
	news   []string // what it was sent since it was last asked, "-" before what was taken away
	ask    func(t resource.Type, names []string)
}

// proxy is who a client says it is.
type proxy struct {
	Service      string
	Agent        string // "envoy" if it is empty
	Region, Zone string
	Address      string
	AppAddress   string `yaml:"app_address"`
	AppPort      int    `yaml:"app_port"`
	MeshPort     int    `yaml:"mesh_port"`
	OutboundPort int    `yaml:"outbound_port"`
	MetricsPort  int    `yaml:"metrics_port"`
}

// sidecar is a proxy as most are.
func sidecar(service string) proxy {
	return proxy{Service: service, AppPort: 8080, MeshPort: 15008, OutboundPort: 15001}
}

func (p proxy) node() *corev3.Node {
	number := func(n int) *structpb.Value { return structpb.NewNumberValue(float64(n)) }
	agent := "envoy"
	if p.Agent != "" {
		agent = p.Agent
	}
	return &corev3.Node{
		Id: p.Service + "-1" + p.Region, Cluster: p.Service, UserAgentName: agent, Locality: &corev3.Locality{Region: p.Region, Zone: p.Zone},
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"address": structpb.NewStringValue(p.Address), "app_address": structpb.NewStringValue(p.AppAddress), "app_port": number(p.AppPort), "mesh_port": number(p.MeshPort),
			"outbound_port": number(p.OutboundPort), "metrics_port": number(p.MetricsPort),
		}},
	}
}

// delta connects a client that speaks the incremental protocol.
func (m *mesh) delta(p proxy) *client {
	m.t.Helper()
	return m.connect(p, func(ctx context.Context, conn *grpc.ClientConn, c *client, node *corev3.Node) error {
		stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
		if err != nil {
			return err
		}
		c.ask = func(t resource.Type, names []string) {
			_ = stream.Send(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: t.URL(), ResourceNamesSubscribe: names})
			node = nil
		}
		go func() {
			for {
				r, err := stream.Recv()
				if err != nil {
					return
				}
				t, _ := resource.TypeOf(r.TypeUrl)
				c.mu.Lock()
				c.bytes += proto.Size(r)
				for _, res := range r.Resources {
					c.take(t, res.Resource)
				}
				for _, name := range r.RemovedResources {
					if c.have[t][name] != nil {
						c.have[t][name] = nil // asked for still
						c.news = append(c.news, "-"+t.String()+" "+name)
					}
				}
				_ = stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
				c.follow()
				c.mu.Unlock()
			}
		}()
		return nil
	})
}

// sotw connects a client that speaks the state of the world.
func (m *mesh) sotw(p proxy) *client {
	m.t.Helper()
	return m.connect(p, func(ctx context.Context, conn *grpc.ClientConn, c *client, node *corev3.Node) error {
		stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
		if err != nil {
			return err
		}
		names := make(map[resource.Type][]string)
		version, nonce := make(map[resource.Type]string), make(map[resource.Type]string)
		send := func(t resource.Type) {
			_ = stream.Send(&discovery.DiscoveryRequest{Node: node, TypeUrl: t.URL(), ResourceNames: names[t], VersionInfo: version[t], ResponseNonce: nonce[t]})
			node = nil
		}
		c.ask = func(t resource.Type, more []string) {
			names[t] = append(names[t], more...)
			send(t)
		}
		go func() {
			for {
				r, err := stream.Recv()
				if err != nil {
					return
				}
				t, _ := resource.TypeOf(r.TypeUrl)
				c.mu.Lock()
				c.bytes += proto.Size(r)
				there := make(map[string]bool)
				for _, res := range r.Resources {
					there[c.take(t, res)] = true
				}
				if t == resource.Cluster || t == resource.Listener || t == resource.ScopedRoute {
					for _, name := range slices.Sorted(maps.Keys(c.have[t])) {
						if !there[name] { // what a full state lacks is gone
							delete(c.have[t], name)
							c.news = append(c.news, "-"+t.String()+" "+name)
						}
					}
				}
				version[t], nonce[t] = r.VersionInfo, r.Nonce
				send(t)
				c.follow()
				c.mu.Unlock()
			}
		}()
		return nil
	})
}

func (m *mesh) connect(p proxy, open func(context.Context, *grpc.ClientConn, *client, *corev3.Node) error) *client {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn := m.dial()
	c := &client{m: m, have: make(map[resource.Type]map[string]proto.Message), stop: func() {
		cancel()
		_ = conn.Close()
		m.settle()
	}}
	for t := range resource.NumTypes {
		c.have[t] = make(map[string]proto.Message)
	}
	if err := open(ctx, conn, c, p.node()); err != nil {
		m.t.Fatal(err)
	}
	c.mu.Lock()
	if p.Agent == "" {
		c.ask(resource.Runtime, []string{resource.RuntimeMesh})
		c.ask(resource.Cluster, nil)
		c.ask(resource.Listener, nil)
	}
	c.mu.Unlock()
	m.settle()
	return c
}

// askFor asks by name for what a page shows: gRPC's client names all that it
// wants.
func (c *client) askFor(p page) {
	if p.Proxy.Agent == "" {
		return // has asked for everything
	}
	c.mu.Lock()
	for _, what := range p.Shows {
		words := strings.Fields(what)
		for _, t := range []resource.Type{resource.Listener, resource.Cluster, resource.Endpoint} {
			if t.String() == words[0] {
				c.ask(t, words[1:2])
			}
		}
	}
	c.mu.Unlock()
	c.m.settle()
}

// take takes a resource in, and returns its name. It is news if it is not what
// the client has.
func (c *client) take(t resource.Type, body *anypb.Any) string {
	m, err := body.UnmarshalNew()
	if err != nil {
		panic(err)
	}
	name := nameOf(m)
	if !proto.Equal(c.have[t][name], m) {
		c.have[t][name] = m
		c.news = append(c.news, t.String()+" "+name)
	}
	return name
}

func nameOf(m proto.Message) string {
	switch m := m.(type) {
	case interface{ GetClusterName() string }:
		return m.GetClusterName()
	case interface{ GetName() string }:
		return m.GetName()
	default:
		panic(fmt.Sprintf("a resource of type %T", m))
	}
}

// follow asks for what the client has seen the name of and does not have.
func (c *client) follow() {
	wanted := map[resource.Type]map[string]bool{resource.Endpoint: {}, resource.ScopedRoute: {}, resource.Route: {}, resource.Secret: {}, resource.Extension: {}}
	for name, m := range c.have[resource.Cluster] {
		if cluster, ok := m.(*clusterv3.Cluster); ok && cluster.GetType() == clusterv3.Cluster_EDS {
			wanted[resource.Endpoint][name] = true
		}
	}
	for _, t := range []resource.Type{resource.Cluster, resource.Listener, resource.ScopedRoute} {
		for _, m := range c.have[t] {
			references(m, wanted)
		}
	}
	if wanted[resource.ScopedRoute][""] && !c.scoped {
		c.scoped = true
		c.ask(resource.ScopedRoute, nil)
	}
	for _, t := range []resource.Type{resource.Endpoint, resource.Secret, resource.Extension, resource.Route} {
		var names []string
		for _, name := range slices.Sorted(maps.Keys(wanted[t])) {
			if _, asked := c.have[t][name]; !asked {
				c.have[t][name] = nil
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			c.ask(t, names)
		}
	}
}

// moved returns what the client was sent that it did not have, and what was taken
// from it, since it was last asked; sorted, each once.
func (c *client) moved() []string {
	c.m.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	news := slices.Compact(slices.Sorted(slices.Values(c.news)))
	c.news = nil
	return news
}

// sent returns how many bytes the client was sent since it was last asked.
func (c *client) sent() int {
	c.m.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.bytes
	c.bytes = 0
	return n
}

// has returns a resource, by "type name", or nil.
func (c *client) has(what string) proto.Message {
	kind, name, _ := strings.Cut(what, " ")
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range resource.NumTypes {
		if t.String() == kind {
			return c.have[t][name]
		}
	}
	return nil
}

// listeners returns those that the client has, by name.
func (c *client) listeners() map[string]*listenerv3.Listener {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]*listenerv3.Listener)
	for name, m := range c.have[resource.Listener] {
		if l, ok := m.(*listenerv3.Listener); ok {
			all[name] = l
		}
	}
	return all
}

// listener returns a listener that the client has.
func (c *client) listener(name string) *listenerv3.Listener {
	l, _ := c.has("listener " + name).(*listenerv3.Listener)
	return l
}
