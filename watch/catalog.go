// Package watch holds the catalog: which services exist, where their instances
// listen, and how healthy they are. Its sub-packages fill it from Consul and
// from a YAML file. It knows nothing of Envoy, gRPC or the mesh file.
//
// A [Catalog] is immutable and shared by pointer. Each one carries the names
// that changed since its predecessor, so that a reader's work is in proportion
// to the change and not to the size of the mesh.
package watch

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Health is what the catalog says of an instance.
type Health uint8

// The states of an instance, best first.
const (
	Passing     Health = iota // takes traffic
	Warning                   // takes traffic, with its warning weight
	Maintenance               // takes no new traffic, keeps what it has
	Critical                  // takes no traffic, stays known
)

// MetaMeshPort is the key of an instance's metadata that puts it in the mesh:
// the port where its sidecar takes mTLS.
const MetaMeshPort = "mesh_port"

// String returns the word that the file catalog and Consul use.
func (h Health) String() string {
	switch h {
	case Passing:
		return "passing"
	case Warning:
		return "warning"
	case Maintenance:
		return "maintenance"
	default:
		return "critical"
	}
}

// Instance is one place where a service listens. Instances are compared with
// [Instance.Equal]; what is not in it cannot wake a reader.
type Instance struct {
	ID       string
	Address  netip.Addr
	Port     uint16 // the application's port
	MeshPort uint16 // the sidecar's mTLS port (meta mesh_port); 0: not in the mesh
	Weight   uint32 // 0 drains
	Health   Health
	Zone     string
	Tags     []string // sorted
	Meta     map[string]string
}

// Equal reports whether two instances are the same to every reader.
func (i *Instance) Equal(o *Instance) bool {
	return i.ID == o.ID && i.Address == o.Address && i.Port == o.Port && i.MeshPort == o.MeshPort &&
		i.Weight == o.Weight && i.Health == o.Health && i.Zone == o.Zone &&
		slices.Equal(i.Tags, o.Tags) && maps.Equal(i.Meta, o.Meta)
}

// Excluded is an entry of the catalog that cannot be served, with the reason.
type Excluded struct {
	ID     string
	Reason string
}

// Service is one service of the catalog, under the catalog's name.
type Service struct {
	Name      string
	Instances []*Instance // ordered by address, port and ID
	Excluded  []Excluded  // ordered by ID
}

// Equal reports whether two services are the same to every reader.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name &&
		slices.EqualFunc(s.Instances, o.Instances, (*Instance).Equal) &&
		slices.Equal(s.Excluded, o.Excluded)
}

// Catalog is one state of the catalog. The zero value is not useful; start
// from [NewCatalog].
type Catalog struct {
	services *iradix.Tree[*Service]
	lineage  *lineage
	seq      uint64 // position within the lineage
	from     uint64 // the position that changed is relative to
	changed  map[string]struct{}
}

// lineage ties catalogs that descend from one another; those of two lineages
// can only be compared whole.
type lineage struct{ _ byte }

// NewCatalog returns an empty catalog that descends from nothing.
func NewCatalog() *Catalog {
	return &Catalog{services: iradix.New[*Service](), lineage: &lineage{}}
}

// Service returns the service with the catalog's name, or nil.
func (c *Catalog) Service(name string) *Service {
	s, _ := c.services.Get([]byte(name))
	return s
}

// Len returns the number of services.
func (c *Catalog) Len() int { return c.services.Len() }

// Services iterates over all services in the order of their names.
func (c *Catalog) Services() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		it := c.services.Root().Iterator()
		for _, s, ok := it.Next(); ok; _, s, ok = it.Next() {
			if !yield(s) {
				return
			}
		}
	}
}

// Update returns the successor of c with the services put in and the names
// removed. What is equal to what c has is no change; if nothing changes,
// Update returns c itself.
func (c *Catalog) Update(put []*Service, remove []string) *Catalog {
	txn := c.services.Txn()
	changed := make(map[string]struct{})
	for _, s := range put {
		if old, ok := txn.Get([]byte(s.Name)); ok && old.Equal(s) {
			continue
		}
		txn.Insert([]byte(s.Name), s)
		changed[s.Name] = struct{}{}
	}
	for _, name := range remove {
		if _, ok := txn.Delete([]byte(name)); ok {
			changed[name] = struct{}{}
		}
	}
	if len(changed) == 0 {
		return c
	}
	return &Catalog{services: txn.Commit(), lineage: c.lineage, seq: c.seq + 1, from: c.seq, changed: changed}
}

// After returns c with the changes of skipped, its predecessor, added: what a
// reader must see that never saw skipped.
func (c *Catalog) After(skipped *Catalog) *Catalog {
	if skipped == nil || skipped == c || c.lineage != skipped.lineage || c.from != skipped.seq {
		return c
	}
	merged := *c
	merged.from = skipped.from
	merged.changed = maps.Clone(skipped.changed)
	if merged.changed == nil {
		merged.changed = make(map[string]struct{})
	}
	maps.Copy(merged.changed, c.changed)
	return &merged
}

// ChangedSince returns the names of the services that may differ between base
// and c. It is false when that is not known and the two must be compared whole.
func (c *Catalog) ChangedSince(base *Catalog) (map[string]struct{}, bool) {
	switch {
	case base == nil || c.lineage != base.lineage:
		return nil, false
	case c.seq == base.seq:
		return nil, true
	case c.from == base.seq:
		return c.changed, true
	}
	return nil, false
}
