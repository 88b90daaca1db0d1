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
// that are rejected alone are found. Each NACK makes the groups smaller, so it ends.
// What is rejected alone is nacked: it is not sent again until it, or something that
// it depends on, changes. The states of a name are in namestate.go.
//
// "If the management server provides the same set of resources rather than
// waiting for a change to occur, it will cause needless work on both the client
// and the management server, which could have a severe performance impact."

// rejection is a content that a client rejected. It stands until the content, or
// something that it depends on, changes: a listener that was refused for a bad
// secret is to be sent again, unchanged, once the secret is good.
type rejection struct {
	version string // empty: its removal was refused
	depends uint64
}

// of reports whether a resource has the content.
func (r *rejection) of(res *resource.Resource) bool { return res != nil && r.version == res.Version }

// stands reports whether what the client is to have is still what it rejected.
func (r *rejection) stands(s *stream, v *view, target *resource.Resource) bool {
	if target == nil {
		return r.version == ""
	}
	if r.version != target.Version {
		return false
	}
	// A change of what it depends on counts once the client has that.
	return r.depends == dependencies(v, s.secrets.count, target) || !s.secretsSent(v, target)
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
	ts := &s.types[resource.Secret]
	sent := true
	walkRefs(v, r, func(ref resource.Ref, _ *resource.Resource) {
		if ref.Type == resource.Secret && ts.sub.has(ref.Name) &&
			(ts.base != v.of(resource.Secret) || ts.names[ref.Name] != nil) {
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
func (ts *typeState) rejected(r *response, message string) {
	s := ts.stream
	n := ts.report(r, message)
	s.unmark(ts.typ)
	if ts.fullState() {
		s.suspectVersion()
		if ts.isFinal() {
			// It came with a state of which only the version is known, or it is of a
			// kind that takes all but the bad one. What a response lacks it would
			// delete, though it works with that: so there are no smaller ones, and
			// the next is sent when something changes.
			ts.unsure = true
			return
		}
		// If nothing else is accepted, the client must still be told what of
		// an earlier stream it is not to keep.
		ts.owed = !ts.acked && len(r.changes) > 0
		// Those on their way hold the same, and may be rejected for it.
		for _, later := range ts.inflight {
			later.absorb(r)
		}
	}
	names := make([]string, 0, len(r.changes))
	for _, c := range r.changes {
		d := ts.track(c.name)
		if d == nil {
			continue // unsubscribed meanwhile
		}
		if len(r.changes) > 1 {
			d.rejectedWithOthers(c.before)
			names = append(names, c.name)
			continue
		}
		rejected := &rejection{}
		if c.res != nil {
			rejected.version, rejected.depends = c.res.Version, dependencies(r.view, r.leases, c.res)
			s.rememberNack(r.view, c, n)
			if n.Cause == "" {
				s.recordNack(r.view, c.res, n)
			}
		}
		d.rejectedAlone(c.before, rejected)
		return
	}
	groups := ts.halves(names)
	if i := slices.Index(names, n.Resource); (ts.fullState() || ts.typ == resource.Route) && i >= 0 {
		// Most often the message says which: the others first, and all at once.
		groups = [][]string{slices.Delete(slices.Clone(names), i, i+1), {n.Resource}}
	}
	ts.retries = append(groups, ts.retries...)
}

// isFinal reports whether a response that is refused now is not tried again in smaller ones.
func (ts *typeState) isFinal() bool {
	return ts.fullState() && (ts.claims != "" && !ts.acked || ts.stream.slot.profile.Kind.KeepsOnNack())
}

// halves splits names into the groups to try next. Where a response may hold a
// part of the type's resources each name goes alone: ten responses back to
// back cost no more than one. In the full state of a SotW type a response
// takes the acknowledged ones along, so the groups are halves.
func (ts *typeState) halves(names []string) [][]string {
	if len(names) == 0 {
		return nil
	}
	if ts.fullState() {
		return [][]string{names[:len(names)/2], names[len(names)/2:]}
	}
	groups := make([][]string, len(names))
	for i := range names {
		groups[i] = names[i : i+1]
	}
	return groups
}

// pushRetries sends groups of names that were in a rejected response, each in a
// response of its own.
func (ts *typeState) pushRetries(v *view, now time.Time) {
	if len(ts.retries) == 0 {
		return
	}
	ts.advance(v)
	for len(ts.retries) > 0 && ts.maySend(aRetry, now) {
		var changes []change
		for _, name := range ts.retries[0] {
			d := ts.names[name]
			if d == nil {
				continue
			}
			c, verdict := ts.consider(v, name, d, now)
			switch verdict {
			case send:
				changes = append(changes, c)
				ts.markSent(d, c)
			case nothing:
				delete(ts.names, name)
			}
		}
		ts.retries = ts.retries[1:]
		if len(changes) > 0 {
			ts.send(v, changes, now)
		}
	}
	if len(ts.retries) == 0 {
		ts.retries = nil
	}
}

// report records a NACK where people look for it.
func (ts *typeState) report(r *response, message string) *Nack {
	s := ts.stream
	n := &Nack{
		Time:    time.Now(),
		Type:    ts.typ.String(),
		Nonce:   r.nonce,
		Version: r.version.String(),
		Message: normalize(message),
		Final:   ts.isFinal(),
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
		n.Cause = ownCause(ts.typ, n.Resource, n.Message)
	}
	s.server.metrics.nacks.WithLabelValues(ts.typ.String()).Inc()
	if n.Cause != "" {
		s.server.metrics.own.WithLabelValues(n.Cause).Inc()
	}
	s.status.rejected(ts.typ, n)
	if s.server.options.OnNack != nil {
		s.server.options.OnNack(s.node.ID, s.slot.profile, n)
	}
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
