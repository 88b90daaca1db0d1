package xds

import (
	"context"

	"datapunk.dev/controlplane/resource"
)

// barrier is a wait for many proxies to answer what was published. [Server.mu]
// guards it.
type barrier struct {
	who     func(node string, p resource.Profile) bool // nil: all
	waiting map[*stream]struct{}                       // have not answered all of it yet
	closed  bool                                       // does not wait for streams that come later
	acked   chan struct{}                              // closed when waiting is empty
	unwatch func() bool                                // the context
}

// Acked returns a channel that is closed once every connected proxy that who
// selects has acknowledged, or rejected, all that was published before the call;
// with nil that is every proxy. What is published later does not count, so a
// mesh that never stands still holds up no barrier. A proxy that disconnects does
// not hold it either; one that connects meanwhile does, until it has what is
// served then, for it may have been away for a moment only.
//
// The channel is never closed once ctx has ended. Who is called under the
// server's lock.
func (s *Server) Acked(ctx context.Context, who func(node string, p resource.Profile) bool) <-chan struct{} {
	b := &barrier{who: who, waiting: make(map[*stream]struct{}), acked: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		if st.slot != nil {
			b.enterLocked(st)
		}
	}
	if len(b.waiting) == 0 {
		close(b.acked)
		return b.acked
	}
	s.raiseLocked(ctx, b)
	return b.acked
}

// ChangeAcked is [Server.Acked] for the streams that the last publication changed
// something for, and for no others: it says how long a change takes. It is nil if
// there are none.
func (s *Server) ChangeAcked(ctx context.Context) <-chan struct{} {
	b := &barrier{closed: true, waiting: make(map[*stream]struct{}), acked: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		if st.slot != nil && s.last.concerns(st.slot) {
			b.enterLocked(st)
		}
	}
	if len(b.waiting) == 0 {
		return nil
	}
	s.raiseLocked(ctx, b)
	return b.acked
}

// raiseLocked has the streams of a barrier look at it, until ctx ends.
func (s *Server) raiseLocked(ctx context.Context, b *barrier) {
	s.barriers[b] = struct{}{}
	b.unwatch = context.AfterFunc(ctx, func() { s.abandon(b) })
	for st := range b.waiting {
		st.wake()
	}
}

// enterLocked has the barrier wait for a stream, if it is one that counts.
func (b *barrier) enterLocked(st *stream) {
	if b.who == nil || b.who(st.node.ID, st.slot.profile) {
		b.waiting[st] = struct{}{}
		st.barriersDue.Store(true)
	}
}

// passLocked is told that a stream has answered all that the barrier is about,
// or has ended.
func (s *Server) passLocked(b *barrier, st *stream) {
	if delete(b.waiting, st); len(b.waiting) > 0 {
		return
	}
	if _, open := s.barriers[b]; open {
		delete(s.barriers, b)
		b.unwatch()
		close(b.acked)
	}
}

// abandon drops a barrier that nobody waits at any more.
func (s *Server) abandon(b *barrier) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.barriers, b)
	for st := range b.waiting {
		st.barriersDue.Store(true)
	}
}

// progress is how far a stream is with one barrier.
type progress struct {
	barrier *barrier
	types   [resource.NumTypes]mark
}

// mark says that a stream has sent all of a type that a barrier is about: the
// client has it when it has answered the responses up to the number.
type mark struct {
	set bool
	at  uint64
}

// takeBarriers takes in the barriers that wait for the stream. What is pushed
// after that holds all that they are about.
func (s *stream) takeBarriers() {
	if !s.barriersDue.Load() || !s.barriersDue.Swap(false) {
		return
	}
	known := make(map[*barrier]progress, len(s.barriers))
	for _, p := range s.barriers {
		known[p.barrier] = p
	}
	s.barriers = nil
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	for b := range s.server.barriers {
		if _, waits := b.waiting[s]; !waits {
			continue
		}
		p, ok := known[b]
		if !ok {
			p = progress{barrier: b}
		}
		s.barriers = append(s.barriers, p)
	}
}

// passBarriers passes those of which the client has answered everything. It is
// called after a push of the view.
func (s *stream) passBarriers(v *view) {
	if len(s.barriers) == 0 {
		return
	}
	open := s.barriers[:0]
	for _, p := range s.barriers {
		if !p.answered(s, v) {
			open = append(open, p)
			continue
		}
		s.server.mu.Lock()
		s.server.passLocked(p.barrier, s)
		s.server.mu.Unlock()
	}
	clear(s.barriers[len(open):])
	s.barriers = open
}

// answered marks the types of which everything is sent, and reports whether the
// client has answered all of it. A type that it has not asked for needs no answer.
func (p *progress) answered(s *stream, v *view) bool {
	all := true
	for t := range s.types {
		ts, m := &s.types[t], &p.types[t]
		if !ts.sub.active {
			continue
		}
		if !m.set && ts.sentAll(v) {
			*m = mark{set: true, at: ts.sent}
		}
		all = all && m.set && ts.answeredTo >= m.at
	}
	return all
}

// unmark forgets that everything of a type was sent: after a NACK parts of
// it are tried again.
func (s *stream) unmark(t resource.Type) {
	for i := range s.barriers {
		s.barriers[i].types[t] = mark{}
	}
}

// sentAll reports whether there is nothing of the view that waits to be sent: the
// client was sent it, or has rejected it, or it is a removal that waits for what was
// rejected.
func (ts *typeState) sentAll(v *view) bool {
	if ts.base != v.of(ts.typ) || len(ts.retries) > 0 {
		return false
	}
	for name, n := range ts.names {
		if n.waits() && (v.get(ts.typ, name) != nil || !ts.stream.removalsWaitForGood(ts.typ)) {
			return false
		}
	}
	return true
}
