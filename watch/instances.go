package watch

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// Dialed is where callers reach the instance: its sidecar, if it has one, else
// the application. It tells instances of a service apart, for two containers of
// one machine may have one address and application's port.
func (i *Instance) Dialed() Place {
	port := i.Port
	if i.MeshPort != 0 {
		port = i.MeshPort
	}
	return Place{netip.AddrPortFrom(i.Address, port), i.Host}
}

// Place is an address and a port, or a port of a host that is known by name.
type Place struct {
	netip.AddrPort
	Host string
}

// Compare orders places by address, host and port.
func (p Place) Compare(o Place) int {
	return cmp.Or(p.Addr().Compare(o.Addr()), cmp.Compare(p.Host, o.Host), cmp.Compare(p.Port(), o.Port()))
}

// String is HOST:PORT.
func (p Place) String() string {
	if p.Host != "" {
		return net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port())))
	}
	return p.AddrPort.String()
}

// SetInstances gives the service those of the instances that differ in what is
// dialed, and says which are one with another.
func (s *Service) SetInstances(instances []*Instance) {
	all := slices.Clone(instances)
	s.Instances = Distinct(instances)
	if len(s.Instances) == len(all) {
		return
	}
	// Whose state counts may change with every check; what is said must not.
	slices.SortFunc(all, func(a, b *Instance) int {
		return cmp.Or(a.Dialed().Compare(b.Dialed()), cmp.Compare(a.ID, b.ID))
	})
	first := all[0]
	for _, i := range all[1:] {
		if i.Dialed() != first.Dialed() {
			first = i
			continue
		}
		s.Exclude(i.ID, fmt.Sprintf("it is one with instance %s: callers of both dial %s", first.ID, i.Dialed()))
	}
}

// Exclude adds an entry that cannot be served, in its order.
func (s *Service) Exclude(id, reason string) {
	x := Excluded{ID: id, Reason: reason}
	at, found := slices.BinarySearchFunc(s.Excluded, x, compareExcluded)
	if !found {
		s.Excluded = slices.Insert(s.Excluded, at, x)
	}
}

func compareExcluded(a, b Excluded) int {
	return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Reason, b.Reason))
}

// Distinct orders instances as a [Service] has them and makes those one that are
// dialed at the same address and port: one with a sidecar, or the healthier, or
// the one whose ID comes first. It works in place.
func Distinct(instances []*Instance) []*Instance {
	slices.SortFunc(instances, func(a, b *Instance) int {
		if c := a.Dialed().Compare(b.Dialed()); c != 0 {
			return c
		}
		switch {
		case a.MeshPort != 0 && b.MeshPort == 0:
			return -1
		case a.MeshPort == 0 && b.MeshPort != 0:
			return 1
		}
		return cmp.Or(cmp.Compare(a.Health, b.Health), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Port, b.Port))
	})
	return slices.CompactFunc(instances, func(a, b *Instance) bool { return a.Dialed() == b.Dialed() })
}
