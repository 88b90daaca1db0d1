package consul

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"datapunk.dev/controlplane/watch"
)

// A wiped or leaderless server answers 200 and an empty list; so does any
// server to a token that lost its rights. Believed, such an answer takes every
// instance out of every Envoy. So a removal that looks like one is held: what
// is gone stays in the catalog until it is back, or until it is confirmed.

// meshLeast is how many instances must have gone before their share of the
// mesh means anything.
const meshLeast = 3

// place tells instances of a service apart; [watch.Distinct] makes it unique.
type place struct {
	address netip.AddrPort
	host    string
}

func at(i *watch.Instance) place {
	return place{netip.AddrPortFrom(i.Address, i.Port), i.Host}
}

// hold is the removal of instances that is not believed yet.
type hold struct {
	since time.Time
	gone  string // how many, for operators
	why   string // it is not believed
	note  string // what the last confirming read said
	back  bool   // Consul's index went back meanwhile: it may be any number now
	// first are the places that the first confirming read did not have; nil:
	// there was none.
	first map[place]struct{}
	stop  context.CancelFunc // ends the confirming reads
}

// String is the hold as operators see it.
func (h *hold) String() string {
	if h.note == "" {
		return h.gone + ": " + h.why
	}
	return h.gone + ": " + h.why + "; not confirmed: " + h.note
}

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

// missing are the places of known that seen does not have.
func missing(known, seen *watch.Service) map[place]struct{} {
	gone := make(map[place]struct{})
	if known == nil {
		return gone
	}
	for _, i := range known.Instances {
		gone[at(i)] = struct{}{}
	}
	for _, i := range seen.Instances {
		delete(gone, at(i))
	}
	return gone
}

// suspicion returns why a removal cannot be believed at once, or "".
func (s *Source) suspicion(svc *service, seen *watch.Service, index uint64, now time.Time) string {
	known, g := len(svc.known.Instances), s.cfg.Guard
	// Instances that were replaced are not gone: a lost catalog has no new ones.
	net := known - len(seen.Instances)
	inMesh := s.removals.within(now, g.Window)
	switch {
	case index == svc.index:
		return "Consul's index did not move"
	case index < svc.index, s.unsettled(svc, now):
		return "Consul's index went back"
	case len(seen.Instances) == 0:
		return "no instance is left"
	case net >= 2 && float64(net) > g.Service*float64(known):
		return fmt.Sprintf("%d of its %d instances at once", net, known)
	case net > 0 && inMesh+net >= meshLeast && float64(inMesh+net) > g.Mesh*float64(s.instances+inMesh):
		return fmt.Sprintf("%d of %d instances of the mesh within %s", inMesh+net, s.instances+inMesh, g.Window)
	}
	return ""
}

// unsettled is whether Consul was wiped or restored a while ago, and the
// service has not been seen whole since.
func (s *Source) unsettled(svc *service, now time.Time) bool {
	return now.Sub(s.restored) < s.cfg.Guard.Restored && !svc.whole.After(s.restored)
}

// keep returns seen together with those instances of known whose place is in
// gone.
func keep(known, seen *watch.Service, gone map[place]struct{}) *watch.Service {
	if len(gone) == 0 {
		return seen
	}
	both := *seen
	both.Instances = append([]*watch.Instance(nil), seen.Instances...)
	for _, i := range known.Instances {
		if _, ok := gone[at(i)]; ok {
			both.Instances = append(both.Instances, i)
		}
	}
	both.Instances = watch.Distinct(both.Instances)
	return &both
}

// judge takes an answer of a service's watch.
func (s *Source) judge(svc *service, seen *watch.Service, index uint64) {
	now := time.Now()
	gone := missing(svc.known, seen)
	if len(gone) == 0 {
		s.release(svc, "back")
		s.accept(svc, seen, index)
		return
	}
	why := s.suspicion(svc, seen, index, now)
	if why == "" {
		s.removals.add(now, len(svc.known.Instances)-len(seen.Instances))
		s.release(svc, "ordinary now")
		s.accept(svc, seen, index)
		return
	}
	s.setKnown(svc, keep(svc.known, seen, gone))
	if svc.hold == nil {
		s.startHold(svc, now)
	}
	svc.hold.back = svc.hold.back || index < svc.index || s.unsettled(svc, now)
	svc.hold.gone = fmt.Sprintf("%d of %d instances gone", len(gone), len(svc.known.Instances))
	svc.hold.why = why
	s.health.hold(svc.name, svc.hold.String())
}

func (s *Source) startHold(svc *service, now time.Time) {
	ctx, stop := context.WithCancel(svc.ctx)
	h := &hold{since: now, stop: stop}
	svc.hold = h
	s.stats.held.Add(1)
	s.heldNow[svc.name] = struct{}{}
	s.wg.Go(func() {
		defer stop()
		pause := s.cfg.Guard.Confirm
		for reads := 1; sleep(ctx, pause); reads++ {
			seen, index, err := s.confirmingRead(ctx, svc.name)
			if ctx.Err() != nil {
				return
			}
			if s.do(ctx, func() { s.confirm(svc, h, seen, index, err); s.settle(svc) }) != nil {
				return
			}
			if reads >= 2 { // it may take long, and a thousand others ask too
				pause = min(pause*3/2, 10*s.cfg.Guard.Confirm)
			}
		}
	})
}

// confirmingRead asks the leader, which asks its followers whether it is one.
func (s *Source) confirmingRead(ctx context.Context, name string) (*watch.Service, uint64, error) {
	a, err := s.read(ctx, query{path: healthPath(name), consistent: true})
	if err != nil {
		return nil, 0, err
	}
	if a.Filtered {
		return nil, 0, errors.New("the token may not read all of it")
	}
	var entries []entry
	if err := a.Decode(&entries); err != nil {
		return nil, 0, err
	}
	if len(entries) == 0 && s.sawCanary.Load() {
		c, err := s.read(ctx, query{path: healthPath(canary), consistent: true})
		if err != nil {
			return nil, 0, err
		}
		var servers []entry
		if err := c.Decode(&servers); err != nil {
			return nil, 0, err
		}
		if len(servers) == 0 {
			return nil, 0, errNoCanary
		}
	}
	return normalise(name, entries), a.Index, nil
}

// confirm takes a confirming read. Two that agree, and whose index has moved,
// are believed.
func (s *Source) confirm(svc *service, h *hold, seen *watch.Service, index uint64, err error) {
	if svc.hold != h {
		return
	}
	still := func(why string) {
		h.note = why
		s.health.hold(svc.name, h.String())
	}
	now := time.Now()
	if err != nil {
		still(err.Error())
		return
	}
	gone := missing(svc.known, seen)
	if len(gone) == 0 {
		s.release(svc, "back")
		s.accept(svc, seen, index)
		return
	}
	h.back = h.back || index < svc.index || s.unsettled(svc, now)
	switch {
	case h.back && now.Sub(h.since) < s.cfg.Guard.Restored:
		still("Consul's index went back: agents may register again")
		return
	case index <= 1, !h.back && index == svc.index:
		still("Consul's index did not move")
		return
	}
	agreed := make(map[place]struct{})
	for p := range gone {
		if _, ok := h.first[p]; ok {
			agreed[p] = struct{}{}
			delete(gone, p)
		}
	}
	if len(agreed) == 0 {
		h.first = gone
		still("read once")
		return
	}
	s.setKnown(svc, keep(svc.known, seen, gone))
	if len(gone) > 0 { // went after the first read
		h.first = gone
		return
	}
	s.release(svc, "confirmed")
	s.accept(svc, seen, index)
}

// release ends a hold, if there is one.
func (s *Source) release(svc *service, how string) {
	if svc.hold == nil {
		return
	}
	svc.hold.stop()
	svc.hold = nil
	s.health.hold(svc.name, "")
	if s.releasedNow[how] == nil {
		s.releasedNow[how] = make(map[string]struct{})
	}
	s.releasedNow[how][svc.name] = struct{}{}
}
