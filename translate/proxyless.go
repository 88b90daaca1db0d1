package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrlocalityv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"datapunk.dev/controlplane/resource"
)

// proxyless is a service as gRPC's own xDS clients are served it. They dial
// xds:///<service>: a listener of that name leads to routes, the routes to the
// cluster. They take no secrets over xDS: their bootstrap says where their
// certificates are.
type proxyless struct {
	of *service // what it was made from

	listener            *resource.Resource
	clusters, endpoints []*resource.Resource
	placed              map[string][]*resource.Resource // the endpoints for callers in datacenters with an order of failover
	held                []Held
	notes               []string // about instances that these clients do not call
}

// member is what a scope of clients in a datacenter takes of it.
func (p *proxyless) member(datacenter string) (m member) {
	m.add(p.listener)
	endpoints, ok := p.placed[datacenter]
	if !ok {
		endpoints = p.endpoints
	}
	for _, all := range [][]*resource.Resource{p.clusters, endpoints} {
		for _, r := range all {
			m.add(r)
		}
	}
	return m
}

// proxylessMember makes the service for proxyless clients, once as long as the
// service stands.
func (b *build) proxylessMember(in *scope, s *service) member {
	if s == nil {
		return member{}
	}
	name := s.settings.Name
	before, ok := b.proxyless.Get(name)
	if ok && before.of == s {
		return before.member(in.datacenter)
	}
	if !ok {
		before = &proxyless{}
	}
	after := &proxyless{of: s}
	if s.host.virtualHost != nil {
		after.make(b.c, before)
	}
	b.report("proxyless/"+name, after.held, after.notes)
	b.proxyless.Put(name, after)
	return after.member(in.datacenter)
}

// make makes the resources; the last good ones stay where one can not be made.
func (p *proxyless) make(c *compiler, before *proxyless) {
	name := p.of.settings.Name
	keep := func(r, last *resource.Resource, err error, t resource.Type, keys []string) *resource.Resource {
		if err != nil {
			p.held = append(p.held, Held{Type: t, Name: name, Keys: keys, Cause: "proxyless: " + err.Error()})
			return last
		}
		return r
	}
	p.notes = proxylessNotes(p.of.settings)
	targets, left := proxylessTargets(p.of.targets)
	if len(left) > 0 {
		p.notes = append(p.notes, fmt.Sprintf("service %s: clients with gRPC's own xDS do not call %s: they take addresses, or else one name", name, strings.Join(left, ", ")))
	}
	whole := true
	for _, to := range p.of.clusters {
		if to.hasMembers() {
			continue // gRPC knows none; its routes lead to the subset itself
		}
		if to.subset != "" {
			targets, _ = proxylessTargets(to.targets)
		}
		r, err := proxylessCluster(c, to.destination, to.keys, targets)
		if r = keep(r, named(before.clusters, to.name), err, resource.Cluster, to.keys); r != nil {
			p.clusters = append(p.clusters, r)
		} else {
			whole = false
		}
		if anyName(targets) {
			continue
		}
		r, err = proxylessEndpoints(c.globals, to.name, targets, nil)
		if r = keep(r, named(before.endpoints, to.name), err, resource.Endpoint, nil); r != nil {
			p.endpoints = append(p.endpoints, r)
		}
		for _, at := range to.placed {
			r, err = proxylessEndpoints(c.globals, to.name, targets, failoverOf(p.of.settings, at.datacenter))
			if r = keep(r, named(before.placed[at.datacenter], to.name), err, resource.Endpoint, nil); r != nil {
				if p.placed == nil {
					p.placed = make(map[string][]*resource.Resource)
				}
				p.placed[at.datacenter] = append(p.placed[at.datacenter], r)
			}
		}
	}
	r, err := proxylessListener(p.of.host.virtualHost, p.of.host.keys)
	if r = keep(r, before.listener, err, resource.Listener, p.of.host.keys); whole { // else it would lead nowhere
		p.listener = r
	}
}

// lastProxylessMember is what the predecessor's scope took of the service.
func (b *build) lastProxylessMember(in *scope, name string, _ *service) member {
	if p, ok := b.base.proxyless.Get(name); ok {
		return p.member(in.datacenter)
	}
	return member{}
}

// forgetProxyless drops what no proxyless client has any more: services that
// are gone, and all that is in no scope of theirs once one has left.
func (b *build) forgetProxyless() {
	forget := func(name string) {
		if _, ok := b.proxyless.Delete(name); ok {
			b.report("proxyless/"+name, nil, nil)
		}
	}
	for name, c := range b.changes {
		if c.after == nil {
			forget(name)
		}
	}
	if len(b.leftScopes) == 0 {
		return
	}
	every := slices.ContainsFunc(slices.Concat(b.datacenters, []string{""}), func(datacenter string) bool {
		_, ok := b.scopes.Get(scopeOf(resource.Proxyless, everyService, datacenter))
		return ok
	})
	for name := range b.proxyless.Tree().All() {
		keys, _ := b.scopesOf.Get(name)
		if !every && !slices.ContainsFunc(keys, func(key string) bool {
			s, ok := b.scopes.Get(key)
			return ok && s.Kind == resource.Proxyless
		}) {
			forget(name)
		}
	}
}

// proxylessListener has its routes inside: no two services share any.
func proxylessListener(host *virtualHost, keys []string) (*resource.Resource, error) {
	var d builder
	routes, refs := proxylessRoutes(&d, host)
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: "proxyless",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: host.name,
			VirtualHosts: []*routev3.VirtualHost{{
				Name:    host.name,
				Domains: []string{"*"},
				Routes:  routes,
			}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{on(filterFault, d.pack(&faultv3.HTTPFault{})), router(&d)},
	}
	return d.finish(resource.Listener, host.name, &listenerv3.Listener{
		Name:        host.name,
		ApiListener: &listenerv3.ApiListener{ApiListener: d.pack(manager)},
	}, keys, refs)
}

// proxylessCluster has the settings that gRPC's clients honor. They cannot
// tell an instance in the mesh from another, so in permissive mode, where both
// take plaintext, they speak that.
func proxylessCluster(c *compiler, to destination, keys []string, targets []target) (*resource.Resource, error) {
	var d builder
	cluster := &clusterv3.Cluster{
		Name:                to.name,
		LoadBalancingPolicy: proxylessBalancing(&d, to.balancing, to.hashesHeader),
		CircuitBreakers:     circuitBreakers(c, to.breakers),
		OutlierDetection:    outlierDetection(&d, c, to.outliers),
	}
	if c.dial == tlsStrict {
		cluster.TransportSocket = proxylessTLS(&d, c.identity(to.service))
	}
	if anyName(targets) {
		cluster.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS}
		cluster.LoadAssignment = fixedAssignment(to.name, targets[0].host, targets[0].address.Port())
		return d.finish(resource.Cluster, to.name, cluster, keys, nil)
	}
	cluster.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
	cluster.EdsClusterConfig = eds()
	return d.finish(resource.Cluster, to.name, cluster, keys, []resource.Ref{resource.Endpoint.Ref(to.name)})
}

// proxylessTargets are those that gRPC's clients can be given: an assignment
// has addresses, and a cluster one name, of which they call every address. The
// others are left out.
func proxylessTargets(all []target) (targets []target, left []string) {
	var names []target
	for _, t := range all {
		if t.host == "" {
			targets = append(targets, t)
		} else {
			names = append(names, t)
		}
	}
	if len(targets) == 0 && len(names) > 0 {
		best := slices.MinFunc(names, func(a, b target) int { return cmp.Compare(a.rank, b.rank) })
		targets = []target{best}
		names = slices.DeleteFunc(names, func(t target) bool { return t == best })
	}
	for _, t := range names {
		left = append(left, t.host)
	}
	return targets, left
}

// proxylessTLS is how a proxyless client dials a service. It has its
// certificates from the provider "default" of its bootstrap, by the names that
// the secrets have elsewhere, and refuses the whole cluster for a secret, a TLS
// version or a certificate in it.
//
// gRPC takes the peer's identity from match_subject_alt_names alone, which
// Envoy deprecated; where that is empty it trusts every certificate of the
// mesh. So the identity stands in both places.
func proxylessTLS(d *builder, identity string) *corev3.TransportSocket {
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
func proxylessBalancing(d *builder, name string, hashesHeader bool) *clusterv3.LoadBalancingPolicy {
	roundRobin := balancingPolicy(d, "round_robin", &roundrobinv3.RoundRobin{})
	picking := roundRobin
	switch name {
	case "ring_hash", "maglev":
		if hashesHeader {
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
func proxylessEndpoints(g *globals, name string, targets []target, order *failoverOrder) (*resource.Resource, error) {
	assignment := assignmentOf(g, name, targets, order)
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
	var d builder
	checkWeights(&d, targets)
	return d.finish(resource.Endpoint, name, assignment, nil, nil)
}
