package translate

import (
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrlocalityv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"datapunk.dev/controlplane/policy"
)

// proxyless is a service as gRPC's own xDS clients are served it. They dial
// xds:///<service>: a listener of that name leads to routes, the routes to the
// cluster. They take no secrets over xDS, so while mTLS is strict there is
// nothing for them.
type proxyless struct {
	of *service // what it was made from

	listener, cluster, endpoints *Resource
	held                         []Held
}

// noCertificates is why a proxyless client is served nothing.
const noCertificates = "mTLS is strict, and a proxyless client gets no certificate from the control plane: it is served nothing"

// proxylessOf makes the service for proxyless clients, once as long as the
// service stands.
func (b *build) proxylessOf(s *service) *proxyless {
	name := s.settings.Name
	before, ok := b.proxyless.Get([]byte(name))
	if ok && before.of == s {
		return before
	}
	if !ok {
		before = &proxyless{}
	}
	after := &proxyless{of: s}
	if b.c.tls != tlsStrict && s.settings.Protocol != policy.TCP {
		keep := func(r, last *Resource, err error, t Type, keys []string) *Resource {
			if err != nil {
				after.held = append(after.held, Held{Type: t, Name: name, Keys: keys, Cause: "proxyless: " + err.Error()})
				return last
			}
			return r
		}
		r, err := proxylessCluster(b.c, s.settings)
		after.cluster = keep(r, before.cluster, err, Cluster, clusterKeys(s.settings))
		r, err = proxylessListener(s.settings, s.routeKeys)
		after.listener = keep(r, before.listener, err, Listener, s.routeKeys)
		r, err = proxylessEndpoints(b.c.globals, s)
		after.endpoints = keep(r, before.endpoints, err, Endpoint, nil)
		if after.cluster == nil {
			after.listener = nil // it would lead nowhere
		}
	}
	b.report("proxyless/"+name, after.held, nil)
	b.proxyless.Insert([]byte(name), after)
	return after
}

func (b *build) forgetProxyless(name string) {
	b.proxyless.Delete([]byte(name))
	b.report("proxyless/"+name, nil, nil)
}

// proxylessListener has its routes inside: no two services share any.
func proxylessListener(s *policy.Service, keys []string) (*Resource, error) {
	var d draft
	route := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: s.Name},
		// The call's own deadline holds.
		MaxStreamDuration: &routev3.RouteAction_MaxStreamDuration{GrpcTimeoutHeaderMax: &durationpb.Duration{}},
		RetryPolicy:       grpcRetry(&d, s.Retry),
	}
	for _, h := range hashPolicy(&d, s.LoadBalancing) {
		if h.GetHeader() != nil {
			route.HashPolicy = append(route.HashPolicy, h)
		}
	}
	if route.RetryPolicy != nil {
		// gRPC retries by status alone, and picks another address by itself.
		route.RetryPolicy.RetryHostPredicate = nil
		route.RetryPolicy.PerTryTimeout = nil
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: "proxyless",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: s.Name,
			VirtualHosts: []*routev3.VirtualHost{{
				Name:    s.Name,
				Domains: []string{"*"},
				Routes: []*routev3.Route{{
					Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: ""}},
					Action: &routev3.Route_Route{Route: route},
				}},
			}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{router(&d)},
	}
	return d.finish(Listener, s.Name, &listenerv3.Listener{
		Name:        s.Name,
		ApiListener: &listenerv3.ApiListener{ApiListener: d.pack(manager)},
	}, keys, []Ref{{Cluster, s.Name}})
}

// proxylessCluster has the settings that gRPC's clients honor.
func proxylessCluster(c *compiler, s *policy.Service) (*Resource, error) {
	var d draft
	return d.finish(Cluster, s.Name, &clusterv3.Cluster{
		Name:                 s.Name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     eds(),
		LoadBalancingPolicy:  proxylessBalancing(&d, s.LoadBalancing),
		CircuitBreakers:      circuitBreakers(c, s.CircuitBreakers),
		OutlierDetection:     outlierDetection(&d, c, s.OutlierDetection),
	}, clusterKeys(s), []Ref{{Endpoint, s.Name}})
}

// proxylessBalancing is round robin, but for ring_hash where there is a header
// to hash: the policies that every gRPC language has.
func proxylessBalancing(d *draft, lb policy.LoadBalancing) *clusterv3.LoadBalancingPolicy {
	header := slices.ContainsFunc(lb.HashPolicy, func(h policy.HashPolicy) bool { return h.Header != "" })
	if header {
		return balancingPolicy(d, "ring_hash", &ringhashv3.RingHash{HashFunction: ringhashv3.RingHash_XX_HASH})
	}
	return balancingPolicy(d, "wrr_locality", &wrrlocalityv3.WrrLocality{
		EndpointPickingPolicy: balancingPolicy(d, "round_robin", &roundrobinv3.RoundRobin{}),
	})
}

// proxylessEndpoints are the assignment with what gRPC's clients insist on: a
// locality has an identity and a weight, without which it is refused or passed
// over.
func proxylessEndpoints(g *globals, s *service) (*Resource, error) {
	targets, _ := targetsOf(g, s.entry)
	assignment := assignmentOf(g, s.settings.Name, targets)
	for _, group := range assignment.Endpoints {
		if group.Locality == nil {
			group.Locality = &corev3.Locality{}
		}
		var weight uint32
		for _, e := range group.LbEndpoints {
			weight += e.LoadBalancingWeight.Value
		}
		group.LoadBalancingWeight = u32(weight)
	}
	var d draft
	checkWeights(&d, targets)
	return d.finish(Endpoint, s.settings.Name, assignment, nil, nil)
}

// usedProxyless are the services as some proxyless client has them.
func (b *build) usedProxyless(next *state) *iradix.Tree[*proxyless] {
	made := b.proxyless.Commit()
	if made.Len() == 0 || (!b.meshChanged && len(b.removed) == 0) {
		return made
	}
	_, every := next.scopes.Get([]byte(proxylessToEvery))
	it := made.Root().Iterator()
	for name, _, ok := it.Next(); ok; name, _, ok = it.Next() {
		keys, _ := next.scopesOf.Get(name)
		if !every && !slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, proxylessPrefix) }) {
			b.forgetProxyless(string(name))
		}
	}
	return b.proxyless.Commit()
}
