package consul

import (
	"slices"
	"time"

	"datapunk.dev/controlplane/watch"
)

// SetDemand replaces what is wanted. It may be called at any time.
func (s *Source) SetDemand(d Demand) {
	s.mu.Lock()
	s.wanted = d.clone()
	s.mu.Unlock()
	select {
	case s.demanded <- struct{}{}:
	default:
	}
}

// applyDemand takes what is wanted now: what is listed, selected and read follows it.
func (s *Source) applyDemand() {
	s.mu.Lock()
	d := s.wanted.clone()
	s.mu.Unlock()
	before := s.demand
	again := s.stopList == nil || d.filter() != before.filter() || !slices.Equal(d.Select.Exclude, before.Select.Exclude)
	s.demand = d
	if d.Guard != (Guard{}) {
		s.cfg.Guard = d.Guard.withDefaults()
	}
	s.named = make(map[string]struct{}, len(d.Services))
	for _, name := range d.Services {
		if name != "" && d.Select.Excludes(name) == "" {
			s.named[name] = struct{}{}
		}
	}
	if again {
		s.followList(d)
	}
	s.reading.Store(&reading{s.cfg.Datacenter, d.NodeMeta})
	if !d.Select.Equal(before.Select) {
		s.choose(d.Select)
	}
	if !slices.Equal(before.NodeMeta, d.NodeMeta) || d.Select.MoreThan(before.Select) {
		s.readAgain()
	}
	s.reconcile()
}

// choose leaves out what is not selected any more. That takes no query: whoever asks for
// it has no doubt about it. What is selected again is read.
func (s *Source) choose(of watch.Selection) {
	for name := range s.listed {
		if of.Excludes(name) != "" {
			delete(s.listed, name)
		}
	}
	for _, svc := range s.services {
		if of.Excludes(svc.name) != "" {
			s.release(svc, isUnselected)
			s.drop(svc)
			continue
		}
		if svc.known == nil {
			continue
		}
		selected := of.Instances(svc.known)
		if selected == svc.known {
			continue
		}
		s.health.leaveMoreOut(svc.name, without(placesOf(svc.known), placesOf(selected)))
		from := make(map[place]origin, len(selected.Instances))
		for _, i := range selected.Instances {
			if o, ok := svc.from[at(i)]; ok {
				from[at(i)] = o
			}
		}
		s.setKnown(svc, selected, from)
		if h := svc.hold; h != nil {
			h.seen.choose(of)
			if len(missing(svc.known, h.seen)) == 0 {
				s.release(svc, isUnselected)
				continue
			}
			h.miss(missing(svc.known, h.seen), time.Now())
			s.show(svc, h)
		}
	}
}

// readAgain reads every service anew: what is made of an answer has changed.
func (s *Source) readAgain() {
	for _, svc := range s.services {
		svc.release()
		if svc.cold {
			s.cold--
			s.stats.cold.Add(-1)
		}
		s.follow(svc, svc.cold)
	}
}
