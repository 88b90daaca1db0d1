package consul

import (
	"context"
	"maps"
	"slices"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

// followList starts the watch of the list of services.
func (s *Source) followList(d Demand) {
	if s.stopList != nil {
		s.stopList()
	}
	s.listIndex = 0 // another filter may have another index
	ctx, cancel := context.WithCancel(s.ctx)
	about := s.health.expect("list of services")
	s.stopList = func() { cancel(); s.health.forget(about) }
	s.wg.Go(func() {
		s.poll(ctx, about, query{path: "/v1/catalog/services", filter: d.filter()}, s.listLimit, func(a *consul.Answer) error {
			listed, tags, err := s.readList(a, d.Select)
			if err != nil {
				return err
			}
			return s.do(ctx, func() {
				if ctx.Err() == nil { // not another demand's by now
					s.health.succeeded(about) // its services may answer before poll has gone on
					s.tookList(listed, tags, a)
				}
			})
		})
	})
}

// errNoCanary is the list of a Consul that has no servers, which there is not.
var errNoCanary = &refusal{"not even Consul's own service is in its answer: the token may have no rights"}

// readList returns the names of a list that can be believed, and a hash of each
// one's tags.
func (s *Source) readList(a *consul.Answer, of watch.Selection) (map[string]struct{}, map[string]uint64, error) {
	var list map[string][]string
	if err := a.Decode(&list); err != nil {
		return nil, nil, err
	}
	_, seen := list[canary]
	switch {
	case seen:
		s.sawCanary.Store(true)
	case len(list) == 0 && !a.KnownLeader:
		return nil, nil, &refusal{"no leader"}
	case len(list) == 0, s.sawCanary.Load():
		return nil, nil, errNoCanary
	}
	delete(list, canary)
	listed, hashes := make(map[string]struct{}, len(list)), make(map[string]uint64, len(list))
	for name, tags := range list {
		if of.Excludes(name) != "" {
			continue
		}
		listed[name], hashes[name] = struct{}{}, tagsHash(s.seed, tags)
	}
	return listed, hashes, nil
}

// tookList starts what is new. What is gone from the list stays until its own
// watch agrees.
func (s *Source) tookList(listed map[string]struct{}, tags map[string]uint64, a *consul.Answer) {
	if a.Index < s.listIndex {
		s.restored = time.Now()
		s.log.Warn("Consul's index went back: removals are held", "from", s.listIndex, "to", a.Index, "for", s.cfg.Guard.Restored)
	}
	if asOf, err := s.ageOf(a); err == nil {
		s.health.fresh(asOf, "")
	}
	if s.listed == nil {
		s.wg.Go(func() {
			if sleep(s.ctx, patience) {
				_ = s.do(s.ctx, func() { s.overdue = true }) // the error is that it has ended
			}
		})
	}
	before := s.listed
	s.tagsMoved(s.tags, tags)
	s.listed, s.tags, s.listIndex, s.http2 = listed, tags, a.Index, a.HTTP2
	s.reconcile()
	var left []*service
	for name := range before {
		svc := s.services[name]
		if _, stays := listed[name]; !stays && svc != nil && svc.hold == nil && svc.known != nil && len(svc.known.Instances) > 0 {
			left = append(left, svc)
		}
	}
	if len(left) <= maxPrompt {
		for _, svc := range left {
			s.recheck(svc)
		}
	}
}

// reconcile watches what is wanted and drops what is not.
func (s *Source) reconcile() {
	if s.listed == nil {
		return // a Consul that has not answered is not asked a thousand questions
	}
	crowded := s.crowded()
	for _, set := range []map[string]struct{}{s.named, s.listed} {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			if s.services[name] == nil {
				s.start(name, crowded)
			}
		}
	}
	for _, svc := range s.services {
		s.dropUnwanted(svc)
	}
	s.balance()
}
