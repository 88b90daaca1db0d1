package translate

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// target is one endpoint of an assignment.
type target struct {
	address netip.AddrPort // of a name: the port alone
	host    string         // a name to resolve, in the place of an IP address
	locality
	weight uint32
	health corev3.HealthStatus
	rank   int  // of the health, 0 is best
	inMesh bool // has a sidecar
}

// endpoints is the assignment of a service, empty if the catalog does not
// have it: an explicit nothing, so that no proxy waits for it.
func endpoints(g *globals, name string, targets []target, order *failoverOrder) (*resource.Resource, error) {
	var d builder
	checkWeights(&d, targets)
	return d.finish(resource.Endpoint, name, assignmentOf(g, name, targets, order), nil, nil)
}

// anyName reports whether a target is a name. No assignment can have one: its
// cluster resolves it.
func anyName(targets []target) bool {
	return slices.ContainsFunc(targets, func(t target) bool { return t.host != "" })
}

// assignmentOf groups the targets by their places, in the order in which some
// callers fail over from one to the next; nil: all are alike.
func assignmentOf(g *globals, name string, targets []target, order *failoverOrder) *endpointv3.ClusterLoadAssignment {
	assignment := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	for start := 0; start < len(targets); {
		end := start + 1
		for end < len(targets) && targets[end].locality == targets[start].locality {
			end++
		}
		group := &endpointv3.LocalityLbEndpoints{LbEndpoints: make([]*endpointv3.LbEndpoint, 0, end-start)}
		if at := targets[start].locality; at != (locality{}) {
			group.Locality = &corev3.Locality{Region: at.datacenter, Zone: at.zone}
		}
		for _, t := range targets[start:end] {
			group.LbEndpoints = append(group.LbEndpoints, t.endpoint(g))
		}
		assignment.Endpoints = append(assignment.Endpoints, group)
		start = end
	}
	if order != nil {
		order.apply(assignment)
	}
	return assignment
}

// targetsOf picks the instances that can be dialed, by place and address. The
// notes say which are left out, and why.
func targetsOf(g *globals, s *watch.Service, zones zones) (targets []target, notes []string) {
	if s == nil {
		return nil, nil
	}
	for _, x := range s.Excluded {
		notes = append(notes, fmt.Sprintf("catalog service %s: instance %s is left out: %s", s.Name, x.ID, x.Reason))
	}
	outside, closed := 0, 0
	for _, i := range s.Instances {
		port, left := dialed(g, i)
		switch left {
		case "":
		case leftInMaintenance, leftWithoutWeight:
			closed++
			continue
		case leftOutside:
			outside++
			continue
		default:
			notes = append(notes, fmt.Sprintf("catalog service %s: instance %s is left out: no address and port to dial", s.Name, i.ID))
			continue
		}
		targets = append(targets, targetOf(i, port, zones))
	}
	if outside > 0 && !g.collects(s) {
		notes = append(notes, fmt.Sprintf("catalog service %s: %d of %d instances have no meta mesh_port and get no traffic while mTLS is strict", s.Name, outside, len(s.Instances)))
	}
	if closed > 0 && len(targets) == 0 {
		notes = append(notes, fmt.Sprintf("catalog service %s: nothing can be called, and %d of %d instances are in maintenance or have weight 0: calls are answered 503", s.Name, closed, len(s.Instances)))
	}
	slices.SortFunc(targets, compareTargets)
	// Of one address and port that is registered twice, the better health
	// stands first; whichever zone it came with.
	type place struct {
		address netip.AddrPort
		host    string
	}
	seen := make(map[place]int, len(targets))
	kept := targets[:0]
	for _, t := range targets {
		here := place{t.address, t.host}
		if at, twice := seen[here]; twice {
			if t.rank < kept[at].rank {
				kept[at] = t
			}
			continue
		}
		seen[here] = len(kept)
		kept = append(kept, t)
	}
	slices.SortFunc(kept, compareTargets)
	return kept, notes
}

func compareTargets(a, b target) int {
	return cmp.Or(cmp.Compare(a.datacenter, b.datacenter), cmp.Compare(a.zone, b.zone), a.address.Compare(b.address), cmp.Compare(a.host, b.host), cmp.Compare(a.rank, b.rank),
		cmp.Compare(b.weight, a.weight), compareBool(b.inMesh, a.inMesh))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// targetOf maps the catalog's health. What is critical stays known: only then
// can the panic threshold tell that most of a service is down.
func targetOf(i *watch.Instance, port uint16, zones zones) target {
	t := target{
		locality: locality{i.Datacenter, zones.of(i)},
		address:  netip.AddrPortFrom(i.Address.Unmap(), port),
		host:     i.Host,
		weight:   i.Weight,
		health:   corev3.HealthStatus_HEALTHY,
		inMesh:   i.MeshPort != 0,
	}
	switch i.Health {
	case watch.Passing:
	case watch.Warning:
		t.rank = 1
	default:
		t.health, t.rank = corev3.HealthStatus_UNHEALTHY, 2
	}
	return t
}

// checkWeights refuses weights whose sum Envoy cannot hold.
func checkWeights(d *builder, targets []target) {
	var sum uint64
	for _, t := range targets {
		sum += uint64(t.weight)
	}
	if sum > math.MaxUint32 {
		d.failf("the weights of %d instances add up to %d, more than %d", len(targets), sum, uint32(math.MaxUint32))
	}
}

func (t target) endpoint(g *globals) *endpointv3.LbEndpoint {
	host := t.host
	if host == "" {
		host = t.address.Addr().String()
	}
	e := &endpointv3.LbEndpoint{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: socketAddress(host, t.address.Port()),
		}},
		HealthStatus:        t.health,
		LoadBalancingWeight: u32(t.weight),
	}
	// Permissive clusters ask for it. It stands there in strict mode too, since
	// an assignment reaches a cluster that is about to be replaced as well: one
	// that lost its mark would be called in plaintext until then.
	if g.dial != tlsOff && t.inMesh {
		e.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.transport_socket_match": inMesh()}}
	}
	return e
}
