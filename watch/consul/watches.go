package consul

import (
	"cmp"
	"slices"
	"time"

	"datapunk.dev/controlplane/watch"
)

// activity is when a service last changed, and the time before. Who has changed
// twice of late will change again: one change alone, of each service in its
// turn, is no reason to take a watch from another.
type activity struct{ last, before time.Time }

func (a *activity) note(now time.Time) { a.last, a.before = now, a.last }

// room is how many services can have a watch of their own.
func (s *Source) room() int {
	if s.http2 {
		return len(s.services)
	}
	return s.client.MaxConnections() - spare
}

// crowded reports whether there are more services than can have a watch of
// their own.
func (s *Source) crowded() bool {
	if s.http2 {
		return false
	}
	all := len(s.services)
	for name := range s.named {
		if s.services[name] == nil {
			all++
		}
	}
	for name := range s.listed {
		_, named := s.named[name]
		if s.services[name] == nil && !named {
			all++
		}
	}
	return all > s.room()
}

// before orders services by who needs a watch of its own more: those that there
// are, those that change, those that are wanted by name, the larger ones.
func (s *Source) before(a, b *service) int {
	_, an := s.named[a.name]
	_, bn := s.named[b.name]
	return cmp.Or(
		first(size(a.known) > 0, size(b.known) > 0),
		b.activity.before.Compare(a.activity.before),
		first(an, bn),
		cmp.Compare(size(b.known), size(a.known)),
		cmp.Compare(a.name, b.name),
	)
}

func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func size(known *watch.Service) int {
	if known == nil {
		return 0
	}
	return len(known.Instances) + len(known.Excluded)
}

// balance gives free connections to services without a watch of their own, and
// reads the checks for the others while there are any. Where there are more
// services than connections, nobody has one before all are known.
func (s *Source) balance() {
	free := s.room() - (len(s.services) - s.cold)
	if s.cold > 0 && free > 0 && (s.ready || s.unsynced == 0 || !s.crowded()) {
		for _, svc := range s.coldest(free) {
			svc.claims = false
			svc.release()
			s.cold--
			s.stats.cold.Add(-1)
			s.follow(svc, false)
		}
	}
	switch {
	case s.cold > 0 && s.trigger == nil:
		s.startTrigger()
	case s.cold == 0 && s.trigger != nil:
		s.trigger.stop()
		s.trigger = nil
	}
	switch {
	case s.http2:
		s.health.setMode("http2")
	case s.cold > 0:
		s.health.setMode("http1+trigger")
		s.advise()
	default:
		s.health.setMode("http1")
	}
}

// coldest returns those n of the services without a watch that need one most.
func (s *Source) coldest(n int) []*service {
	var cold []*service
	for _, svc := range s.services {
		if svc.cold {
			cold = append(cold, svc)
		}
	}
	slices.SortFunc(cold, s.before)
	return cold[:min(n, len(cold))]
}

// claim has a service without a watch take the place of one that needs its own
// less, if there is one.
func (s *Source) claim(svc *service) {
	if !svc.cold || svc.claims || !s.ready {
		return
	}
	var least *service
	for _, other := range s.services {
		if !other.cold && !other.yields && (least == nil || s.before(least, other) < 0) {
			least = other
		}
	}
	if least != nil && s.before(svc, least) < 0 {
		svc.claims, least.yields = true, true
	}
}

// yield gives a watch away that another service claims. It is called when the
// watch has been answered, so that no query is cut off: Consul would count its
// connection until it noticed, and the next one with it.
func (s *Source) yield(svc *service) {
	if !svc.yields || svc.cold || s.services[svc.name] != svc {
		return
	}
	svc.yields = false
	next := s.coldest(1)
	if len(next) == 0 || s.before(next[0], svc) > 0 {
		return
	}
	next[0].claims = false
	svc.release()
	s.follow(svc, true)
	s.balance()
}

// advise says once what the operator can do.
func (s *Source) advise() {
	if s.advised {
		return
	}
	s.advised = true
	s.log.Warn("more services than connections: over HTTPS a few carry every watch, and a change is seen in 2 ms (discovery.consul.scheme: https)",
		"services", len(s.services), "watches", s.room())
}
