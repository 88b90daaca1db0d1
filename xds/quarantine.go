package xds

import (
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/resource"
)

// A content that several proxies reject, one by one and each for certain, is
// bad for all of them (see [tally]). It goes into quarantine: in its place the
// last content that some proxy acknowledged is served, to new proxies too, whose
// first response Envoy would else reject whole and run with nothing. Where there
// is no such content a client keeps what it has.
//
// A NACK counts unless it is for something on the proxy's own machine or in its
// build: see cause.go. A proxy that comes back with a content speaks for it like
// an ACK, and so a proof outlives a restart: see returned.go.

// forgetQuarantine is how long a quarantine outlives the last proxy that it
// concerned.
const forgetQuarantine = 10 * time.Minute

// quarantine is a content that is served no more. [Server.mu] guards what changes
// in it.
type quarantine struct {
	content content
	depends uint64 // the state of what it depends on in which it was rejected
	source  string
	message string
	since   time.Time
	by      string // the replica that decided; empty: this one

	// fallbacks are what is served instead, by the resource that is withheld: in
	// two views the same content may have followed on different ones.
	fallbacks map[*resource.Resource]*resource.Resource

	// instead are others that proxies ran, as an earlier process was told: what is
	// served where nothing was acknowledged since the start.
	instead []*resource.Resource

	halves int       // that withhold it
	left   bool      // one has ceased to during this publication
	idle   time.Time // since when none does
}

// maxFallbacks bounds them: a content that comes and goes is another resource
// each time.
const maxFallbacks = 64

// Quarantined is a content that is not served to a proxy because several
// proxies refused it. They have the last acknowledged one instead.
type Quarantined struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Source  string    `json:"source,omitempty"` // the place in the mesh file that made it
	Message string    `json:"message"`          // of the proxy that decided
	Since   time.Time `json:"since"`
}

// quarantines are those in force, oldest first. [Server.mu] guards them.
type quarantines struct {
	list []*quarantine
}

func (qs *quarantines) has(c content) bool {
	return slices.ContainsFunc(qs.list, func(q *quarantine) bool { return q.content == c })
}

// substitute replaces what is in quarantine in the served sets of a half that
// follows old, which may be nil. Its cost is in proportion to the number of
// quarantines.
func (qs *quarantines) substitute(h, old, scope *half, kind resource.Kind, with func(*servedSet, fallback) *servedSet) {
	if len(qs.list) == 0 {
		return
	}
	v := &view{scope: scope, own: h}
	if scope == nil {
		v = &view{scope: h, own: noHalf}
	}
	for _, t := range slices.Backward(removalOrder[:]) { // what others depend on first
		var before *servedSet
		if old != nil {
			before = old.types[t]
		}
		for _, q := range qs.list {
			if q.content.typ != t || q.content.kind != kind {
				continue
			}
			r := h.types[t].set.Get(q.content.name)
			if r == nil || r.Version != q.content.version || dependencies(v, 0, r) != q.depends {
				continue
			}
			h.types[t] = with(h.types[t], fallback{cause: q, withheld: r, resource: qs.fallback(v, q, r, h.types[t], before)})
			q.halves++
		}
		if before.equal(h.types[t]) {
			h.types[t] = before
		}
	}
}

// fallback returns what is served in the place of a resource, nil for nothing:
// what was served there before as long as the quarantine lasts, else the last
// content that was acknowledged, to this process or an earlier one.
func (qs *quarantines) fallback(v *view, q *quarantine, r *resource.Resource, in, before *servedSet) *resource.Resource {
	if before != nil {
		if was := before.fallbacks[r.Name]; was.cause == q && was.resource != nil {
			return was.resource
		}
	}
	if known := q.fallbacks[r]; known != nil {
		return known
	}
	last := in.acked.get(r.Name)
	if last == nil || last.Version == r.Version || qs.has(contentOf(q.content.kind, last)) {
		return qs.recalled(v, q)
	}
	q.remember(r, last)
	return last
}

// recalled returns what proxies ran before, as an earlier process was told: what finds
// in the view all that it refers to, if there is such a thing. The view is nil if it is
// not known yet.
func (qs *quarantines) recalled(v *view, q *quarantine) *resource.Resource {
	var first *resource.Resource
	for _, r := range q.instead {
		if r.Version == q.content.version || v == nil || qs.has(contentOf(q.content.kind, r)) {
			continue
		}
		whole := true
		walkRefs(v, r, func(ref resource.Ref, to *resource.Resource) {
			whole = whole && (to != nil || ref.Type == resource.Secret || ref.Type == resource.Endpoint)
		})
		if whole {
			return r
		}
		if first == nil {
			first = r
		}
	}
	return first
}

// candidates are what is served instead, each content once.
func (q *quarantine) candidates() []*resource.Resource {
	all := make([]*resource.Resource, 0, len(q.fallbacks)+len(q.instead))
	for _, r := range q.fallbacks {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *resource.Resource) int { return strings.Compare(a.Version, b.Version) })
	all = append(all, q.instead...)
	seen := make(map[string]bool, len(all))
	return slices.DeleteFunc(all, func(r *resource.Resource) bool {
		was := seen[r.Version]
		seen[r.Version] = true
		return was
	})
}

func (q *quarantine) remember(withheld, instead *resource.Resource) {
	if q.fallbacks == nil {
		q.fallbacks = make(map[*resource.Resource]*resource.Resource)
	}
	if len(q.fallbacks) < maxFallbacks {
		q.fallbacks[withheld] = instead
	}
}

// released is told that a half is no longer used.
func (qs *quarantines) released(h *half) {
	for _, set := range h.types {
		for _, f := range set.fallbacks {
			if f.cause.halves--; f.cause.halves == 0 {
				f.cause.idle = time.Now()
			}
			f.cause.left = true
		}
	}
}

// proven ends the quarantines of contents that are good after all. It reports
// whether there were any.
func (qs *quarantines) proven(contents []content) bool {
	n := len(qs.list)
	qs.list = slices.DeleteFunc(qs.list, func(q *quarantine) bool { return slices.Contains(contents, q.content) })
	return len(qs.list) < n
}

// expire ends the quarantines that no view needs any more: other content has
// come, or what it depends on has changed. Outside a publication, they are
// those of proxies that have not come back.
func (qs *quarantines) expire(publication bool) (ended []*quarantine) {
	qs.list = slices.DeleteFunc(qs.list, func(q *quarantine) bool {
		left := q.left && publication
		q.left = false
		if q.halves > 0 || !left && time.Since(q.idle) < forgetQuarantine {
			return false
		}
		ended = append(ended, q)
		return true
	})
	return ended
}

// quarantine has a content served no more. It reports false if enough proxies have
// acknowledged it meanwhile.
func (s *Server) quarantine(q *quarantine) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tally.isProven(q.content) {
		return false
	}
	for _, known := range s.quarantines.list {
		if known.content == q.content && known.depends == q.depends {
			known.by = "" // another replica was first; from now on this one says so too
			s.keepLater()
			return false
		}
	}
	q.instead = s.memory.recalled(q.content)
	s.quarantines.list = append(s.quarantines.list, q)
	s.keepLater()
	s.served.rememberFallbacks(q)
	s.serveAgainLocked()
	return true
}

// lift ends the quarantines of contents that were proven good.
func (s *Server) lift(proven []content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quarantines.proven(proven) {
		s.keepLater()
		s.serveAgainLocked()
	}
}

// serveAgainLocked makes all halves anew, since the quarantines have changed.
func (s *Server) serveAgainLocked() {
	var p publication
	for _, sc := range s.scopes {
		p.putScope(sc, s.served.half(sc.half, sc.kind, nil, sc.half.sets(), nil))
	}
	for _, sl := range s.slots {
		if sl.own != nil {
			s.serveOwnSetsLocked(&p, sl, p.half(sl.scope), sl.own.sets(), sl.own.missing)
		}
	}
	s.swapLocked(&p)
	s.expireLocked(false)
}

// expireLocked ends the quarantines that have lost their cause.
func (s *Server) expireLocked(publication bool) {
	for _, q := range s.quarantines.expire(publication) {
		s.tally.forgetNacks(q.content, q.depends)
		s.keepLater()
		s.options.Logger.Info("quarantine ended", "type", q.content.typ.String(), "name", q.content.name, "version", q.content.version)
	}
	s.metrics.quarantined.Set(float64(len(s.quarantines.list)))
}

// Quarantines returns the contents that are in quarantine, oldest first, each
// with its type before its name: "listener outbound".
func (s *Server) Quarantines() []Quarantined {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Quarantined, len(s.quarantines.list))
	for i, q := range s.quarantines.list {
		list[i] = Quarantined{
			Name: q.content.typ.String() + " " + q.content.name, Version: q.content.version,
			Source: q.source, Message: q.message, Since: q.since,
		}
	}
	return list
}
