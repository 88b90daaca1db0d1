package xds

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"datapunk.dev/controlplane/resource"
)

// A content that several proxies refuse, one by one and each for certain, is
// bad for all of them. It goes into quarantine: in its place the last content
// that some proxy acknowledged is served, to new proxies too, whose first
// response Envoy would else reject whole and run with nothing. Where there is
// no such content a client keeps what it has.
//
// A refusal counts unless it is for something on the proxy's own machine or in
// its build: see cause.go.
//
// As many proxies that acknowledge a content prove it good, for ever: what the
// fleet runs can not be taken away by a few proxies of another version, nor by
// a few that lie. One that comes back with a content speaks for it too, and so
// a proof outlives a restart: see returned.go.

// defaultQuorum is how many proxies decide on a content.
const defaultQuorum = 3

// forgetQuarantine is how long a quarantine outlives the last proxy that it
// concerned.
const forgetQuarantine = 10 * time.Minute

// content is what a resource is, in all views of the kind.
type content struct {
	kind          resource.Kind
	typ           resource.Type
	name, version string
}

func contentOf(k resource.Kind, r *resource.Resource) content {
	return content{kind: k, typ: r.Type, name: r.Name, version: r.Version}
}

// jury decides which contents are good. Each content that is served stands
// trial until enough proxies have acknowledged it.
type jury struct {
	quorum int

	mu     sync.RWMutex
	trials map[content]*trial
	kept   int // trials after the last [jury.retain]
	// quarantines are those in force, oldest first.
	quarantines []*quarantine

	open [resource.NumTypes]atomic.Int64 // trials without a verdict
}

// trial is what proxies said of one content.
type trial struct {
	proven   bool
	accepted []string            // the node.ids, until it is proven
	refused  map[uint64][]string // the node.ids, by what it depended on
	after    []succession
}

// succession says which content some proxy had acknowledged in the place of a
// resource. It is told of the pointer: equal resources that were made apart,
// for two profiles, need not have followed on the same.
type succession struct {
	resource, before *resource.Resource
	continuous       bool // in one set, not by another one
}

// maxSuccessions bounds them: a content that comes and goes is a new resource
// each time.
const maxSuccessions = 64

// maxRefusedStates is for how many states of what it depends on the refusals of
// one content are counted.
const maxRefusedStates = 8

// quarantine is a content that is served no more.
type quarantine struct {
	content content
	depends uint64 // see hold
	source  string
	message string
	since   time.Time

	views int       // halves that withhold it; guarded by Server.mu, as what follows
	left  bool      // a half has ceased to withhold it during this publication
	idle  time.Time // since when no half does
}

// Quarantined is a content that is not served to a proxy because several
// proxies refused it. They have the last acknowledged one instead.
type Quarantined struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Source  string    `json:"source,omitempty"` // the place in the mesh file that made it
	Message string    `json:"message"`          // of the proxy that decided
	Since   time.Time `json:"since"`
}

// vouch tells the jury what the client acknowledged.
func (s *stream) vouch(t resource.Type, p *parcel) {
	if len(p.changes) == 0 || p.proven.Load() {
		return
	}
	if p.parts != nil {
		for _, part := range p.parts {
			s.vouch(t, part)
		}
		return
	}
	proven, lifted := s.server.jury.accepted(s.slot.profile.Kind, t, s.node.id, p.changes)
	p.proven.Store(proven)
	if lifted {
		s.server.judged()
	}
}

// accuse tells the jury what the client refused, alone in its response.
func (s *stream) accuse(v *view, r *resource.Resource, n *Nack) {
	if r.Type == resource.Secret && leased(r.Name) {
		return // it is this proxy's and no other's
	}
	c, depends, j := contentOf(s.slot.profile.Kind, r), dependencies(v, 0, r), s.server.jury
	if !j.refused(c, depends, s.node.id) {
		return
	}
	j.confine(&quarantine{content: c, depends: depends, source: n.Source, message: n.Message, since: n.Time, idle: time.Now()})
	s.log.Error("content in quarantine for the whole fleet: the last acknowledged one is served",
		"type", n.Type, "name", c.name, "version", c.version, "source", n.Source, "proxies", j.quorum, "message", n.Message)
	s.server.judged()
}

func newJury(quorum int) *jury {
	if quorum <= 0 {
		quorum = defaultQuorum
	}
	return &jury{quorum: quorum, trials: make(map[content]*trial)}
}

// published brings what the set has and before had not to trial. Before may be
// nil.
func (j *jury) published(kind resource.Kind, set *resource.Set, before *offer) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if before != nil {
		if names, ok := set.ChangedSince(before.set); ok {
			for _, name := range names {
				if r := set.Get(name); r != nil {
					j.enter(kind, r, before.get(name), true)
				}
			}
			return
		}
	}
	for r := range set.All() {
		var old *resource.Resource
		if before != nil {
			old = before.get(r.Name)
		}
		j.enter(kind, r, old, false)
	}
}

func (j *jury) enter(kind resource.Kind, r, before *resource.Resource, continuous bool) {
	c := contentOf(kind, r)
	t := j.trials[c]
	if t == nil {
		t = &trial{}
		j.trials[c] = t
		j.open[c.typ].Add(1)
	}
	if t.proven || before == nil || before.Version == r.Version {
		return
	}
	if was := j.trials[contentOf(kind, before)]; was != nil && !was.proven && len(was.accepted) == 0 {
		if before = was.predecessor(before); before == nil || before.Version == r.Version {
			return
		}
	}
	for i, s := range t.after {
		if s.resource == r {
			if continuous || !s.continuous {
				t.after[i] = succession{r, before, continuous}
			}
			return
		}
	}
	if len(t.after) >= maxSuccessions {
		t.after = slices.Delete(t.after, 0, 1)
	}
	t.after = append(t.after, succession{r, before, continuous})
}

// predecessor returns the acknowledged content that r followed on, or nil.
func (t *trial) predecessor(r *resource.Resource) *resource.Resource {
	for _, s := range t.after {
		if s.resource == r {
			return s.before
		}
	}
	return nil
}

// accepted notes that a node acknowledged the changes. It reports whether all
// of them are proven now, and whether that has ended a quarantine.
func (j *jury) accepted(kind resource.Kind, typ resource.Type, node string, changes []change) (proven, lifted bool) {
	if j.open[typ].Load() == 0 {
		return true, false
	}
	var open []content
	proven = true
	j.mu.RLock()
	for _, c := range changes {
		if c.res == nil {
			continue
		}
		t := j.trials[contentOf(kind, c.res)]
		if t == nil || t.proven {
			continue
		}
		proven = false
		if !slices.Contains(t.accepted, node) {
			open = append(open, contentOf(kind, c.res))
		}
	}
	j.mu.RUnlock()
	if len(open) == 0 {
		return proven, false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range open {
		t := j.trials[c]
		if t == nil || t.proven || slices.Contains(t.accepted, node) {
			continue
		}
		for depends, nodes := range t.refused { // it takes it after all
			t.refused[depends] = slices.DeleteFunc(nodes, func(n string) bool { return n == node })
		}
		if t.accepted = append(t.accepted, node); len(t.accepted) < j.quorum {
			continue
		}
		*t = trial{proven: true}
		j.open[typ].Add(-1)
		n := len(j.quarantines)
		j.quarantines = slices.DeleteFunc(j.quarantines, func(q *quarantine) bool { return q.content == c })
		lifted = lifted || len(j.quarantines) < n
	}
	return false, lifted
}

// refused notes that a node refused a content, while what that depends on was
// in the given state. It reports whether the node is the one that decides.
func (j *jury) refused(c content, depends uint64, node string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	t := j.trials[c]
	if t == nil || t.proven || len(t.refused[depends]) >= j.quorum || slices.Contains(t.refused[depends], node) {
		return false
	}
	if t.refused == nil || len(t.refused) >= maxRefusedStates {
		t.refused = make(map[uint64][]string)
	}
	t.refused[depends] = append(t.refused[depends], node)
	return len(t.refused[depends]) >= j.quorum
}

// confine puts a content into quarantine.
func (j *jury) confine(q *quarantine) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if t := j.trials[q.content]; t != nil && !t.proven {
		j.quarantines = append(j.quarantines, q)
	}
}

// substitute replaces what is in quarantine in the offers of a half that
// follows old, which may be nil. Its cost is in proportion to the number of
// quarantines.
func (j *jury) substitute(h, old, scope *half, kind resource.Kind, graft func(*offer, substitute) *offer) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if len(j.quarantines) == 0 {
		return
	}
	v := &view{scope: scope, own: h}
	if scope == nil {
		v = &view{scope: h, own: noHalf}
	}
	// In an order in which what a resource depends on comes first.
	for _, t := range [...]resource.Type{resource.Runtime, resource.Secret, resource.Endpoint, resource.Cluster, resource.Route, resource.Listener} {
		var before *offer
		if old != nil {
			before = old.offers[t]
		}
		for _, q := range j.quarantines {
			if q.content.typ != t || q.content.kind != kind {
				continue
			}
			r := h.offers[t].set.Get(q.content.name)
			if r == nil || r.Version != q.content.version || dependencies(v, 0, r) != q.depends {
				continue
			}
			s := substitute{cause: q, withheld: r, resource: j.fallback(kind, r)}
			if before != nil {
				if was, ok := before.instead[r.Name]; ok && was.cause == q {
					s.resource = was.resource
				}
			}
			h.offers[t] = graft(h.offers[t], s)
			q.views++
		}
		if before.equal(h.offers[t]) {
			h.offers[t] = before
		}
	}
}

// fallback returns the last acknowledged content of the place, or nil.
func (j *jury) fallback(kind resource.Kind, r *resource.Resource) *resource.Resource {
	for range maxRefusedStates {
		t := j.trials[contentOf(kind, r)]
		if t == nil {
			return nil
		}
		if r = t.predecessor(r); r == nil || !j.confined(contentOf(kind, r)) {
			return r
		}
	}
	return nil
}

func (j *jury) confined(c content) bool {
	return slices.ContainsFunc(j.quarantines, func(q *quarantine) bool { return q.content == c })
}

// released is told that a half is no longer used.
func (j *jury) released(h *half) {
	for _, o := range h.offers {
		for _, s := range o.instead {
			if s.cause.views--; s.cause.views == 0 {
				s.cause.idle = time.Now()
			}
			s.cause.left = true
		}
	}
}

// lift ends the quarantines that no view needs any more: other content has
// come, or what it depends on has changed. Outside a publication, they are
// those of proxies that have not come back.
func (j *jury) lift(publication bool) (ended []*quarantine) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.quarantines = slices.DeleteFunc(j.quarantines, func(q *quarantine) bool {
		left := q.left && publication
		q.left = false
		if q.views > 0 || !left && time.Since(q.idle) < forgetQuarantine {
			return false
		}
		if t := j.trials[q.content]; t != nil {
			delete(t.refused, q.depends)
		}
		ended = append(ended, q)
		return true
	})
	return ended
}

// Quarantines returns the contents that are in quarantine, oldest first, each
// with its type before its name: "listener outbound".
func (s *Server) Quarantines() []Quarantined {
	j := s.jury
	j.mu.RLock()
	defer j.mu.RUnlock()
	list := make([]Quarantined, len(j.quarantines))
	for i, q := range j.quarantines {
		list[i] = Quarantined{
			Name: typeName(q.content.typ) + " " + q.content.name, Version: q.content.version,
			Source: q.source, Message: q.message, Since: q.since,
		}
	}
	return list
}

// count returns how many contents are in quarantine.
func (j *jury) count() int {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return len(j.quarantines)
}

// overgrown reports whether most trials may be of contents that are gone.
func (j *jury) overgrown() bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return len(j.trials) > 2*j.kept+1024
}

// retain drops the trials of all but the given contents and of those in
// quarantine.
func (j *jury) retain(served iter.Seq2[resource.Kind, *resource.Resource]) {
	j.mu.Lock()
	defer j.mu.Unlock()
	kept := make(map[content]*trial, j.kept)
	keep := func(c content) {
		if t := j.trials[c]; t != nil {
			kept[c] = t
		}
	}
	for kind, r := range served {
		keep(contentOf(kind, r))
	}
	for _, q := range j.quarantines {
		keep(q.content)
	}
	for c, t := range j.trials {
		if _, ok := kept[c]; !ok && !t.proven {
			j.open[c.typ].Add(-1)
		}
	}
	j.trials, j.kept = kept, len(kept)
}
