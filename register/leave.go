package register

import (
	"time"
)

// How an instance leaves: lost and looked for, or because it said so.

// lose is told that nobody has the stream of an instance any more.
func (m *machine) lose(r *record, now time.Time, reason string) {
	if m.stored[r.node] == nil && !r.busy {
		m.forget(r)
		return
	}
	m.to(r, Lost, now, reason)
	m.at(r, r.lostAt.Add(m.lostFor()))
}

// lostFor is shorter where the whole time is.
func (m *machine) lostFor() time.Duration { return min(lostFor, m.after/2) }

func (m *machine) lostPause() time.Duration { return min(lostPause, m.after/10) }

// lost looks for a proxy whose stream has ended, or whose owner is gone.
func (m *machine) lost(r *record, now time.Time) {
	read, due := m.views[r.want.service], r.lostAt.Add(m.lostFor())
	switch {
	case m.up && !read.Before(r.lostAt) && !m.mine(r):
		m.forget(r) // another has it, or it is not there any more
	case r.timer.set && now.Before(r.timer.at):
	case now.Before(due):
		m.at(r, due)
	case !m.up:
		m.at(r, now.Add(writeAgain)) // whoever cannot write need not look
	case read.Before(due):
		m.todo.reads[r.want.service] = struct{}{} // another may have it by now
	default:
		m.dial(r)
	}
}

// mine reports whether the entry is there, and nobody else is to look after it.
func (m *machine) mine(r *record) bool {
	have := m.stored[r.node]
	if have == nil || have.index == 0 {
		return false
	}
	_, alive := m.alive[have.owner]
	return have.owner == m.self || m.leader && !alive
}

// unreachable is a lost one whose port does not answer.
func (m *machine) unreachable(r *record, now time.Time) {
	if r.dials < lostDials {
		m.to(r, Lost, now, r.reason)
		m.at(r, now.Add(m.lostPause()))
		return
	}
	if why := m.suspicion(r, now); why != "" {
		if r.heldAt.IsZero() {
			r.heldAt = now
		}
		m.to(r, Lost, now, why)
		m.at(r, now.Add(heldFor))
		return
	}
	m.guard.removed(r, now)
	m.to(r, Drain, now, "its mesh_port does not answer any more")
	m.drain(r, now)
}

// drain takes an entry out of the rotation, and then away.
func (m *machine) drain(r *record, now time.Time) {
	have := m.stored[r.node]
	switch {
	case !m.up:
		m.at(r, now.Add(writeAgain))
	case r.unsure:
		m.todo.nodes[r.node] = struct{}{}
		r.busy = true
	case have == nil:
		m.forget(r)
	case have.index == 0:
		m.to(r, Delete, now, r.reason)
		m.change(r, removeNode, have)
	case !m.mine(r) && !r.leaving:
		m.forget(r)
	case !have.draining:
		m.to(r, Drain, now, r.reason)
		m.change(r, mark, have)
	case now.Before(r.lostAt.Add(m.after)) && (r.connected || !r.leaving):
		m.to(r, Drain, now, r.reason)
		m.at(r, r.lostAt.Add(m.after))
	default:
		m.to(r, Delete, now, r.reason)
		m.change(r, remove, have)
	}
}

// dismissal takes out one that has said so: there is nothing to find out.
func (m *machine) dismissal(r *record, now time.Time) {
	if m.stored[r.node] == nil && !r.unsure {
		if !r.connected {
			m.forget(r)
		}
		return
	}
	if r.last && r.connected {
		m.due.stop(&r.timer)
		m.to(r, Held, now, "it leaves, and nobody else can be called: its entry goes when it has ended")
		return
	}
	reason := "it leaves"
	if r.fixed {
		reason = "it is wanted no more"
	}
	r.reason = reason
	m.drain(r, now)
}
