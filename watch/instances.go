package watch

import (
	"cmp"
	"slices"
)

// Distinct orders instances as a [Service] has them and makes those that share
// an address and port one: the healthier, or the one whose ID comes first. It
// works in place.
func Distinct(instances []*Instance) []*Instance {
	slices.SortFunc(instances, func(a, b *Instance) int {
		if c := cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Host, b.Host)); c != 0 {
			return c
		}
		if c := cmp.Compare(a.Port, b.Port); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.Health, b.Health), cmp.Compare(a.ID, b.ID), cmp.Compare(a.MeshPort, b.MeshPort))
	})
	return slices.CompactFunc(instances, func(a, b *Instance) bool {
		return a.Address == b.Address && a.Host == b.Host && a.Port == b.Port
	})
}
