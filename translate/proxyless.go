package translate

import (
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrlocalityv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// proxyless is a service as gRPC's own xDS clients are served it. They dial
// xds:///<service>: a listener of that name leads to routes, the routes to the
// cluster. They take no secrets over xDS: their bootstrap says where their
// certificates are.
type proxyless struct {
	of *service // what it was made from

	listener, cluster, endpoints *resource.Resource
	held                         []Held
}

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
	if s.settings.Protocol != policy.TCP {
		keep := func(r, last *resource.Resource, err error, t resource.Type, keys []string) *resource.Resource {
			if err != nil {
				after.held = append(after.held, Held{Type: t, Name: name, Keys: keys, Cause: "proxyless: " + err.Error()})
				return last
			}
			return r
		}
		r, err := proxylessCluster(b.c, s.settings)
		after.cluster = keep(r, before.cluster, err, resource.Cluster, clusterKeys(s.settings))
		r, err = proxylessListener(s.settings, s.routeKeys)
		after.listener = keep(r, before.listener, err, resource.Listener, s.routeKeys)
		r, err = proxylessEndpoints(b.c.globals, s)
		after.endpoints = keep(r, before.endpoints, err, resource.Endpoint, nil)
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
func proxylessListener(s *policy.Service, keys []string) (*resource.Resource, error) {
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
	return d.finish(resource.Listener, s.Name, &listenerv3.Listener{
		Name:        s.Name,
		ApiListener: &listenerv3.ApiListener{ApiListener: d.pack(manager)},
	}, keys, []resource.Ref{resource.Cluster.Ref(s.Name)})
}

// proxylessCluster has the settings that gRPC's clients honor. They cannot
// tell an instance in the mesh from another, so in permissive mode, where both
// take plaintext, they speak that.
func proxylessCluster(c *compiler, s *policy.Service) (*resource.Resource, error) {
	var d draft
	cluster := &clusterv3.Cluster{
		Name:                 s.Name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     eds(),
		LoadBalancingPolicy:  proxylessBalancing(&d, s.LoadBalancing),
		CircuitBreakers:      circuitBreakers(c, s.CircuitBreakers),
		OutlierDetection:     outlierDetection(&d, c, s.OutlierDetection),
	}
	if c.dial == tlsStrict {
		cluster.TransportSocket = proxylessTLS(&d, c.identity(s.Name))
	}
	return d.finish(resource.Cluster, s.Name, cluster, clusterKeys(s), []resource.Ref{resource.Endpoint.Ref(s.Name)})
}

// proxylessTLS is how a proxyless client dials a service. It has its
// certificates from the provider "default" of its bootstrap, by the names that
// the secrets have elsewhere, and refuses the whole cluster for a secret, a TLS
// version or a certificate in it.
//
// gRPC takes the peer's identity from match_subject_alt_names alone, which
// Envoy deprecated; where that is empty it trusts every certificate of the
// mesh. So the identity stands in both places.
func proxylessTLS(d *draft, identity string) *corev3.TransportSocket {
	provider := func(certificate string) *tlsv3.CertificateProviderPluginInstance {
		return &tlsv3.CertificateProviderPluginInstance{InstanceName: resource.SecretIdentity, CertificateName: certificate}
	}
	return tlsSocket(d, &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsCertificateProviderInstance: provider(resource.SecretIdentity),
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			CaCertificateProviderInstance: provider(resource.SecretRoots),
			MatchTypedSubjectAltNames:     []*tlsv3.SubjectAltNameMatcher{uriSAN(exact(identity))},
			MatchSubjectAltNames:          []*matcherv3.StringMatcher{exact(identity)}, //nolint:staticcheck // see above
		}},
	}})
}

// proxylessBalancing is the service's own policy where gRPC has it, by the
// header where one is hashed. A list is tried in order: the clients that do not
// know least request take turns.
func proxylessBalancing(d *draft, lb policy.LoadBalancing) *clusterv3.LoadBalancingPolicy {
	roundRobin := balancingPolicy(d, "round_robin", &roundrobinv3.RoundRobin{})
	picking := roundRobin
	switch lb.Policy {
	case "ring_hash", "maglev":
		if slices.ContainsFunc(lb.HashPolicy, func(h policy.HashPolicy) bool { return h.Header != "" }) {
			return balancingPolicy(d, "ring_hash", &ringhashv3.RingHash{HashFunction: ringhashv3.RingHash_XX_HASH})
		}
	case "least_request", "":
		picking = balancingPolicy(d, "least_request", &leastrequestv3.LeastRequest{ChoiceCount: u32(2)})
		picking.Policies = append(picking.Policies, roundRobin.Policies...)
	}
	return balancingPolicy(d, "wrr_locality", &wrrlocalityv3.WrrLocality{EndpointPickingPolicy: picking})
}

// proxylessEndpoints are the assignment with what gRPC's clients insist on: a
// locality has an identity and a weight, without which it is refused or passed
// over.
func proxylessEndpoints(g *globals, s *service) (*resource.Resource, error) {
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
	return d.finish(resource.Endpoint, s.settings.Name, assignment, nil, nil)
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
