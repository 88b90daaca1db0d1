package policy

import "slices"

// Locality is how much it counts where an instance is.
type Locality struct {
	Mode     LocalityMode
	ZoneMeta string // the metadata that has the zone
	ZoneTag  string // what a tag begins with that has the zone; empty: none has
	// Failover is where else the calls of a datacenter go; MinHealthyPercent is the
	// share of healthy instances below which they begin to.
	Failover          []Failover
	MinHealthyPercent uint32
}

// MetaZone is the metadata that has the zone unless the file names another.
const MetaZone = "zone"

// LocalityMode is which instances of a datacenter are preferred.
type LocalityMode string

// AnyLocality prefers none, PreferLocal those in the caller's zone.
const (
	AnyLocality LocalityMode = "any"
	PreferLocal LocalityMode = "prefer_local"
)

// Failover is where calls from some datacenters go when their own cannot take them:
// to others, in this order.
type Failover struct {
	From, To []string
}

// FailsOverTo returns the datacenters that stand behind one for its callers. It is
// false where no rule is for it.
func (l *Locality) FailsOverTo(datacenter string) ([]string, bool) {
	for _, f := range l.Failover {
		if slices.Contains(f.From, datacenter) {
			return f.To, true
		}
	}
	return nil, false
}

// Followed are the datacenters whose instances are in the mesh, the one that is asked
// first; nil where there is one, whatever its name.
func (c *Consul) Followed() []string {
	if len(c.Datacenters) == 0 {
		return nil
	}
	all := []string{c.Datacenter}
	for _, name := range c.Datacenters {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// locality reads how much it counts where an instance is.
func (d *decoder) locality(s *mapping, to *Service) {
	lb, l := &to.LoadBalancing, &to.LoadBalancing.Locality
	localityKeys.read(s, l)
	switch {
	case s.has("mode") && l.Mode == PreferLocal && hashes(lb.Policy):
		s.keyOf("mode").fail(CodeNoEffect, "policy: least_request", "has no effect with policy %s, which picks by the hash alone", lb.Policy)
	case s.has("min_healthy_percent") && len(l.Failover) == 0 && to.Name != "": // the mesh's is for any service that has a rule
		s.keyOf("min_healthy_percent").fail(CodeNoEffect, "failover: [{from: [dc1], to: [dc2]}]", "has no effect without failover: a zone is preferred while it has one healthy instance")
	}
	if !s.got("failover") {
		return
	}
	seen := make(map[string]bool)
	for i, v := range s.items("failover") {
		if i >= len(l.Failover) {
			break // one of them is wrong
		}
		for _, from := range l.Failover[i].From {
			if seen[from] {
				v.mapping().first("from").fail(CodeConflict, "one rule for each datacenter", "%s has a rule already", from)
			}
			seen[from] = true
		}
	}
}

// checkFailover looks at one rule.
func checkFailover(s *mapping, f *Failover) bool {
	if len(f.From) == 0 {
		s.first("from").fail(CodeMissing, "from: [dc1]", "is for no datacenter")
		return false
	}
	for i, to := range f.To {
		switch {
		case slices.Contains(f.From, to):
			s.first("to").fail(CodeConflict, "", "%s is its own, which comes first", to)
			return false
		case slices.Contains(f.To[:i], to):
			s.first("to").fail(CodeConflict, "", "%s is there twice", to)
			return false
		}
	}
	return true
}

// checkDatacenters warns of rules for datacenters whose instances nobody reads.
func (d *decoder) checkDatacenters(s *mapping, m *Mesh) {
	if m.Discovery.Method != "consul" {
		return
	}
	followed := m.Discovery.Consul.Followed()
	look := func(s *mapping) {
		for _, rule := range s.section("load_balancing").section("locality").items("failover") {
			for _, key := range []string{"from", "to"} {
				for _, entry := range rule.mapping().items(key) {
					if name, ok := entry.plainName(); ok && !slices.Contains(followed, name) {
						entry.fail(CodeNoEffect, "discovery.consul.datacenters: ["+name+"]", "has no effect: the instances of datacenter %s are not read", name)
					}
				}
			}
		}
	}
	look(s)
	s.section("services").each(func(_ string, v value) { look(v.mapping()) })
}
