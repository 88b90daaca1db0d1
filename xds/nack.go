package xds

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"datapunk.dev/controlplane/resource"
)

// What happens after a NACK.
//
// "NACK signifies unsuccessful configuration and is indicated by the presence
// of the error_detail field." It does not signify that nothing was applied:
// Envoy may have applied any part of the response, and often does not say which
// resource it refused. So every name of the response counts as unknown from
// here on, and the resources are tried again in smaller responses until those
// that are refused alone are found. Each refusal makes the groups smaller, so
// it ends. What is refused alone is held.
//
// "If the management server provides the same set of resources rather than
// waiting for a change to occur, it will cause needless work on both the client
// and the management server, which could have a severe performance impact."

// hold is content that a client rejected. It is not sent again until it, or
// something that it depends on, changes: a listener that was refused for a bad
// secret is to be sent again, unchanged, once the secret is good.
type hold struct {
	version string // empty: its removal was refused
	depends uint64
}

func (h *hold) stands(s *stream, v *view, target *resource.Resource) bool {
	if target == nil {
		return h.version == ""
	}
	if h.version != target.Version {
		return false
	}
	// A change of what it depends on counts once the client has that.
	return h.depends == dependencies(v, s.secrets.count, target) || !s.secretsSent(v, target)
}

// dependencies sums up the versions of all that a resource refers to in the
// view, directly or not. Leases is how many secrets of the lease were sent. An
// assignment is no dependency: nothing is refused for its endpoints but itself.
func dependencies(v *view, leases uint64, r *resource.Resource) uint64 {
	h := xxhash.New()
	walkRefs(v, r, func(ref resource.Ref, to *resource.Resource) {
		_, _ = h.WriteString(ref.Name)
		switch {
		case ref.Type == resource.Endpoint:
		case ref.Type == resource.Secret && leased(ref.Name):
			_, _ = h.WriteString(strconv.FormatUint(leases, 10))
		case to != nil:
			_, _ = h.WriteString(to.Version)
		}
	})
	return h.Sum64()
}

// secretsSent reports whether the client was sent the view's state of all
// secrets that the resource depends on and that it asked for.
func (s *stream) secretsSent(v *view, r *resource.Resource) bool {
	f := &s.feeds[resource.Secret]
	sent := true
	walkRefs(v, r, func(ref resource.Ref, _ *resource.Resource) {
		if ref.Type == resource.Secret && f.sub.has(ref.Name) &&
			(f.base != v.of(resource.Secret) || f.diffs[ref.Name] != nil) {
			sent = false
		}
	})
	return sent
}

// walkRefs calls f with all that a resource refers to, directly or not.
func walkRefs(v *view, r *resource.Resource, f func(resource.Ref, *resource.Resource)) {
	seen := make(map[resource.Ref]struct{})
	var walk func(refs []resource.Ref)
	walk = func(refs []resource.Ref) {
		for _, ref := range refs {
			if _, ok := seen[ref]; ok {
				continue
			}
			seen[ref] = struct{}{}
			to := v.get(ref.Type, ref.Name)
			f(ref, to)
			if to != nil {
				walk(to.Refs)
			}
		}
	}
	walk(r.Refs)
}

// rejected notes a NACK and arranges what is tried next.
func (f *feed) rejected(r *response, message string) {
	s := f.stream
	n := f.report(r, message)
	s.unmark(f.typ)
	if f.fullState() {
		s.doubt()
	}
	if f.fullState() && (f.claims != "" && !f.accepted || s.slot.profile.Kind.KeepsOnNack()) {
		// It came with a state of which only the version is known, or it is of a
		// kind that takes all but the bad one. What a response lacks it would
		// delete, though it works with that: so there are no smaller ones, and
		// the next is sent when something changes.
		f.unsure = true
		return
	}
	if f.fullState() {
		// If nothing else is accepted, the client must still be told what of
		// an earlier stream it is not to keep.
		f.owed = !f.accepted && len(r.changes) > 0
		// Those on their way hold the same, and may be rejected for it.
		for _, later := range f.inflight {
			later.absorb(r)
		}
	}
	names := make([]string, 0, len(r.changes))
	for _, c := range r.changes {
		d := f.noted(c.name)
		if d == nil {
			continue // unsubscribed meanwhile
		}
		d.has, d.tell, d.suspect, d.asked = c.before, true, true, false
		names = append(names, c.name)
		if len(r.changes) == 1 {
			d.held = &hold{}
			if c.res != nil {
				d.held.version = c.res.Version
				d.held.depends = dependencies(r.view, r.leases, c.res)
				s.remember(r.view, c, n)
				if n.Cause == "" {
					s.accuse(r.view, c.res, n)
				}
			}
			return
		}
	}
	groups := f.halves(names)
	if i := slices.Index(names, n.Resource); f.fullState() && i >= 0 {
		// Most often the message says which: the others first, and all at once.
		groups = [][]string{slices.Delete(slices.Clone(names), i, i+1), {n.Resource}}
	}
	f.trials = append(groups, f.trials...)
}

// halves splits names into the groups to try next. Where a response may hold a
// part of the type's resources each name goes alone: ten responses back to
// back cost no more than one. In the full state of a SotW type a response
// takes the acknowledged ones along, so the groups are halves.
func (f *feed) halves(names []string) [][]string {
	if len(names) == 0 {
		return nil
	}
	if f.fullState() {
		return [][]string{names[:len(names)/2], names[len(names)/2:]}
	}
	groups := make([][]string, len(names))
	for i := range names {
		groups[i] = names[i : i+1]
	}
	return groups
}

// pushTrials sends groups of names that were in a rejected response, each in a
// response of its own.
func (f *feed) pushTrials(v *view, now time.Time) {
	if len(f.trials) == 0 {
		return
	}
	f.advance(v)
	for len(f.trials) > 0 && f.mayTry(now) {
		var changes []change
		for _, name := range f.trials[0] {
			d := f.diffs[name]
			if d == nil {
				continue
			}
			c, verdict := f.consider(v, name, d, now)
			switch verdict {
			case send:
				changes = append(changes, c)
				f.settle(d, c)
			case nothing:
				delete(f.diffs, name)
			}
		}
		f.trials = f.trials[1:]
		if len(changes) > 0 {
			f.send(v, changes, now)
		}
	}
	if len(f.trials) == 0 {
		f.trials = nil
	}
}

// mayTry reports whether the next group may be sent.
func (f *feed) mayTry(now time.Time) bool {
	n := len(f.inflight)
	if n == 0 || !f.fullState() && n < maxInFlight {
		return true
	}
	if f.fullState() {
		return false // the next one builds on what this one leaves
	}
	if n >= maxUnanswered {
		return false
	}
	// Envoy answers clusters only when they are warm.
	open := f.inflight[n-1].at.Add(f.stream.server.options.Timeouts.Coalesce)
	if now.Before(open) {
		f.stream.pushAgainAt(open)
		return false
	}
	return true
}

// report records a NACK where people look for it.
func (f *feed) report(r *response, message string) *Nack {
	s := f.stream
	n := &Nack{
		Time:    time.Now(),
		Type:    f.typ.String(),
		Nonce:   r.nonce,
		Version: r.version.String(),
		Message: normalize(message),
	}
	for _, c := range r.changes[:min(len(r.changes), maxNackResources)] {
		n.Resources = append(n.Resources, c.name)
	}
	n.More = len(r.changes) - len(n.Resources)
	if res := blamed(r.changes, n.Message); res != nil {
		n.Resource = res.Name
		if s.server.options.Locate != nil {
			n.Source = s.server.options.Locate(res.Keys)
		}
	}
	if len(r.changes) == 1 && n.Resource != "" {
		n.Cause = ownCause(f.typ, n.Resource, n.Message)
	}
	s.server.metrics.nacks.WithLabelValues(f.typ.String()).Inc()
	if n.Cause != "" {
		s.server.metrics.own.WithLabelValues(n.Cause).Inc()
	}
	s.status.rejected(f.typ, n)
	s.log.Error("configuration rejected by a proxy",
		"type", n.Type, "resource", n.Resource, "source", n.Source, "nonce", n.Nonce,
		"resources", len(r.changes), "cause", n.Cause, "message", n.Message)
	return n
}

// blamed returns the resource that a NACK is about, if that is certain: the
// only one of the response, or the only one that the message names.
func blamed(changes []change, message string) *resource.Resource {
	if len(changes) == 1 {
		return changes[0].res
	}
	var found *resource.Resource
	for _, c := range changes {
		if c.res == nil || !mentions(message, c.name) {
			continue
		}
		if found != nil {
			return nil
		}
		found = c.res
	}
	return found
}

// mentions reports whether a text has the name as a word.
func mentions(text, name string) bool {
	inName := func(c byte) bool {
		return c == '_' || c == '-' || c == '|' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	for i := 0; ; {
		j := strings.Index(text[i:], name)
		if j < 0 {
			return false
		}
		j += i
		end := j + len(name)
		if (j == 0 || !inName(text[j-1])) && (end == len(text) || !inName(text[end])) {
			return true
		}
		i = j + 1
	}
}

// normalize takes out what Envoy puts into a message at random, so that equal
// causes have equal texts: a word "goo.gle/debug…" in front, and blanks.
func normalize(message string) string {
	words := strings.Fields(message)
	words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "goo.gle/debug") })
	return strings.Join(words, " ")
}
