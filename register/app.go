package register

import (
	"time"

	"datapunk.dev/controlplane/watch"
)

// The health of an application, as what stands beside it reports it. It is a check of
// its own, ID:app, beside that of the proxy: whoever gets the reports writes it, and
// that need not be the replica that has the proxy's stream, and so the entry. An entry
// that is checked begins critical, until a report has said otherwise; one that is
// checked by an edit stays as it is until then.
//
// Beside a catalog in a file each replica has the proxies of its own streams, and the
// reports may go to another. There a proxy is waited for until the first report, and
// one of which none comes is passing, as one that is not checked.

// Report is what is reported of an application.
type Report struct {
	Node, Service string // the catalog's name of the service
	Health        Health
	// Began is since when this replica hears of the node: another may have written
	// before. Zero: since the last report, or since this one.
	Began time.Time
}

// report is the last one of a node.
type report struct {
	Report
	at time.Time
	// It could not be decided when it came. Else it is over with that: by now the node
	// may report to another replica.
	waits bool
	busy  bool      // is being written
	wrote time.Time // when that ended
	again time.Time // not before
}

const (
	// reportStands is how long a report counts that no other follows.
	reportStands = 10 * time.Second
	// unknownAgain is when a service is read again that did not have the node.
	unknownAgain = 10 * time.Second
)

// Reported is told of the health of an application. It does not wait.
func (r *Registrar) Reported(rep Report) {
	r.tell(func(m *machine, now time.Time) { m.reported(rep, now) })
}

// reported writes what was reported, if the catalog has something else. It is called
// every few seconds for each application.
func (m *machine) reported(rep Report, now time.Time) {
	node := nodeName(rep.Node)
	last := m.reports[node]
	if last == nil {
		last = &report{}
		m.reports[node] = last
	}
	if rep.Began.IsZero() {
		if rep.Began = now; now.Sub(last.at) <= reportStands {
			rep.Began = last.Began
		}
	}
	last.Report, last.at = rep, now
	if r := m.records[node]; m.local && r != nil && r.connected && !r.busy {
		if r.state == New {
			m.decide(r, now) // that is what it waits for
		} else if r.state == Held && rep.Health != Passing {
			m.at(r, now.Add(reportStands+time.Second)) // see unheard
		}
	}
	m.decideReport(node, last, now)
}

// heard reports whether a report of a record stands.
func (m *machine) heard(r *record, now time.Time) bool {
	rep := m.reports[r.node]
	return rep != nil && now.Sub(rep.at) <= reportStands && rep.Node == r.want.id
}

// awaitsReport has a proxy wait for the first report, beside a catalog in a file.
func (m *machine) awaitsReport(r *record, have *stored, now time.Time) bool {
	if !m.local || !r.want.checked || r.proxy == nil || have != nil && have.index > 0 || m.heard(r, now) {
		return false
	}
	until := r.proxy.Since.Add(reportStands)
	if !now.Before(until) {
		return false
	}
	m.to(r, New, now, "nobody has said yet how its application is")
	m.at(r, until)
	return true
}

// unheard reports whether an entry beside a catalog in a file says what nobody says
// any more, here.
func (m *machine) unheard(r *record, have *stored, now time.Time) bool {
	return m.local && have.app != "" && have.app != Passing && !m.heard(r, now)
}

// decideWaiting decides about a report again that has to wait.
func (m *machine) decideWaiting(node string, rep *report, now time.Time) {
	if rep.waits && now.Sub(rep.at) <= reportStands {
		m.decideReport(node, rep, now)
	}
}

func (m *machine) decideReport(node string, rep *report, now time.Time) {
	have, r := m.stored[node], m.records[node]
	read := m.views[rep.Service]
	rep.waits = rep.busy || r != nil && r.busy
	switch {
	case !m.up || rep.waits || now.Before(rep.again):
	case r != nil && (r.leaving || r.connected && !r.want.checked):
	case read.Before(rep.Began), r == nil && (have == nil || have.index == 0) && now.Sub(read) > unknownAgain:
		m.todo.reads[rep.Service] = struct{}{}
		rep.waits = true
	case have == nil || have.index == 0 || have.service != rep.Service || have.id != rep.Node || have.draining || have.app == rep.Health:
	default:
		rep.busy = true
		want := have.entry
		want.app = rep.Health
		m.todo.changes = append(m.todo.changes, change{assess, want, have})
	}
}

// assessed is told what became of the writing of a report.
func (m *machine) assessed(o outcome, now time.Time) {
	rep := m.reports[o.node]
	if rep == nil {
		return
	}
	rep.busy, rep.wrote = false, now
	switch o.result {
	case written:
		if have := m.stored[o.node]; have != nil {
			after := *have
			after.app = o.stored.app
			m.stored[o.node] = &after
		}
	case denied:
		rep.again = now.Add(deniedAgain)
	default:
		delete(m.views, rep.Service) // it is not there any more, or nobody knows
		rep.again = now.Add(writeAgain)
	}
	m.decideWaiting(o.node, rep, now)
}

// assess decides about the reports of services that were read.
func (m *machine) assess(of func(service string) bool, now time.Time) {
	for node, rep := range m.reports {
		switch {
		case now.Sub(rep.at) > reportStands && !rep.busy:
			delete(m.reports, node)
		case of(rep.Service):
			m.decideWaiting(node, rep, now)
		}
	}
}

// appOf is what the check of an application is to say when its entry is written.
func (m *machine) appOf(r *record, have *stored, now time.Time) Health {
	told := m.heard(r, now)
	switch {
	case !r.want.checked:
		return ""
	case m.local && !told:
		return Passing
	case have != nil && have.index > 0 && (have.health != "" || !told):
		return have.app
	case told:
		return m.reports[r.node].Health
	}
	return Critical
}

// worst is what two checks amount to.
func worst(a, b Health) Health {
	for _, h := range []Health{Critical, Warning} {
		if a == h || b == h {
			return h
		}
	}
	return Passing
}

// healthOf is that of an instance in the words of those who read the catalog.
func healthOf(s *stored) watch.Health {
	switch health := worst(s.health, s.app); {
	case s.draining:
		return watch.Maintenance
	case health == Warning:
		return watch.Warning
	case health == Critical:
		return watch.Critical
	}
	return watch.Passing
}
