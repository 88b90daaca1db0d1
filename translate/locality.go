package translate

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
)

// That a zone is preferred is the caller's own doing: one assignment says where each
// instance is, and an Envoy knows where it is itself. The order of datacenters depends
// on the caller's, and an Envoy takes it from the assignment alone: there is one for
// each datacenter that has a rule, in the scopes of its callers.

// locality is where an instance is. To Envoy the datacenter is a region.
type locality struct{ datacenter, zone string }

// zones is where the zone of an instance is found.
type zones struct{ meta, tag string }

func zonesOf(s *policy.Service) zones {
	return zones{s.LoadBalancing.Locality.ZoneMeta, s.LoadBalancing.Locality.ZoneTag}
}

// of is the zone of an instance; empty if it is not known.
func (z zones) of(i *watch.Instance) string {
	if z.tag != "" {
		for _, tag := range i.Tags {
			if zone, ok := strings.CutPrefix(tag, z.tag); ok && zone != "" {
				return zone
			}
		}
	}
	if z.meta == policy.MetaZone {
		return i.Zone // the source has looked, and may know it from elsewhere
	}
	return cmp.Or(i.Meta[z.meta], i.NodeMeta[z.meta])
}

// failoverOrder is where the calls of one datacenter go.
type failoverOrder struct {
	ranks   map[string]uint32 // datacenter → its place in the order
	percent uint32            // of healthy instances that a datacenter needs
}

// failoverOf is the order for callers in a datacenter; nil: it has none.
func failoverOf(s *policy.Service, datacenter string) *failoverOrder {
	l := &s.LoadBalancing.Locality
	others, ok := l.FailsOverTo(datacenter)
	if !ok {
		return nil
	}
	order := &failoverOrder{ranks: map[string]uint32{"": 0, datacenter: 0}, percent: l.MinHealthyPercent}
	for i, other := range others {
		order.ranks[other] = uint32(i) + 1
	}
	return order
}

// apply gives each place its priority. Datacenters that are not in the order are
// left out: nobody said that they may be called. Priorities have no gap, which gRPC
// would refuse.
func (o *failoverOrder) apply(assignment *endpointv3.ClusterLoadAssignment) {
	kept := assignment.Endpoints[:0]
	used := make(map[uint32]struct{})
	for _, group := range assignment.Endpoints {
		rank, ok := o.ranks[group.GetLocality().GetRegion()]
		if !ok {
			continue
		}
		group.Priority = rank
		used[rank] = struct{}{}
		kept = append(kept, group)
	}
	ranks := slices.Sorted(maps.Keys(used))
	for _, group := range kept {
		at, _ := slices.BinarySearch(ranks, group.Priority)
		group.Priority = uint32(at)
	}
	assignment.Endpoints = kept
	assignment.Policy = &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: u32((10000 + o.percent - 1) / o.percent)}
}

// datacentersOf are the datacenters for whose callers a mesh has a rule, sorted.
func datacentersOf(m *policy.Mesh) []string {
	var all []string
	for _, name := range append(m.Names(), "") {
		for _, rule := range m.Service(name).LoadBalancing.Locality.Failover {
			all = append(all, rule.From...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
