package consul

import (
	"fmt"
	"maps"
	"time"

	"datapunk.dev/controlplane/watch"
)

// A wiped or leaderless server answers 200 and an empty list; so does any
// server to a token that lost its rights. Believed, such an answer takes every
// instance out of every Envoy. And an agent that restarts takes its services
// out for as long as that lasts. So a removal is judged by two witnesses, the
// catalog and the instance's sidecar, and what is doubted is held: it stays in
// the catalog until it is back, or until it is confirmed.
//
//	sidecar     the catalog says that it is gone
//	has left    believed at once
//	unseen      believed at once if few went, by one consistent read if
//	            instances stay, by two else
//	connected   held for [Guard.Sidecar], unless the entry went by itself, its
//	            node and others on it staying, or is another service's now
//
// What says that Consul itself is not to be believed holds all of them.

// meshLeast is how many instances must have gone before their share of the
// mesh means anything.
const meshLeast = 3

// removals are the instances that went, unconfirmed, within the window.
type removals struct {
	log   []removal
	count int
}

type removal struct {
	at    time.Time
	count int
}

// within forgets what is as old as the window and returns the rest.
func (r *removals) within(now time.Time, window time.Duration) int {
	for len(r.log) > 0 && now.Sub(r.log[0].at) >= window {
		r.count -= r.log[0].count
		r.log = r.log[1:]
	}
	return r.count
}

func (r *removals) add(now time.Time, count int) {
	if count > 0 {
		r.log = append(r.log, removal{now, count})
		r.count += count
	}
}

// missing are the places of known that seen does not have. What is there and not
// selected is not missed, be it all of a service: the limit of doc.go.
func missing(known *watch.Service, seen answer) map[place]struct{} {
	gone := make(map[place]struct{})
	if known == nil {
		return gone
	}
	for _, i := range known.Instances {
		gone[at(i)] = struct{}{}
	}
	for _, i := range seen.service.Instances {
		delete(gone, at(i))
	}
	for p := range seen.unselected {
		delete(gone, p)
	}
	return gone
}

// keep returns seen together with those instances of known whose place is in
// gone.
func keep(known, seen *watch.Service, gone map[place]struct{}) *watch.Service {
	if len(gone) == 0 {
		return seen
	}
	both := *seen
	instances := append([]*watch.Instance(nil), seen.Instances...)
	for _, i := range known.Instances {
		if _, ok := gone[at(i)]; ok {
			instances = append(instances, i)
		}
	}
	both.Instances = watch.Distinct(instances)
	return &both
}

// suspicion is why a removal cannot be believed at once. The zero value is none.
type suspicion struct {
	why string
	// consul says that it is Consul that cannot be believed, whatever a sidecar
	// says.
	consul bool
}

// suspicion judges a removal of which left are instances whose sidecars have
// left too.
func (s *Source) suspicion(svc *service, seen answer, left int, now time.Time) suspicion {
	known, g := len(svc.known.Instances), s.cfg.Guard
	stay := seen.stay(svc.known)
	// Instances that were replaced are not gone: a lost catalog has no new ones.
	net := known - stay - left
	inMesh := s.removals.within(now, g.Window)
	switch {
	case seen.filtered && !svc.filtered:
		return suspicion{errSeesLess.Error(), true}
	case seen.index == svc.index:
		return suspicion{"Consul's index did not move", true}
	case seen.index < svc.index, s.unsettled(svc, now):
		return suspicion{"Consul's index went back", true}
	case stay == 0:
		return suspicion{why: "no instance is left"}
	case net >= 2 && float64(net) > g.Service*float64(known):
		return suspicion{why: fmt.Sprintf("%d of its %d instances at once", net, known)}
	case net > 0 && inMesh+net >= meshLeast && float64(inMesh+net) > g.Mesh*float64(s.instances+inMesh):
		return suspicion{why: fmt.Sprintf("%d of %d instances of the mesh within %s", inMesh+net, s.instances+inMesh, g.Window)}
	case seen.streamed && !s.client.Anonymous():
		// One read of what no backend streams says so, 15 ms later.
		return suspicion{why: "the token may see less than before"}
	}
	return suspicion{}
}

// unsettled is whether Consul was wiped or restored a while ago, and the
// service has not been seen whole since.
func (s *Source) unsettled(svc *service, now time.Time) bool {
	return now.Sub(s.restored) < s.cfg.Guard.Restored && !svc.whole.After(s.restored)
}

// sidecar says what is known of the sidecar of an instance. One that takes no
// new requests is not missed: whoever drained it may take it away.
func (s *Source) sidecar(svc *service, i *watch.Instance) watch.Presence {
	if s.cfg.Sidecar == nil {
		return watch.Unseen
	}
	p := s.cfg.Sidecar(svc.name, i)
	if p == watch.Connected && (i.Health >= watch.Maintenance || i.Weight == 0) {
		return watch.Unseen
	}
	return p
}

// sidecars says what is known of the sidecars of the instances that are gone.
// An entry that is there, and listens elsewhere now, is none to ask about.
func (s *Source) sidecars(svc *service, seen answer, gone map[place]struct{}) (left, connected map[place]struct{}) {
	left, connected = make(map[place]struct{}), make(map[place]struct{})
	for _, i := range svc.known.Instances {
		p := at(i)
		if _, ok := gone[p]; !ok {
			continue
		}
		switch s.sidecar(svc, i) {
		case watch.Left:
			left[p] = struct{}{}
		case watch.Connected:
			if o, ok := svc.from[p]; !ok || !seen.has(o) {
				connected[p] = struct{}{}
			}
		}
	}
	return left, connected
}

// judge takes an answer of a service's watch.
func (s *Source) judge(svc *service, seen answer) {
	now := time.Now()
	gone := missing(svc.known, seen)
	if len(gone) == 0 {
		s.release(svc, isBack)
		s.accept(svc, seen)
		return
	}
	left, connected := s.sidecars(svc, seen, gone)
	of := s.suspicion(svc, seen, len(left), now)
	var doubted map[place]struct{}
	switch {
	case of.consul:
		doubted = maps.Clone(gone)
	case of.why == "":
		doubted = connected
	default:
		doubted = without(gone, left)
	}
	if h := svc.hold; h != nil && h.refused {
		for p := range gone {
			if _, ok := h.missing[p]; ok {
				doubted[p] = struct{}{}
			}
		}
	}
	if len(doubted) == 0 {
		if len(left) < len(gone) {
			s.removals.add(now, len(svc.known.Instances)-seen.stay(svc.known)-len(left))
		}
		s.release(svc, isOrdinary)
		s.accept(svc, seen)
		return
	}
	if of.why == "" {
		of.why = sidecarsConnected
	}
	s.doubt(svc, seen, doubted, of, now)
}

// without returns those of the places that are not among the others.
func without(places, others map[place]struct{}) map[place]struct{} {
	rest := make(map[place]struct{}, len(places))
	for p := range places {
		if _, ok := others[p]; !ok {
			rest[p] = struct{}{}
		}
	}
	return rest
}
