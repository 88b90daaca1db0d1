package watch

import (
	"maps"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Digest sums up what a catalog holds: two that are equal to every reader have the
// same one, however they came to be so. It is kept from one catalog to the next, at
// a cost in proportion to what changed.
type Digest uint64

// String is what people compare.
func (d Digest) String() string {
	text := strconv.FormatUint(uint64(d), 16)
	return "0000000000000000"[len(text):] + text
}

// toggle takes a service in, or out again. One without entries counts for nothing: to
// some replica it may be known because it once had one.
func (d Digest) toggle(s *Service) Digest {
	if s.Empty() {
		return d
	}
	h := xxhash.New()
	// Each text goes with its length, so that no two services read alike.
	put := func(texts ...string) {
		for _, text := range texts {
			_, _ = h.WriteString(strconv.Itoa(len(text)))
			_, _ = h.WriteString(":")
			_, _ = h.WriteString(text)
		}
	}
	number := func(n int) { put(strconv.Itoa(n)) }
	put(s.Name)
	number(len(s.Instances))
	for _, i := range s.Instances {
		put(i.ID, i.Address.String(), i.Host, i.Datacenter, i.Zone, i.Health.String())
		number(int(i.Port))
		number(int(i.MeshPort))
		number(int(i.Weight))
		number(len(i.Tags))
		put(i.Tags...)
		for _, meta := range []map[string]string{i.Meta, i.NodeMeta} {
			number(len(meta))
			for _, key := range slices.Sorted(maps.Keys(meta)) {
				put(key, meta[key])
			}
		}
	}
	number(len(s.Excluded))
	for _, x := range s.Excluded {
		put(x.ID, x.Reason)
	}
	return d ^ Digest(h.Sum64())
}

// Digest returns the digest of the catalog.
func (c *Catalog) Digest() Digest { return c.digest }
