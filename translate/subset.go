package translate

import (
	"reflect"
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
)

// fallback is a cluster in front of others: each try of a request goes to the
// next one that has somebody to take it. The zero value is none.
type fallback struct {
	subset string // the first try
	then   string // every further one
	last   string // where neither has anybody; may be empty
	tries  uint32
}

// hasMembers reports whether the cluster is one in front of others, and has no
// instances itself.
func (d destination) hasMembers() bool { return d.fallback != fallback{} }

// members are the clusters in the order of the tries.
func (f fallback) members() []string {
	all := []string{f.subset}
	for range max(f.tries, 2) - 1 { // without a retry too, for the first try may find nobody
		all = append(all, f.then)
	}
	if f.last != "" {
		all = append(all, f.last)
	}
	return all
}

// subsetCluster names the cluster of a subset, and fallbackCluster that in front of
// it. No service has a name with a bar.
func subsetCluster(service, subset string) string { return service + "|" + subset }

func fallbackCluster(service, subset string) string {
	return subsetCluster(service, subset) + "|fallback"
}

// leadTo leads to a subset of a service, or to all of its instances.
func leadTo(service, subset string, onEmpty policy.OnEmpty, weight uint32) weightedDestination {
	to := weightedDestination{destination: clusterNamed(service, subset), bare: clusterNamed(service, subset), weight: weight}
	if subset != "" && onEmpty == policy.Redistribute {
		to.destination = fallbackCluster(service, subset)
	}
	return to
}

// clusterNamed is the cluster of a subset, or of all instances.
func clusterNamed(service, subset string) string {
	if subset == "" {
		return service
	}
	return subsetCluster(service, subset)
}

// bare leads to the subsets themselves, for clients that know no cluster in front
// of others.
func bare(to []weightedDestination) []weightedDestination {
	all := slices.Clone(to)
	for i := range all {
		all[i].destination = all[i].bare
	}
	return all
}

// destinationsOf are the clusters that a service is to have: one for all of its
// instances, one for each subset, and one in front of each subset to which
// something leads that is not to fail where it is empty.
func destinationsOf(s *policy.Service) []destination {
	whole := destination{
		name:           s.Name,
		service:        s.Name,
		instances:      s.ConsulService,
		protocol:       s.Protocol,
		connectTimeout: s.Timeout.Connect,
		idleTimeout:    s.Timeout.Idle,
		balancing:      s.LoadBalancing.Policy,
		hashesHeader:   slices.ContainsFunc(s.LoadBalancing.HashPolicy, func(h policy.HashPolicy) bool { return h.Header != "" }),
		slowStart:      s.LoadBalancing.SlowStart,
		panicThreshold: s.LoadBalancing.PanicThreshold,
		breakers:       s.CircuitBreakers,
		outliers:       s.OutlierDetection,
	}
	switch s.LoadBalancing.Policy {
	case "ring_hash", "maglev": // the hash alone decides
	default:
		whole.prefersZone = s.LoadBalancing.Locality.Mode == policy.PreferLocal
	}
	if slices.ContainsFunc(s.LoadBalancing.Locality.Failover, func(f policy.Failover) bool { return len(f.To) > 0 }) {
		whole.outliers.MaxEjectionPercent = 100 // it counts the instances of all datacenters, and others stand behind
	}
	if s.HealthChecks != nil {
		whole.checked, whole.checks = true, *s.HealthChecks
	}
	all := []destination{whole}
	for _, subset := range s.Subsets {
		d := whole
		d.name, d.subset = subsetCluster(s.Name, subset.Name), subset.Name
		// Where most of a part is sick that says little of the whole: what becomes
		// of its requests the file says.
		d.panicThreshold = 0
		if !slices.Contains(s.Fallbacks, subset.Name) {
			all = append(all, d)
			continue
		}
		d.outliers.MaxEjectionPercent = 100 // somebody stands behind it
		front := whole
		front.name = fallbackCluster(s.Name, subset.Name)
		front.fallback = fallback{subset: d.name, then: s.Name, tries: s.FallbackTries}
		if s.DefaultSubset != "" { // which keeps its own second tries
			front.fallback.then, front.fallback.last = subsetCluster(s.Name, s.DefaultSubset), s.Name
		}
		all = append(all, d, front)
	}
	return all
}

// subsetTargets are those of a service's targets that are in the subset.
func subsetTargets(g *globals, entry *watch.Service, subset *policy.Subset, zones zones) []target {
	if entry == nil {
		return nil
	}
	part, in := &watch.Service{Name: entry.Name}, inSubset(entry.Name, subset)
	for _, i := range entry.Instances {
		if in(i) {
			part.Instances = append(part.Instances, i)
		}
	}
	targets, _ := targetsOf(g, part, zones) // of whom it leaves out the whole service says
	return targets
}

// sameSubset reports whether a subset of two settings of a service, the first of
// which may be nil, is the same.
func sameSubset(before, after *policy.Service, name string) bool {
	return name == "" || before != nil && reflect.DeepEqual(before.Subset(name), after.Subset(name))
}

// inSubset returns what reports whether an instance of a service of the catalog is in
// a subset. No mesh file loads with a filter that cannot be read.
func inSubset(service string, s *policy.Subset) func(*watch.Instance) bool {
	if s.Filter == "" {
		return func(i *watch.Instance) bool { return meetsSubset(i, s) }
	}
	filter, err := policy.CompileFilter(s.Filter)
	return func(i *watch.Instance) bool {
		return err == nil && meetsSubset(i, s) && filter.Takes(filterable(service, i))
	}
}

// meetsSubset reports whether an instance meets all that a subset says beside its filter.
func meetsSubset(i *watch.Instance, s *policy.Subset) bool {
	if s.Tag != "" && !slices.Contains(i.Tags, s.Tag) || s.Version != "" && i.Meta[metaVersion] != s.Version {
		return false
	}
	if s.OnlyPassing && i.Health != watch.Passing {
		return false
	}
	for key, want := range s.Meta {
		if got, has := i.Meta[key]; !has || got != want {
			return false
		}
	}
	return true
}

// filterable is what a filter sees of an instance.
func filterable(service string, i *watch.Instance) policy.Filterable {
	address := i.Host
	if address == "" {
		address = i.Address.String()
	}
	return policy.Filterable{Service: policy.FilterableService{
		ID: i.ID, Service: service, Address: address, Port: int(i.Port), Tags: i.Tags, Meta: i.Meta,
	}}
}

// metaVersion is the key of the version in an instance's metadata.
const metaVersion = "version"
