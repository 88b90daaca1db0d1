package xds

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"datapunk.dev/controlplane/resource"
)

// content is what a resource is, in all views of a kind.
type content struct {
	kind          resource.Kind
	typ           resource.Type
	name, version string
}

func contentOf(k resource.Kind, r *resource.Resource) content {
	return content{kind: k, typ: r.Type, name: r.Name, version: r.Version}
}

// defaultQuorum is how many proxies decide on a content.
const defaultQuorum = 3

// tally counts, for each content that is served, the proxies that have
// acknowledged and that have rejected it. A quorum of ACKs proves a content good,
// for ever: what the fleet runs can not be taken away by a few proxies of another
// version, nor by a few that lie. A quorum of NACKs before that puts it into
// quarantine. It is safe for concurrent use.
type tally struct {
	quorum int
	open   [resource.NumTypes]atomic.Int64 // contents that are not proven

	mu      sync.RWMutex
	records map[content]*record
	kept    int // records after the last [tally.retain]
}

// record is what proxies, by node.id, answered to one content. Once it is proven
// nobody is named any more.
type record struct {
	proven bool
	acked  []string
	nacked map[uint64][]string // by what the content depended on, see dependencies
}

// maxNackedStates is for how many states of what it depends on the NACKs of one
// content are counted.
const maxNackedStates = 8

func newTally(quorum int) *tally {
	if quorum <= 0 {
		quorum = defaultQuorum
	}
	return &tally{quorum: quorum, records: make(map[content]*record)}
}

// enter has the contents of resources counted from now on.
func (t *tally) enter(kind resource.Kind, resources []*resource.Resource) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range resources {
		c := contentOf(kind, r)
		if t.records[c] == nil {
			t.records[c] = &record{}
			t.open[c.typ].Add(1)
		}
	}
}

// hasAck reports whether some proxy has acknowledged a content that is served.
func (t *tally) hasAck(c content) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.records[c]
	return r != nil && (r.proven || len(r.acked) > 0)
}

// isProven reports whether a quorum has acknowledged a content. One that is not
// served any more needs no proof.
func (t *tally) isProven(c content) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.records[c]
	return r == nil || r.proven
}

// proved reports whether a quorum has acknowledged a content, as far as is known.
func (t *tally) proved(c content) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.records[c]
	return r != nil && r.proven
}

// prove takes it that a quorum has acknowledged a content, elsewhere.
func (t *tally) prove(c content) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.records[c]; r != nil && !r.proven {
		*r = record{proven: true}
		t.open[c.typ].Add(-1)
	}
}

// ack counts that a node has acknowledged the changes. It reports whether all of
// them were proven before, and returns those that are so by this.
func (t *tally) ack(kind resource.Kind, typ resource.Type, node string, changes []change) (all bool, proven []content) {
	if t.open[typ].Load() == 0 {
		return true, nil
	}
	counts := func(c content) *record {
		if r := t.records[c]; r != nil && !r.proven {
			return r
		}
		return nil
	}
	all = true
	var fresh []content
	t.mu.RLock()
	for _, ch := range changes {
		if ch.res == nil {
			continue
		}
		c := contentOf(kind, ch.res)
		if r := counts(c); r != nil {
			all = false
			if !slices.Contains(r.acked, node) {
				fresh = append(fresh, c)
			}
		}
	}
	t.mu.RUnlock()
	if len(fresh) == 0 {
		return all, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range fresh {
		r := counts(c)
		if r == nil || slices.Contains(r.acked, node) {
			continue
		}
		for depends, nodes := range r.nacked { // it takes it after all
			r.nacked[depends] = slices.DeleteFunc(nodes, func(n string) bool { return n == node })
		}
		if r.acked = append(r.acked, node); len(r.acked) < t.quorum {
			continue
		}
		*r = record{proven: true}
		t.open[c.typ].Add(-1)
		proven = append(proven, c)
	}
	return false, proven
}

// nack counts that a node has rejected a content, while what that depends on was
// in the given state. It reports whether this NACK makes the quorum.
func (t *tally) nack(c content, depends uint64, node string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.records[c]
	if r == nil || r.proven || len(r.nacked[depends]) >= t.quorum || slices.Contains(r.nacked[depends], node) {
		return false
	}
	if r.nacked == nil || len(r.nacked) >= maxNackedStates {
		r.nacked = make(map[uint64][]string)
	}
	r.nacked[depends] = append(r.nacked[depends], node)
	return len(r.nacked[depends]) >= t.quorum
}

// forgetNacks has a content counted anew in that state of what it depends on.
func (t *tally) forgetNacks(c content, depends uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.records[c]; r != nil {
		delete(r.nacked, depends)
	}
}

// overgrown reports whether most records may be of contents that are gone.
func (t *tally) overgrown() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.records) > 2*t.kept+1024
}

// retain drops the records of all but the given contents.
func (t *tally) retain(contents iter.Seq[content]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := make(map[content]*record, t.kept)
	for c := range contents {
		if r := t.records[c]; r != nil {
			kept[c] = r
		}
	}
	for c, r := range t.records {
		if _, ok := kept[c]; !ok && !r.proven {
			t.open[c.typ].Add(-1)
		}
	}
	t.records, t.kept = kept, len(kept)
}

// recordAcks counts what the client acknowledged.
func (s *stream) recordAcks(t resource.Type, p *payload) {
	if len(p.changes) == 0 || p.proven.Load() {
		return
	}
	if p.parts != nil {
		for _, part := range p.parts {
			s.recordAcks(t, part)
		}
		return
	}
	all, proven := s.server.tally.ack(s.slot.profile.Kind, t, s.node.ID, p.changes)
	p.proven.Store(all)
	if len(proven) > 0 {
		s.server.lift(proven)
	}
}

// recordNack counts what the client rejected, alone in its response.
func (s *stream) recordNack(v *view, r *resource.Resource, n *Nack) {
	if r.Type == resource.Secret && leased(r.Name) {
		return // it is this proxy's and no other's
	}
	c, depends := contentOf(s.slot.profile.Kind, r), dependencies(v, 0, r)
	if !s.server.tally.nack(c, depends, s.node.ID) {
		return
	}
	q := &quarantine{content: c, depends: depends, source: n.Source, message: n.Message, since: n.Time, idle: n.Time}
	if s.server.quarantine(q) {
		s.log.Error("content in quarantine for the whole fleet: the last acknowledged one is served",
			"type", n.Type, "name", c.name, "version", c.version, "source", n.Source, "proxies", s.server.tally.quorum, "message", n.Message)
	}
}
