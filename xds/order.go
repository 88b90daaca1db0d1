package xds

import (
	"slices"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
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
	// began is when the client asked for clusters; zero: it has not.
	began time.Time
}

// envoyAgent is what an Envoy says that it is.
const envoyAgent = "envoy"

// initializing reports whether the client is an Envoy that has its first clusters and
// waits for them to be warm. Then a cluster that it has may not be replaced: of one whose
// endpoints are not there yet, and that is replaced by one of another kind (DNS names),
// it goes on waiting for the endpoints of the old one, and never is ready. It asks for
// listeners when all are warm. A client that never asks for them is not waited for.
func (s *stream) initializing(now time.Time) bool {
	if !s.aggregated || s.types[resource.Listener].sub.active || s.node.Agent != envoyAgent || s.order.began.IsZero() {
		return false
	}
	until := s.order.began.Add(s.server.options.Timeouts.Initialize)
	if !now.Before(until) {
		return false
	}
	s.pushAgainAt(until)
	return true
}

// waitsForEndpoints reports whether the client is an Envoy that has a cluster which is
// served in another form now, without an assignment, and is not sent that yet.
func (s *stream) waitsForEndpoints(name string) bool {
	n := s.types[resource.Cluster].names[name]
	return n != nil && n.has != nil && s.initializing(time.Now()) && slices.Contains(n.has.Refs, resource.Endpoint.Ref(name))
}

// noEndpoints is an assignment without any, by which such a cluster is warm at once, and
// not after the 15 s that Envoy waits for it.
func noEndpoints(name string) *resource.Resource {
	return &resource.Resource{Type: resource.Endpoint, Name: name, Version: "none", Body: wire.OnlyName(name)}
}

// removalOrder has what refers to others before what it refers to. Backward, it has
// what others need first. Types are added in the order of package resource.
var removalOrder = [...]resource.Type{resource.Listener, resource.Extension, resource.ScopedRoute, resource.Route, resource.Cluster, resource.Endpoint, resource.Secret, resource.Runtime}

// waits says what a change of each type waits for.
var waits = [resource.NumTypes]struct {
	// add: a resource waits for those of these types that it refers to, until the
	// client has acknowledged them.
	add []resource.Type
	// remove: a resource that is gone stays with the client until that has
	// acknowledged everything of these types, any of which may have referred to it.
	remove []resource.Type
}{
	resource.Cluster:   {remove: []resource.Type{resource.Listener, resource.Extension, resource.ScopedRoute, resource.Route}},
	resource.Endpoint:  {remove: []resource.Type{resource.Listener, resource.ScopedRoute, resource.Route, resource.Cluster}},
	resource.Secret:    {remove: []resource.Type{resource.Listener, resource.ScopedRoute, resource.Route, resource.Cluster}},
	resource.Listener:  {add: []resource.Type{resource.Cluster}},
	resource.Extension: {add: []resource.Type{resource.Cluster}, remove: []resource.Type{resource.Listener}},
	resource.Route:     {add: []resource.Type{resource.Cluster}, remove: []resource.Type{resource.Listener, resource.ScopedRoute}},
}

// pushInOrder pushes each type in the order of additions, then once more the types
// whose removals waited only because a later type had not been looked at.
func (s *stream) pushInOrder(v *view, now time.Time) {
	for t := range s.types {
		s.types[t].push(v, now)
	}
	for _, t := range removalOrder {
		if ts := &s.types[t]; ts.postponed {
			ts.push(v, now)
		}
	}
}

// mayAdd reports whether the client may have the resource already. It waits for
// what it refers to, but not for ever: for Envoy the ACK of a cluster means that it
// is warm.
func (s *stream) mayAdd(v *view, r *resource.Resource, n *nameState, now time.Time) bool {
	for _, ref := range r.Refs {
		if !slices.Contains(waits[r.Type].add, ref.Type) || s.inPlace(v, ref) {
			continue
		}
		if n.since.IsZero() {
			n.since = now
		}
		until := n.since.Add(s.server.options.Timeouts.Warm)
		if now.Before(until) {
			s.pushAgainAt(until)
			return false
		}
		s.log.Warn("sent before what it refers to was acknowledged", "type", r.Type.String(), "name", r.Name, "of", ref.Type.String(), "refers_to", ref.Name)
		break
	}
	return true
}

// inPlace reports whether there is nothing to wait for: the client has acknowledged
// the resource, or some version of it, or will not get it: it rejected it, or did
// not ask.
func (s *stream) inPlace(v *view, ref resource.Ref) bool {
	ts := &s.types[ref.Type]
	if !ts.sub.active || !ts.sub.has(ref.Name) || v.get(ref.Type, ref.Name) == nil {
		return true
	}
	if n := ts.names[ref.Name]; n != nil {
		return n.known() != "" || n.rejection != nil
	}
	if !ts.base.known() || ts.base.get(ref.Name) == nil {
		return false
	}
	return !slices.ContainsFunc(ts.inflight, func(r *response) bool { return r.introduces(ref.Name) })
}

// mayRemove reports whether resources of the type may be removed now.
func (s *stream) mayRemove(t resource.Type, v *view, now time.Time) bool {
	for _, needs := range waits[t].remove {
		if !s.ackedAll(needs, v, now) {
			return false
		}
	}
	return true
}

// removalsWaitForGood reports whether those of a type wait for something that the client
// has rejected, and works without: until that changes, nothing becomes of them.
func (s *stream) removalsWaitForGood(t resource.Type) bool {
	for _, needs := range waits[t].remove {
		for _, n := range s.types[needs].names {
			if n.rejection != nil {
				return true
			}
		}
	}
	return false
}

// ackedAll reports whether the client has acknowledged the view's state of the
// type. A response that is not answered for long counts as acknowledged; a
// rejected one never: the client still works with what was before.
func (s *stream) ackedAll(t resource.Type, v *view, now time.Time) bool {
	ts := &s.types[t]
	if !ts.sub.active {
		return true
	}
	if !ts.quiescent(v) {
		return false
	}
	if n := len(ts.inflight); n > 0 {
		until := ts.inflight[n-1].at.Add(s.server.options.Timeouts.Warm)
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
	ts := &s.types[resource.Endpoint]
	if !ts.sub.active && s.types[resource.Cluster].reported == 0 {
		o.everyCluster = true
		return
	}
	for _, c := range changes {
		if c.res == nil {
			continue
		}
		name := assignment(c.res)
		if !ts.sub.active {
			if o.rewarm == nil {
				o.rewarm = make(map[string]struct{})
			}
			o.rewarm[name] = struct{}{}
			continue
		}
		d := ts.names[name]
		if d == nil && ts.base.known() { // else it is about to be sent all
			d = ts.track(name)
		}
		if d != nil {
			d.request()
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
