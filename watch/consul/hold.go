package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"datapunk.dev/controlplane/watch"
)

const (
	// promptly is when a removal is read again that may be confirmed at once: a
	// sidecar that leaves with its entry has left by then.
	promptly = 15 * time.Millisecond
	// maxPrompt is of how many services at once: a catalog that is gone is not
	// asked for all of them within a moment.
	maxPrompt = 64
)

// hold is the removal of instances that is not believed yet.
type hold struct {
	suspicion
	since   time.Time
	said    bool   // the log has it
	gone    string // how many, for operators
	note    string // what the last confirming read said
	back    bool   // Consul's index went back meanwhile: it may be any number now
	seen    answer // the newest of the watch
	missing map[place]time.Time
	// first are the places that an earlier confirming read did not have; nil:
	// there was none.
	first map[place]struct{}
	// refused says that somebody wants it kept: nothing confirms it but another word.
	refused bool
	stop    context.CancelFunc // ends the confirming reads
}

// String is the hold as operators see it.
func (h *hold) String() string {
	if h.note == "" {
		return h.gone + ": " + h.why
	}
	return h.gone + ": " + h.why + "; not confirmed: " + h.note
}

// miss sets which places are held.
func (h *hold) miss(doubted map[place]struct{}, now time.Time) {
	missing := make(map[place]time.Time, len(doubted))
	for p := range doubted {
		since, ok := h.missing[p]
		if !ok {
			since = now
		}
		missing[p] = since
	}
	h.missing = missing
}

// doubt keeps instances that an answer does not have.
func (s *Source) doubt(svc *service, seen answer, doubted map[place]struct{}, of suspicion, now time.Time) {
	s.keep(svc, seen, doubted)
	back := seen.index < svc.index || s.unsettled(svc, now)
	if svc.hold == nil {
		s.startHold(svc, of, now, !back)
	}
	h := svc.hold
	h.suspicion, h.seen, h.back = of, seen, h.back || back
	h.miss(doubted, now)
	s.show(svc, h)
	if of.why != sidecarsConnected { // else a read may settle it before anybody has to know
		s.say(svc, h)
	}
}

// sidecarsConnected is why an ordinary removal is not believed.
const sidecarsConnected = "their sidecars are connected"

// show has the status say what is held of a service.
func (s *Source) show(svc *service, h *hold) {
	h.gone = fmt.Sprintf("%d of %d instances gone", len(h.missing), len(svc.known.Instances))
	s.health.hold(svc.name, h.String(), s.removal(svc, h))
}

// say has the log say that removals of the service are held.
func (s *Source) say(svc *service, h *hold) {
	if !h.said {
		h.said = true
		s.heldNow[svc.name] = struct{}{}
	}
}

// keep changes what readers have of a service to an answer, and those instances
// that it does not have.
func (s *Source) keep(svc *service, seen answer, gone map[place]struct{}) {
	s.health.leaveOut(svc.name, seen.unselected)
	from := maps.Clone(seen.from)
	for p := range gone {
		if o, ok := svc.from[p]; ok {
			from[p] = o
		}
	}
	s.setKnown(svc, keep(svc.known, seen.service, gone), from)
}

func (s *Source) startHold(svc *service, of suspicion, now time.Time, prompt bool) {
	ctx, stop := context.WithCancel(svc.ctx)
	h := &hold{suspicion: of, since: now, stop: stop}
	svc.hold = h
	s.holding[svc] = struct{}{}
	s.stats.held.Add(1)
	prompt = prompt && len(s.holding) <= maxPrompt
	guard := s.cfg.Guard
	s.wg.Go(func() {
		defer stop()
		reads, pause := 1, guard.Confirm
		if prompt {
			reads, pause = 0, promptly
		}
		for ; sleep(ctx, pause); reads++ {
			if !s.ask(ctx, svc, h) {
				return
			}
			switch {
			case reads == 0:
				pause = guard.Confirm
			case reads >= 2: // it may take long, and a thousand others ask too
				pause = min(pause*3/2, 10*guard.Confirm)
			}
			if due := time.Until(now.Add(guard.Sidecar)); due > 0 {
				pause = min(pause, due)
			}
		}
	})
}

// ask makes a confirming read and has it taken. It is false when the hold is over.
func (s *Source) ask(ctx context.Context, svc *service, h *hold) bool {
	type question struct {
		gone     map[place]origin
		believed uint64
	}
	questions := make(chan question, 1)
	if s.do(ctx, func() {
		q := question{make(map[place]origin), svc.index}
		for p := range h.missing {
			if o, ok := svc.from[p]; ok {
				q.gone[p] = o
			}
		}
		questions <- q
	}) != nil {
		return false
	}
	var q question
	select {
	case q = <-questions:
	case <-ctx.Done():
		return false
	}
	seen, err := s.confirmingRead(ctx, svc.name)
	var words map[place]word
	if err == nil {
		words, err = s.askNodes(ctx, svc.name, q.gone, q.believed)
	}
	if ctx.Err() != nil {
		return false
	}
	return s.do(ctx, func() { s.confirm(svc, h, seen, words, err); s.settle(svc) }) == nil
}

// confirmingRead asks the leader, which asks its followers whether it is one.
func (s *Source) confirmingRead(ctx context.Context, name string) (answer, error) {
	a, err := s.read(ctx, query{path: healthPath(name), consistent: true})
	if err != nil {
		return answer{}, err
	}
	var entries []entry
	if err := a.Decode(&entries); err != nil {
		return answer{}, err
	}
	if len(entries) == 0 && s.sawCanary.Load() {
		c, err := s.read(ctx, query{path: healthPath(canary), consistent: true})
		if err != nil {
			return answer{}, err
		}
		var servers []entry
		if err := c.Decode(&servers); err != nil {
			return answer{}, err
		}
		if len(servers) == 0 {
			return answer{}, errNoCanary
		}
	}
	return readEntries(name, entries, *s.reading.Load(), a), nil
}

// errSeesLess is an answer to a token that saw all of a service before.
var errSeesLess = errors.New("the token may not read all of it any more")

// confirm takes a confirming read, with what the nodes of the entries said.
func (s *Source) confirm(svc *service, h *hold, seen answer, words map[place]word, err error) {
	if svc.hold != h {
		return
	}
	now := time.Now()
	if err == nil && seen.filtered && !svc.filtered {
		err = errSeesLess
	}
	if err != nil {
		s.still(svc, h, err.Error())
		return
	}
	seen.choose(s.demand.Select)
	gone := missing(svc.known, seen)
	if len(gone) == 0 {
		s.release(svc, isBack)
		s.accept(svc, seen)
		return
	}
	// An entry that is another service's now is gone, whatever the index: that of
	// the service which lost it does not move.
	for p := range gone {
		if words[p] == renamed {
			delete(gone, p)
		}
	}
	h.back = h.back || s.unsettled(svc, now) || len(gone) > 0 && seen.index < svc.index
	var note string
	switch {
	case h.refused:
		s.still(svc, h, refusedNote)
		return
	case h.back && now.Sub(h.since) < s.cfg.Guard.Restored:
		s.still(svc, h, "Consul's index went back: agents may register again")
		return
	case seen.index <= 1, !h.back && seen.index == svc.index && h.seen.index <= svc.index:
		note = "Consul's index did not move"
	default:
		gone, note = s.unconfirmed(svc, h, seen, gone, words, now)
	}
	if len(gone) == 0 {
		s.release(svc, isConfirmed)
		s.accept(svc, seen)
		return
	}
	s.keep(svc, seen, gone)
	h.miss(gone, now)
	s.still(svc, h, note)
}

// unconfirmed returns what is doubted still after a confirming read that can be
// believed, and why.
func (s *Source) unconfirmed(svc *service, h *hold, seen answer, gone map[place]struct{}, words map[place]word, now time.Time) (doubted map[place]struct{}, note string) {
	doubted = make(map[place]struct{})
	first := make(map[place]struct{})
	counts := now.Sub(h.since) >= s.cfg.Guard.Confirm
	for _, i := range svc.known.Instances {
		p := at(i)
		if _, ok := gone[p]; !ok {
			continue
		}
		_, again := h.first[p]
		if counts {
			first[p] = struct{}{}
		}
		presence := s.sidecar(svc, i)
		since, known := h.missing[p]
		switch {
		case !known: // it went after the read before
		case presence == watch.Left && !h.back:
			continue
		case presence == watch.Connected && words[p] != alone && now.Sub(since) < s.cfg.Guard.Sidecar:
			doubted[p], note = struct{}{}, sidecarsConnected
			continue
		case len(seen.service.Instances) > 0 && !h.back, again:
			continue
		}
		doubted[p] = struct{}{}
		if note == "" {
			note = "read once"
		}
	}
	h.first = first
	return doubted, note
}

// still says that a confirming read did not confirm.
func (s *Source) still(svc *service, h *hold, note string) {
	h.note = note
	s.show(svc, h)
	s.say(svc, h)
}

// SidecarsMoved says that [Config.Sidecar] may answer otherwise than before. It
// may be called at any time, and does not wait.
func (s *Source) SidecarsMoved() {
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// reconsider believes removals of instances whose sidecars have left.
func (s *Source) reconsider() {
	now := time.Now()
	for svc := range s.holding {
		h := svc.hold
		if h.refused || h.consul || h.back || s.unsettled(svc, now) {
			continue
		}
		doubted := make(map[place]struct{}, len(h.missing))
		for p := range h.missing {
			doubted[p] = struct{}{}
		}
		left, _ := s.sidecars(svc, h.seen, doubted)
		switch {
		case len(left) == 0:
		case len(left) == len(doubted):
			s.release(svc, haveLeft)
			s.accept(svc, h.seen)
			s.settle(svc)
		default:
			doubted = without(doubted, left)
			s.keep(svc, h.seen, doubted)
			h.miss(doubted, now)
			s.show(svc, h)
		}
	}
}

// own notes which entries a service's instances are. One that was another's until
// now has that one read: an entry is of one service.
func (s *Source) own(svc *service, from map[place]origin) {
	if maps.Equal(svc.from, from) {
		return
	}
	for _, o := range svc.from {
		if s.owners[o] == svc {
			delete(s.owners, o)
		}
	}
	svc.from = from
	lost := make(map[*service]struct{})
	for _, o := range from {
		if was := s.owners[o]; was != nil {
			lost[was] = struct{}{}
		}
		s.owners[o] = svc
	}
	if len(lost) <= maxPrompt {
		for was := range lost {
			s.recheck(was)
		}
	}
}

// recheck reads a service that may have lost an entry to another one, or is in
// the list no more. Its own watch may not be told: where an entry becomes another
// service's, the index of the one that it was does not move.
func (s *Source) recheck(svc *service) {
	s.wg.Go(func() {
		if !sleep(svc.ctx, promptly) {
			return
		}
		seen, err := s.confirmingRead(svc.ctx, svc.name)
		if err != nil {
			return // the watch has its say anyway
		}
		_ = s.do(svc.ctx, func() {
			if svc.hold == nil && s.services[svc.name] == svc {
				seen.choose(s.demand.Select)
				s.judge(svc, seen)
				s.settle(svc)
			}
		}) // the error is that the watch has ended
	})
}

// release ends a hold, if there is one.
func (s *Source) release(svc *service, how string) {
	h := svc.hold
	if h == nil {
		return
	}
	h.stop()
	s.stats.decided(how)
	svc.hold = nil
	delete(s.holding, svc)
	s.health.hold(svc.name, "", nil)
	if !h.said {
		return
	}
	if s.releasedNow[how] == nil {
		s.releasedNow[how] = make(map[string]struct{})
	}
	s.releasedNow[how][svc.name] = struct{}{}
}
