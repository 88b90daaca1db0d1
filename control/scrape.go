package control

import (
	"net/netip"
	"slices"
	"time"

	"datapunk.dev/controlplane/watch"
)

// Scrape is how Prometheus should read a proxy's metrics.
type Scrape struct {
	Enabled  bool
	Path     string
	Interval time.Duration
	Port     uint16 // of proxies whose metadata has none; 0: they are no targets
}

// Scrape says how the mesh file in force wants proxies scraped.
func (p *Plane) Scrape() Scrape {
	m := p.serving().Metrics
	return Scrape{Enabled: m.Enabled, Path: m.Path, Interval: m.ScrapeInterval, Port: m.Port}
}

// Registered reports whether the catalog that is served has an instance of the
// service at the address.
func (p *Plane) Registered(service string, at netip.Addr) bool {
	snapshot := p.loop.Status().Snapshot
	if snapshot == nil {
		return false
	}
	entry := snapshot.Input.Catalog.Service(snapshot.Input.Mesh.Service(service).ConsulService)
	return entry != nil && slices.ContainsFunc(entry.Instances, func(i *watch.Instance) bool { return i.Address.Unmap() == at.Unmap() })
}
