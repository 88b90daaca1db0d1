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
	"time"

	"datapunk.dev/controlplane/resource"
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

// What the control plane writes into the metadata of the instances that it has
// registered itself: who manages them, which of its replicas made the entry, and
// when. They are in no [Instance]: one that passes from one replica to another has
// not changed.
const (
	MetaManagedBy = "managed-by" // ManagedBy and the name of the mesh
	MetaOwner     = "owner"
	MetaSince     = "owned-since"

	ManagedBy = "controlplane/"
)

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
	Host     string // the name to resolve where there is no Address, as [Hostname] has it
	Port     uint16 // the application's port
	MeshPort uint16 // the sidecar's mTLS port (meta mesh_port); 0: not in the mesh
	Weight   uint32 // 0: nothing new goes there, as in maintenance
	Health   Health
	// Datacenter is the catalog's of which the instance is; empty where there is one.
	Datacenter string
	Zone       string
	Tags       []string // sorted
	Meta       map[string]string
	NodeMeta   map[string]string // of its node, what was asked for and Meta does not have
}

// Equal reports whether two instances are the same to every reader.
func (i *Instance) Equal(o *Instance) bool {
	return i.ID == o.ID && i.Address == o.Address && i.Host == o.Host && i.Port == o.Port && i.MeshPort == o.MeshPort &&
		i.Weight == o.Weight && i.Health == o.Health && i.Datacenter == o.Datacenter && i.Zone == o.Zone &&
		slices.Equal(i.Tags, o.Tags) && maps.Equal(i.Meta, o.Meta) && maps.Equal(i.NodeMeta, o.NodeMeta)
}

// Excluded is an entry of the catalog that cannot be served, with the reason.
type Excluded struct {
	ID     string
	Reason string
}

// Service is one service of the catalog, under the catalog's name.
type Service struct {
	Name      string
	Instances []*Instance // ordered by what is dialed, which no two have alike
	Excluded  []Excluded  // ordered by ID
	// Unselected is why the mesh's [Selection] leaves all of its instances out; empty: it
	// does not.
	Unselected string
}

// Equal reports whether two services are the same to every reader.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name && s.Unselected == o.Unselected &&
		slices.EqualFunc(s.Instances, o.Instances, (*Instance).Equal) &&
		slices.Equal(s.Excluded, o.Excluded)
}

// Empty reports whether the catalog has no entry of the service. It may be nil.
func (s *Service) Empty() bool { return s == nil || len(s.Instances)+len(s.Excluded) == 0 }

// Catalog is one state of the catalog. The zero value is not useful; start
// from [NewCatalog].
type Catalog struct {
	services *resource.Tree[*Service]
	history  resource.History
	learned  time.Time
	digest   Digest
}

// NewCatalog returns an empty catalog that descends from nothing.
func NewCatalog() *Catalog {
	return &Catalog{services: resource.NewTree[*Service](), history: resource.NewHistory()}
}

// Service returns the service with the catalog's name, or nil.
func (c *Catalog) Service(name string) *Service {
	s, _ := c.services.Get(name)
	return s
}

// Len returns the number of services.
func (c *Catalog) Len() int { return c.services.Len() }

// Services iterates over all services in the order of their names.
func (c *Catalog) Services() iter.Seq[*Service] { return c.services.Values() }

// Update returns the successor of c with the services put in and the names
// removed. What is equal to what c has is no change; if nothing changes,
// Update returns c itself.
func (c *Catalog) Update(put []*Service, remove []string) *Catalog {
	edit := c.services.Edit()
	digest := c.digest
	var changed []string
	for _, s := range put {
		old, _ := edit.Get(s.Name)
		if old != nil && old.Equal(s) {
			continue
		}
		digest = digest.toggle(old).toggle(s)
		edit.Put(s.Name, s)
		changed = append(changed, s.Name)
	}
	for _, name := range remove {
		if old, ok := edit.Delete(name); ok {
			digest = digest.toggle(old)
			changed = append(changed, name)
		}
	}
	if len(changed) == 0 {
		return c
	}
	return &Catalog{services: edit.Tree(), history: c.history.Then(changed), digest: digest}
}

// LearnedAt returns the catalog with the time at which its source was told of the
// oldest change in it.
func (c *Catalog) LearnedAt(t time.Time) *Catalog {
	dated := *c
	dated.learned = t
	return &dated
}

// Learned returns when the source was told of the oldest change in the catalog;
// zero if that is not known.
func (c *Catalog) Learned() time.Time { return c.learned }

// ChangedSince returns the names of the services that may differ between base,
// an earlier state of the same catalog, and c; a name may come twice. It is false
// when that is not known, and the two must be compared whole.
func (c *Catalog) ChangedSince(base *Catalog) ([]string, bool) {
	if base == nil {
		return nil, false
	}
	return c.history.Since(base.history)
}
