package consul

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"datapunk.dev/controlplane/consul"
)

// Services without a watch of their own share these reads:
//
//   - One blocking query on the checks that do not pass. From them follows the
//     health of every instance, and they are few.
//   - One on registrations, of whatever service: the bare list of services, of
//     which only the index is read. (The list that is filtered costs Consul ten
//     times as much, so it is read less often.) When no watch tells whose it was,
//     all checks are read once: an instance that came or went has changed them.
//     When that does not tell either (a port, a weight, metadata), the services
//     are read one after the other.
//
// What an answer says of a service is compared with what the service's own last
// answer said, not with the answer before: so nothing is missed that was and was
// not between two answers, or while a watch went from one service to another.

const (
	// triggerRate is how often a second the checks that do not pass are read.
	triggerRate  = 10
	triggerBurst = 10

	// listRate is how often a second the list of services is read meanwhile, after
	// a burst.
	listRate = 1

	// explain is how long a registration waits for a watch to tell whose it was,
	// which takes 2 to 3 ms.
	explain = 5 * time.Millisecond

	// later is how long all checks may wait to be read when nothing says that they
	// have to be.
	later = 5 * time.Second

	// pauses is how many times as long as it took to read all checks their next
	// reading waits.
	pauses = 2

	// unexplained is how long a registration stays so, all checks read, before the
	// services are read one after the other, and sweepRate how many of them a second.
	unexplained = 250 * time.Millisecond
	sweepRate   = 50
	sweepBurst  = 64
)

// trigger is what has services read again that have no watch of their own.
type trigger struct {
	ctx        context.Context
	stop       context.CancelFunc
	told       [2]*checks // the last answers, by kind; nil: none yet
	registered uint64     // the index of the last registration
	// suspect is one that no service has been seen to have; 0: none.
	suspect uint64
	since   time.Time     // it was told of
	all     chan struct{} // asks for all checks
	later   chan struct{} // asks for them, without hurry
	sweep   chan struct{} // asks for the services, one after the other
}

// The kinds of answers about checks.
const (
	failing = iota // those that do not pass
	every
)

func (s sums) of(kind int) uint64 {
	if kind == failing {
		return s.failing
	}
	return s.all
}

// excuse is a difference that stays: the service's answer came from the leader,
// after the checks'.
type excuse struct{ want, have uint64 }

// startTrigger starts the reads.
func (s *Source) startTrigger() {
	ctx, cancel := context.WithCancel(s.ctx)
	about := s.health.expect("checks that do not pass")
	s.listLimit.SetLimit(listRate)
	t := &trigger{
		stop: func() { cancel(); s.health.forget(about); s.listLimit.SetLimit(pollRate) },
		ctx:  ctx,
		all:  make(chan struct{}, 1), later: make(chan struct{}, 1), sweep: make(chan struct{}, 1),
	}
	s.trigger = t
	ask(t.all) // what was missed before
	q := query{path: "/v1/health/state/any", filter: `Status != "passing"`}
	reader := newCheckReader(s.seed)
	s.wg.Go(func() {
		s.poll(ctx, about, q, rate.NewLimiter(triggerRate, triggerBurst), func(a *consul.Answer) error {
			now, err := reader.read(a.Body, a.Index)
			if err != nil {
				return err
			}
			return s.do(ctx, func() { s.tell(t, failing, now) })
		})
	})
	s.followRegistrations(ctx, t)
	s.wg.Go(func() { s.readAll(ctx, t) })
	s.wg.Go(func() { s.readInTurn(ctx, t) })
}

// ask is for a channel of one.
func ask(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// readAll reads all checks whenever it is asked to.
func (s *Source) readAll(ctx context.Context, t *trigger) {
	about := s.health.expect("all checks")
	defer s.health.forget(about)
	reader := newCheckReader(s.seed)
	limit := rate.NewLimiter(pollRate, pollBurst)
	q := query{path: "/v1/health/state/any"}
	var wait backoff
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.all:
		case <-t.later:
			if !sleepUntil(ctx, later, t.all) {
				return
			}
		}
		for {
			began := time.Now()
			select {
			case <-t.later: // this is it
			default:
			}
			a, err := s.read(ctx, q)
			var now *checks
			if err == nil {
				err = s.contained(func() (err error) { now, err = reader.read(a.Body, a.Index); return err })
			}
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				q.expect = len(a.Body)
				wait.reset()
				s.health.succeeded(about)
				if s.do(ctx, func() { s.toldAll(t, now, began) }) != nil || limit.Wait(ctx) != nil || !sleep(ctx, pauses*time.Since(began)) {
					return
				}
				break
			}
			if errors.Is(err, consul.ErrMoved) {
				continue
			}
			s.health.failed(about, err)
			if !sleep(ctx, wait.next(err)) {
				return
			}
		}
	}
}

// readInTurn has the services read, those that change first, until it is known
// whose change it was.
func (s *Source) readInTurn(ctx context.Context, t *trigger) {
	limit := rate.NewLimiter(sweepRate, sweepBurst)
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.sweep:
		}
		if !sleep(ctx, unexplained) {
			return
		}
		var queue []*service
		if s.done(ctx, func() { queue = s.unread(t) }) != nil {
			return
		}
		for done := false; len(queue) > 0 && !done; queue = queue[1:] {
			if limit.Wait(ctx) != nil || s.done(ctx, func() {
				if done = t.suspect == 0; !done && queue[0].cold && !queue[0].read.After(t.since) {
					ask(queue[0].poked)
				}
			}) != nil {
				return
			}
		}
	}
}

// unread are the services that have not been read since a change came that
// nothing explains.
func (s *Source) unread(t *trigger) []*service {
	if t.suspect == 0 {
		return nil
	}
	return slices.DeleteFunc(s.coldest(s.cold), func(svc *service) bool { return svc.read.After(t.since) })
}

// tell takes an answer about checks.
func (s *Source) tell(t *trigger, kind int, now *checks) {
	if s.trigger != t {
		return
	}
	last := t.told[kind]
	t.told[kind] = now
	// Consul lost its state, or it is another that answers: what indexes say of
	// before and after is not known.
	back := last != nil && now.index < last.index
	for _, svc := range s.services {
		if svc.cold && svc.synced && (back || s.differs(svc, kind)) {
			ask(svc.poked)
		}
	}
}

// differs reports whether an answer about checks, no older than the service's
// own last one, says something else of its checks.
func (s *Source) differs(svc *service, kind int) bool {
	told := s.trigger.told[kind]
	if told == nil || told.index < svc.at {
		return false
	}
	want, have := told.want(svc.name, &svc.seen, s.isKnown), svc.seen.of(kind)
	if want == have {
		return false
	}
	return svc.excused[kind] != excuse{want, have}
}

func (s *Source) isKnown(key instanceKey) bool { return s.answers[key] != nil }

// took takes what a service's answer says of its checks.
func (s *Source) took(svc *service, seen seenChecks, index uint64) {
	for key := range svc.seen.instances {
		if s.answers[key] == svc {
			delete(s.answers, key)
		}
	}
	for key := range seen.instances {
		s.answers[key] = svc
	}
	svc.seen, svc.at = seen, index
	if s.trigger != nil && s.trigger.suspect == index {
		s.trigger.suspect = 0
	}
}

// behind reports whether a service without a watch has to be read again, from
// the leader: a server that is behind has not yet seen what the checks say. If
// the leader does not say so either, then they are of something else (a token
// that sees only some of them, a service that was renamed under its ID).
func (s *Source) behind(svc *service, began time.Time, leader bool) bool {
	svc.read = began
	leader = leader || s.cfg.Consistency != "stale"
	if s.trigger == nil || !svc.cold || !svc.synced {
		return false
	}
	behind := false
	for kind := range s.trigger.told {
		if !s.differs(svc, kind) {
			continue
		}
		if behind = true; leader {
			svc.excused[kind] = excuse{s.trigger.told[kind].want(svc.name, &svc.seen, s.isKnown), svc.seen.of(kind)}
		}
	}
	return behind && !leader
}

// tagsMoved has those services read again that the list shows to be other ones.
func (s *Source) tagsMoved(old, now map[string]uint64) {
	if s.trigger == nil || old == nil {
		return
	}
	for name, svc := range s.services {
		was, had := old[name]
		is, has := now[name]
		if svc.cold && (had != has || was != is) {
			ask(svc.poked)
		}
	}
}

// followRegistrations watches for registrations, of which only the number is told.
func (s *Source) followRegistrations(ctx context.Context, t *trigger) {
	about := s.health.expect("registrations")
	s.wg.Go(func() {
		defer s.health.forget(about)
		s.poll(ctx, about, query{path: "/v1/catalog/services"}, rate.NewLimiter(triggerRate, triggerBurst), func(a *consul.Answer) error {
			told := time.Now()
			return s.do(ctx, func() {
				last := t.registered
				if t.registered = a.Index; last == 0 || last == a.Index {
					return
				}
				s.wg.Go(func() {
					if sleep(ctx, explain) {
						_ = s.do(ctx, func() { s.suspect(t, a.Index, told) })
					}
				})
			})
		})
	})
}

// suspect looks for a registration that no service has been seen to have.
func (s *Source) suspect(t *trigger, index uint64, told time.Time) {
	for _, svc := range s.services {
		if svc.at == index {
			ask(t.later) // there may have been others just before it
			return
		}
	}
	t.suspect, t.since = index, told
	ask(t.all)
}

// toldAll takes an answer that has all checks.
func (s *Source) toldAll(t *trigger, now *checks, began time.Time) {
	s.tell(t, every, now)
	if t.suspect != 0 && began.After(t.since) {
		ask(t.sweep)
	}
}

// tagsHash is of a service's tags, in any order.
func tagsHash(seed maphash.Seed, tags []string) (sum uint64) {
	for _, tag := range tags {
		sum += maphash.String(seed, tag)
	}
	return sum
}
