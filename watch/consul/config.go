package consul

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/watch"
)

// Config is how to read the catalog.
type Config struct {
	// Consistency of the watches: "stale" (default) lets any server answer,
	// "default" and "consistent" need a leader.
	Consistency string
	// Wait is how long a query blocks when nothing changes; default 55 s, at
	// most 10 min. It bounds for how long an index that Consul no longer knows
	// can blind a watch.
	Wait time.Duration
	// Datacenter is the name that instances have of the one that is read; empty:
	// there is one, and they have none.
	Datacenter string
	// Guard says which removals are held.
	Guard Guard
	// Sidecar says what is known of the sidecar of an instance of a service; nil:
	// nothing ever is. [Source.SidecarsMoved] says that it would answer otherwise.
	Sidecar func(service string, i *watch.Instance) watch.Presence
	// Answered is told how long Consul took for a request that does not block;
	// nil: nobody is.
	Answered func(time.Duration)
}

// Guard says which removals are not believed at once. Zero values are replaced
// by the defaults.
type Guard struct {
	// Service is the share of a service's instances that may go at once; 0.5.
	// The last instances of a service are always confirmed.
	Service float64
	// Mesh is the share of all instances that may go within Window, and Window
	// its length; 0.15 and 60 s.
	Mesh   float64
	Window time.Duration
	// Confirm is the time to the first confirming read, and between the two;
	// 3 s. An agent that restarts is back within that time, and a service that
	// was scaled to zero is gone after 6 s. Where instances stay, or something
	// else may confirm it, a read after 15 ms comes before them.
	Confirm time.Duration
	// Sidecar is for how long an instance is kept that the catalog dropped while
	// its sidecar is connected; 1 min. An agent that restarts leaves with
	// everything on it and is back within seconds. What was deregistered by
	// itself, with its agent staying, is not kept.
	Sidecar time.Duration
	// Restored is how long removals are held after Consul's index went back (a
	// server wiped, or restored from a snapshot); 2 min, two of the periods in
	// which agents register again what their server does not know.
	Restored time.Duration
}

// Demand is which services are wanted.
type Demand struct {
	// Services are wanted by name, whether the catalog has them or not.
	Services []string
	// MeshOnly adds the services that have an instance with meta mesh_port;
	// without it, every service is added that is no proxy or gateway, nor
	// Consul itself.
	MeshOnly bool
	// Select is which part of what Consul has is in the mesh. What it leaves out is gone
	// at once: nobody doubts it.
	Select watch.Selection
	// NodeMeta are the keys that instances are to have of their nodes' metadata, sorted.
	NodeMeta []string
	// Guard says which removals are held from then on; the zero value: as
	// [Config.Guard] says.
	Guard Guard
}

func (d Demand) clone() Demand {
	d.Services, d.NodeMeta, d.Select = slices.Clone(d.Services), slices.Clone(d.NodeMeta), d.Select.Clone()
	return d
}

// canary is the service that every Consul has: its servers. Where a token
// could see it and no longer can, the token has lost its rights.
const canary = "consul"

// filter is the bexpr that selects the demanded services, and the canary, of
// /v1/catalog/services. A sidecar registered by Consul inherits its parent's
// metadata: hence the kind.
func (d Demand) filter() string {
	var wanted []string
	if d.MeshOnly {
		wanted = append(wanted, fmt.Sprintf(`%q in ServiceMeta`, watch.MetaMeshPort))
	}
	for _, tag := range d.Select.Tags {
		wanted = append(wanted, fmt.Sprintf(`%q in ServiceTags`, tag))
	}
	if len(wanted) == 0 {
		return `ServiceKind == ""`
	}
	return fmt.Sprintf(`ServiceKind == "" and (%s or ServiceName == %q)`, strings.Join(wanted, " and "), canary)
}

// spare is how many connections of the budget the blocking queries of services
// leave to the list, the trigger's two, and reads that do not block.
const spare = 3 + maxReads

func (c Config) withDefaults() (Config, error) {
	if c.Consistency == "" {
		c.Consistency = "stale"
	}
	if c.Wait == 0 {
		c.Wait = 55 * time.Second
	}
	c.Guard = c.Guard.withDefaults()
	var errs []error
	if !slices.Contains([]string{"stale", "default", "consistent"}, c.Consistency) {
		errs = append(errs, fmt.Errorf("consistency %q is none of stale, default, consistent", c.Consistency))
	}
	if c.Wait < time.Second || c.Wait > 10*time.Minute {
		errs = append(errs, fmt.Errorf("wait %s is not from 1s to 10m", c.Wait))
	}
	return c, errors.Join(errs...)
}

func (g Guard) withDefaults() Guard {
	if g.Service == 0 {
		g.Service = 0.5
	}
	if g.Mesh == 0 {
		g.Mesh = 0.15
	}
	if g.Window == 0 {
		g.Window = time.Minute
	}
	if g.Confirm == 0 {
		g.Confirm = 3 * time.Second
	}
	if g.Sidecar == 0 {
		g.Sidecar = time.Minute
	}
	if g.Restored == 0 {
		g.Restored = 2 * time.Minute
	}
	return g
}
