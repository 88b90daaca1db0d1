package policy

import (
	"fmt"
	"maps"
	"slices"
)

// Much reports whether so few are left of so many that it may be a mistake:
// none, or two or more are gone and they are over 30 % of all.
func Much(before, after int) bool {
	gone := before - after
	return gone > 0 && after == 0 || gone >= 2 && 10*gone > 3*before
}

// Removed says, for people, of what next has much less than last: services,
// upstreams, policies, circuit breakers, or keys at all. It is empty if it is
// nothing much. What was replaced is not gone.
func Removed(last, next *Mesh) []string {
	var why []string
	for _, kind := range []struct {
		what          string
		before, after int
	}{
		{"services", len(last.services), len(next.services)},
		{"upstreams", last.countUpstreams(), next.countUpstreams()},
		{"routes", last.Routes, next.Routes},
		{"policies", len(last.Authorization.Policies), len(next.Authorization.Policies)},
		{"circuit breakers of single services", last.countBreakers(), next.countBreakers()},
		{"keys of the file", len(last.keys), len(next.keys)},
	} {
		if Much(kind.before, kind.after) {
			why = append(why, fmt.Sprintf("%d %s are left of %d", kind.after, kind.what, kind.before))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(last.services)) {
		before, after := last.services[name], next.Service(name)
		if len(before.Upstreams) > 0 && len(after.Upstreams) == 0 && !after.AllUpstreams {
			why = append(why, fmt.Sprintf("%s: %s calls nobody any more, it called %d services",
				next.Source("services."+name+".upstreams"), name, len(before.Upstreams)))
		}
	}
	return why
}

// countUpstreams counts what is declared. Where nothing is, every service may
// be called, but none by a port of its own.
func (m *Mesh) countUpstreams() int {
	n := 0
	for _, s := range m.services {
		n += len(s.Upstreams)
	}
	return n
}

// countBreakers counts the services whose limits are not those of all.
func (m *Mesh) countBreakers() int {
	n := 0
	for _, s := range m.services {
		if s.CircuitBreakers != m.defaults.CircuitBreakers || s.OutlierDetection != m.defaults.OutlierDetection {
			n++
		}
	}
	return n
}
