package consul

import (
	"context"
	"slices"

	"datapunk.dev/controlplane/consul"
)

// checkState is what a change of matters to an instance.
type checkState struct{ service, status string }

type checkKey struct{ node, id string }

// checks are all checks of the datacenter, as far as they matter.
type checks map[checkKey]checkState

// readChecks reads an answer of /v1/health/state/any.
func readChecks(a *consul.Answer) (checks, error) {
	var list []struct{ Node, CheckID, Status, ServiceName string }
	if err := a.Decode(&list); err != nil {
		return nil, err
	}
	all := make(checks, len(list))
	for _, c := range list {
		all[checkKey{c.Node, c.CheckID}] = checkState{c.ServiceName, c.Status}
	}
	return all, nil
}

// since returns the services, and the nodes for checks of a whole node, that
// differ between old and c.
func (c checks) since(old checks) (services, nodes map[string]struct{}) {
	services, nodes = make(map[string]struct{}), make(map[string]struct{})
	changed := func(k checkKey, st checkState) {
		if st.service != "" {
			services[st.service] = struct{}{}
		} else {
			nodes[k.node] = struct{}{}
		}
	}
	for k, st := range c {
		if was, ok := old[k]; !ok || was != st {
			changed(k, st)
		}
	}
	for k, st := range old {
		if now, ok := c[k]; !ok || now.service != st.service {
			changed(k, st)
		}
	}
	return services, nodes
}

// balance gives free connections to services that share the trigger, those
// that are wanted by name first, and runs the trigger while any does.
func (s *Source) balance() {
	free := s.client.MaxConnections() - spare - (len(s.services) - s.cold)
	if s.http2 {
		free = s.cold
	}
	if s.cold > 0 && free > 0 {
		var cold []*service
		for _, svc := range s.services {
			if svc.cold {
				cold = append(cold, svc)
			}
		}
		slices.SortFunc(cold, s.byDemand)
		for _, svc := range cold[:min(free, len(cold))] {
			svc.release()
			s.cold--
			s.stats.cold.Add(-1)
			s.follow(svc, false)
		}
	}
	switch {
	case s.cold > 0 && s.stopCold == nil:
		s.followChecks()
	case s.cold == 0 && s.stopCold != nil:
		s.stopCold()
		s.stopCold = nil
	}
	switch {
	case s.http2:
		s.health.setMode("http2")
	case s.cold > 0:
		s.health.setMode("http1+trigger")
	default:
		s.health.setMode("http1")
	}
}

// byDemand orders services wanted by name before those of the list.
func (s *Source) byDemand(a, b *service) int {
	_, an := s.named[a.name]
	_, bn := s.named[b.name]
	switch {
	case an && !bn:
		return -1
	case bn && !an:
		return 1
	case a.name < b.name:
		return -1
	}
	return 1
}

// followChecks watches all checks and has cold services read again.
func (s *Source) followChecks() {
	ctx, cancel := context.WithCancel(s.ctx)
	about := s.health.expect("all checks")
	s.stopCold = func() { cancel(); s.health.forget(about) }
	var last checks
	s.wg.Go(func() {
		s.poll(ctx, about, query{path: "/v1/health/state/any"}, func(a *consul.Answer) error {
			now, err := readChecks(a)
			if err != nil {
				return err
			}
			services, nodes := now.since(last)
			last = now
			if len(services)+len(nodes) == 0 {
				return nil
			}
			return s.do(ctx, func() { s.poke(services, nodes) })
		})
	})
}

// poke has the cold services read again whose checks changed: their own, or
// those of a node that they run on.
func (s *Source) poke(changed, onNodes map[string]struct{}) {
	for _, svc := range s.services {
		if !svc.cold {
			continue
		}
		_, hit := changed[svc.name]
		for node := range onNodes {
			if _, on := svc.nodes[node]; on {
				hit = true
				break
			}
		}
		if hit {
			select {
			case svc.poked <- struct{}{}:
			default: // it is to read again anyway
			}
		}
	}
}
