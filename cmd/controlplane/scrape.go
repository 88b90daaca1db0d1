package main

import (
	"net/netip"
	"slices"

	"datapunk.dev/controlplane/admin"
	"datapunk.dev/controlplane/watch"
)

// scrape says how the mesh file in force wants proxies scraped.
func (p *plane) scrape() admin.Scrape {
	m := p.mesh.Load().Metrics
	return admin.Scrape{Enabled: m.Enabled, Path: m.Path, Interval: m.ScrapeInterval, Port: m.Port}
}

// registered reports whether the catalog that is served has an instance of the
// service at the address.
func (p *plane) registered(service string, at netip.Addr) bool {
	snapshot := p.loop.Status().Snapshot
	if snapshot == nil {
		return false
	}
	entry := snapshot.Input.Catalog.Service(snapshot.Input.Mesh.Service(service).ConsulService)
	return entry != nil && slices.ContainsFunc(entry.Instances, func(i *watch.Instance) bool { return i.Address.Unmap() == at.Unmap() })
}
