package xds

import (
	"time"

	"datapunk.dev/controlplane/resource"
)

// order is the make-before-break of one stream.
//
// "In general, to avoid traffic drop, sequencing of updates should follow a
// make before break model, wherein:
//   - CDS updates (if any) must always be pushed first.
//   - EDS updates (if any) must arrive after CDS updates for the respective clusters.
//   - LDS updates must arrive after corresponding CDS/EDS updates.
//   - RDS updates related to the newly added listeners must arrive after CDS/EDS/LDS updates.
//   - [...]
//   - Stale CDS clusters and related EDS endpoints (ones no longer being
//     referenced) can then be removed."
//
// "Routes are not warmed, i.e., the management plane must ensure that clusters
// referenced by a route are in place, before pushing the updates for a route."
type order struct {
	// everyCluster says that the first response of this stream held all
	// clusters as new: the client needs every assignment, whatever it had.
	everyCluster bool
	// rewarm are clusters that were sent before the client asked for their
	// assignments on this stream.
	rewarm map[string]struct{}
}

// mayAdd reports whether the client may have the resource already. A route or
// listener waits until the client has acknowledged, which for Envoy means
// warmed, each new cluster that it names, but not for ever.
func (s *stream) mayAdd(v *view, r *resource.Resource, d *diff, now time.Time) bool {
	if r.Type != resource.Route && r.Type != resource.Listener {
		return true
	}
	for _, ref := range r.Refs {
		if ref.Type != resource.Cluster || s.clusterReady(v, ref.Name) {
			continue
		}
		if d.since.IsZero() {
			d.since = now
		}
		until := d.since.Add(s.server.options.Timeouts.Warm)
		if now.Before(until) {
			s.pushAgainAt(until)
			return false
		}
		s.log.Warn("sent before its cluster was acknowledged", "type", typeName(r.Type), "name", r.Name, "cluster", ref.Name)
		break
	}
	return true
}

// clusterReady reports whether there is nothing to wait for: the client has
// acknowledged the cluster, or some version of it, or will not get it: it
// refused it, or did not ask.
func (s *stream) clusterReady(v *view, name string) bool {
	f := &s.feeds[resource.Cluster]
	if !f.sub.active || !f.sub.has(name) || v.get(resource.Cluster, name) == nil {
		return true
	}
	if d := f.diffs[name]; d != nil {
		return d.known() != "" || d.held != nil
	}
	if !f.base.known() || f.base.get(name) == nil {
		return false
	}
	for _, r := range f.inflight {
		if r.introduces(name) {
			return false
		}
	}
	return true
}

// mayRemove reports whether resources of the type may be removed now: once the
// client has acknowledged all that may have stopped to need them.
func (s *stream) mayRemove(t resource.Type, v *view, now time.Time) bool {
	switch t {
	case resource.Runtime, resource.Listener, resource.Route:
		return true
	case resource.Cluster:
		return s.settled(resource.Listener, v, now) && s.settled(resource.Route, v, now)
	default:
		return s.settled(resource.Listener, v, now) && s.settled(resource.Route, v, now) &&
			s.settled(resource.Cluster, v, now)
	}
}

// settled reports whether the client has acknowledged the view's state of the
// type. A response that is not answered for long counts as acknowledged; a
// rejected one never: the client still works with what was before.
func (s *stream) settled(t resource.Type, v *view, now time.Time) bool {
	f := &s.feeds[t]
	if !f.sub.active {
		return true
	}
	if !f.settled(v) {
		return false
	}
	if n := len(f.inflight); n > 0 {
		until := f.inflight[n-1].at.Add(s.server.options.Timeouts.Warm)
		if now.Before(until) {
			s.pushAgainAt(until)
			return false
		}
	}
	return true
}

// clustersSent has the assignments of clusters sent again, at the same version.
//
// "Warming of Cluster is completed only when a new ClusterLoadAssignment
// response is supplied by management server even though there is no change in
// endpoints." Without it Envoy waits 15 s before it uses the changed cluster.
func (o *order) clustersSent(s *stream, changes []change) {
	f := &s.feeds[resource.Endpoint]
	if !f.sub.active && s.feeds[resource.Cluster].reported == 0 {
		o.everyCluster = true
		return
	}
	for _, c := range changes {
		if c.res == nil {
			continue
		}
		name := assignment(c.res)
		if !f.sub.active {
			if o.rewarm == nil {
				o.rewarm = make(map[string]struct{})
			}
			o.rewarm[name] = struct{}{}
			continue
		}
		d := f.diffs[name]
		if d == nil && f.base.known() { // else it is about to be sent all
			d = f.noted(name)
		}
		if d != nil {
			d.tell = true
		}
	}
}

// assignment returns the name of a cluster's ClusterLoadAssignment.
func assignment(cluster *resource.Resource) string {
	for _, ref := range cluster.Refs {
		if ref.Type == resource.Endpoint {
			return ref.Name
		}
	}
	return cluster.Name
}
