package consul

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"datapunk.dev/controlplane/watch"
)

// refusedNote is why a removal is held that somebody has refused.
const refusedNote = "refused by an operator: kept until it is back or accepted"

// removal is a hold as people decide on it.
func (s *Source) removal(svc *service, h *hold) *watch.Removal {
	r := &watch.Removal{Service: svc.name, Had: len(svc.known.Instances), Why: h.why, Since: h.since, Refused: h.refused}
	if h.note != "" {
		r.Why += "; " + h.note
	}
	for _, i := range svc.known.Instances {
		if _, ok := h.missing[at(i)]; ok {
			r.Instances = append(r.Instances, watch.Removed{ID: i.ID, Address: i.Dialed().String(), Sidecar: s.sidecar(svc, i)})
		}
	}
	slices.SortFunc(r.Instances, func(a, b watch.Removed) int { return cmp.Compare(a.Address, b.Address) })
	r.ID = watch.RemovalID(svc.name, s.cfg.Datacenter, r.Instances)
	switch {
	case h.refused:
	case h.back:
		r.Until = h.since.Add(s.cfg.Guard.Restored)
	case h.why == sidecarsConnected || h.note == sidecarsConnected:
		r.Until = h.since.Add(s.cfg.Guard.Sidecar)
	}
	return r
}

// Removals are those that are held, by service.
func (s *Source) Removals() []watch.Removal {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.health.removals), func(a, b watch.Removal) int { return cmp.Compare(a.Service, b.Service) })
}

// Decide takes a removal, or keeps it until it is back or accepted, as somebody has
// said by its ID. It reports whether there is one; the error is ctx's.
func (s *Source) Decide(ctx context.Context, id string, accept bool) (found bool, err error) {
	err = s.done(ctx, func() {
		for svc := range s.holding {
			h := svc.hold
			if s.removal(svc, h).ID != id {
				continue
			}
			found = true
			if accept {
				s.log.Warn("a removal is taken: an operator accepts it", "service", svc.name, "gone", h.gone)
				s.release(svc, isAccepted)
				s.accept(svc, h.seen)
				s.settle(svc)
				return
			}
			s.log.Warn("a removal is kept back: an operator refuses it", "service", svc.name, "gone", h.gone)
			h.refused = true
			s.still(svc, h, refusedNote)
			return
		}
	})
	return found, err
}
