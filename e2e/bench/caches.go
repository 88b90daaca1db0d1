package main

import (
	"context"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	gcp "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
)

type snapshot = translate.Snapshot

// caches serves the same resources by go-control-plane's SnapshotCache, with
// one snapshot for all nodes of a scope, or by its LinearCaches behind a mux.
type caches struct {
	w     world
	cache cache.Cache

	snapshots cache.SnapshotCache
	groups    map[string]*group // by the client's service

	endpoints *cache.LinearCache
}

// group is what the nodes of one service share.
type group struct {
	clusters, endpoints []types.Resource
	index               map[string]int // of endpoints
	version             int
}

// byService keys snapshots by node.cluster.
type byService struct{}

// ID implements cache.NodeHash.
func (byService) ID(n *corev3.Node) string { return n.GetCluster() }

func newCache(kind string, w world) (*caches, error) {
	c := &caches{w: w, groups: make(map[string]*group)}
	if kind == "linear" {
		views, err := world{Services: w.Services, Instances: w.Instances, Streams: 1}.views(w.catalog())
		if err != nil {
			return nil, err
		}
		g, err := newGroup(views["client"])
		if err != nil {
			return nil, err
		}
		clusters := cache.NewLinearCache(resource.Cluster.URL(), cache.WithInitialResources(byName(g.clusters)))
		c.endpoints = cache.NewLinearCache(resource.Endpoint.URL(), cache.WithInitialResources(byName(g.endpoints)))
		c.groups["client"] = g
		c.cache = &cache.MuxCache{
			Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
			ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
			Caches:        map[string]cache.Cache{resource.Cluster.URL(): clusters, resource.Endpoint.URL(): c.endpoints},
		}
		return c, nil
	}
	c.snapshots = cache.NewSnapshotCache(true, byService{}, nil)
	c.cache = c.snapshots
	views, err := w.views(w.catalog())
	if err != nil {
		return nil, err
	}
	for name, v := range views {
		if c.groups[name], err = newGroup(v); err != nil {
			return nil, err
		}
		if err := c.publish(name); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func newGroup(v seen) (*group, error) {
	g := &group{index: make(map[string]int)}
	for r := range v[resource.Cluster].All() {
		m := &clusterv3.Cluster{}
		if err := proto.Unmarshal(r.Body, m); err != nil {
			return nil, err
		}
		g.clusters = append(g.clusters, m)
	}
	for r := range v[resource.Endpoint].All() {
		if serviceNumber([]byte(r.Name)) < 0 {
			continue // no stream asks for it, and by SotW this cache answers only who asks for all
		}
		m := &endpointv3.ClusterLoadAssignment{}
		if err := proto.Unmarshal(r.Body, m); err != nil {
			return nil, err
		}
		g.index[r.Name] = len(g.endpoints)
		g.endpoints = append(g.endpoints, m)
	}
	return g, nil
}

func byName(resources []types.Resource) map[string]types.Resource {
	m := make(map[string]types.Resource, len(resources))
	for _, r := range resources {
		m[cache.GetResourceName(r)] = r
	}
	return m
}

func (c *caches) publish(client string) error {
	g := c.groups[client]
	g.version++
	s, err := cache.NewSnapshot(strconv.Itoa(g.version), map[string][]types.Resource{
		resource.Cluster.URL(): g.clusters, resource.Endpoint.URL(): g.endpoints,
	})
	if err != nil {
		return err
	}
	return c.snapshots.SetSnapshot(context.Background(), client, s)
}

func (c *caches) options() []grpc.ServerOption { return nil }

func (c *caches) register(g *grpc.Server) {
	discovery.RegisterAggregatedDiscoveryServiceServer(g, gcp.NewServer(context.Background(), c.cache, nil))
}

func (c *caches) prepare(int, int) error { return nil }

func (c *caches) change(service, n int) error {
	name := serviceName(service)
	for client, g := range c.groups {
		i, ok := g.index[name]
		if !ok {
			continue
		}
		moved := proto.Clone(g.endpoints[i]).(*endpointv3.ClusterLoadAssignment)
		moved.Endpoints[0].LbEndpoints[0].GetEndpoint().GetAddress().GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: uint32(firstPort + n)}
		if c.endpoints != nil {
			g.endpoints[i] = moved
			return c.endpoints.UpdateResource(name, moved)
		}
		next := *g
		next.endpoints = append([]types.Resource(nil), g.endpoints...)
		next.endpoints[i] = moved
		c.groups[client] = &next
		if err := c.publish(client); err != nil {
			return err
		}
	}
	return nil
}
