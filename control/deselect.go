package control

import (
	"fmt"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
)

// deselects says what an edit of `discovery.consul.select` takes out of the catalog in
// force, if that is much. See [policy.Judge].
func (p *Plane) deselects(last, next *policy.Mesh) []string {
	snapshot := p.loop.Status().Snapshot
	if snapshot == nil || targetOf(p.Catalog, next).file != "" {
		return nil
	}
	return deselected(last, next, snapshot.Input.Catalog)
}

// deselected counts what the next mesh file leaves out of a catalog of Consul, and the
// last one does not.
func deselected(last, next *policy.Mesh, catalog *watch.Catalog) []string {
	was := watch.Selection(last.Discovery.Consul.Select)
	is := watch.Selection(next.Discovery.Consul.Select)
	if was.Equal(is) {
		return nil
	}
	before, after := catalog.Select(was), catalog.Select(is)
	var why []string
	for _, kind := range []struct {
		what          string
		before, after int
	}{
		{"services", peopled(before), peopled(after)},
		{"instances", instances(before), instances(after)},
	} {
		if policy.Much(kind.before, kind.after) {
			why = append(why, fmt.Sprintf("%s: %d %s of the catalog are left of %d", next.Source("discovery.consul.select"), kind.after, kind.what, kind.before))
		}
	}
	return why
}

// peopled counts services that have instances.
func peopled(c *watch.Catalog) (n int) {
	for s := range c.Services() {
		if len(s.Instances) > 0 {
			n++
		}
	}
	return n
}

func instances(c *watch.Catalog) (n int) {
	for s := range c.Services() {
		n += len(s.Instances)
	}
	return n
}
