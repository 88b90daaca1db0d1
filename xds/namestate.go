package xds

import (
	"time"

	"datapunk.dev/controlplane/resource"
)

// nameState is what a client has of one name, where that is not what was served
// when it was last sent something, and what is to become of it. Most names of most
// clients have none. Only the methods below change one.
type nameState struct {
	phase phase
	// answer: the client has asked for the name by itself, and is to be answered
	// soon, if need be with what it has.
	answer bool

	// What the client has: a resource, or what it says that it has from another
	// stream (initial_resource_versions), or nothing.
	has     *resource.Resource
	version string

	rejection *rejection         // the content that it does not take: nacked, reverted, restoring
	restore   *resource.Resource // what it had before: restoring
	since     time.Time          // when it first had to wait for a cluster; zero: it did not
}

// phase is what is to become of a name.
//
//	               the client       it asks      its response     its response    nothing is       content, or what
//	               needs it again   for it       is rejected      is rejected     served for a     it depends on,
//	                                             with others      alone           quarantine       has changed
//	changed        requested        requested*   suspect          nacked          withheld
//	requested      requested        requested*   suspect          nacked          withheld*
//	suspect        suspect          suspect*     suspect          nacked          withheld*
//	nacked         nacked           nacked*      nacked           nacked          withheld*        suspect
//	reverted       nacked           nacked*      nacked           nacked          withheld         changed
//	restoring      restoring        restoring*   nacked           nacked          withheld         changed, requested*
//	withheld       withheld*        withheld*    suspect          nacked                           changed, requested
//
// The star is answer. It stays until the name is sent, or rejected.
//
// When what is served is sent, the state is dropped: the client has what base
// says. Where it is sent what it has, or had, instead, the name goes on: requested*
// to changed, nacked* and restoring to reverted, withheld* to withheld. A state is
// dropped too when there is nothing to send.
type phase uint8

const (
	// changed: what is served may be another content than what the client has.
	changed phase = iota
	// requested: it is to be sent whatever the client has.
	requested
	// suspect: it was in a response that was rejected, with others. What the client
	// has is not certain. It is to be sent in a response of its own.
	suspect
	// nacked: it was rejected alone. It is not sent before it changes.
	nacked
	// reverted: the same, and the client was sent what it had before, or never lost
	// it.
	reverted
	// restoring: it was rejected on an earlier stream. What the client had then is
	// to be sent.
	restoring
	// withheld: it is in quarantine, and there is nothing to serve in its place. The
	// client keeps what it has.
	withheld
)

func (p phase) String() string {
	return [...]string{"changed", "requested", "suspect", "nacked", "reverted", "restoring", "withheld"}[p]
}

// clientHas is the state of a name that may have changed since the client was sent the
// resource, nil for nothing.
func clientHas(r *resource.Resource) *nameState { return &nameState{has: r} }

// clientReports is the state of a name that the client says it has.
func clientReports(version string) *nameState { return &nameState{version: version} }

// newlyRequested is the state of a name that the client has nothing of.
func newlyRequested() *nameState { return &nameState{phase: requested} }

// newlyAsked is the same for one that it asked for by itself.
func newlyAsked() *nameState { return &nameState{phase: requested, answer: true} }

// keepsWithheld is the state of a client that has the very content that is in
// quarantine.
func keepsWithheld(r *resource.Resource) *nameState { return &nameState{phase: withheld, has: r} }

// known is the version that the client has, as far as is known; empty: nothing.
func (n *nameState) known() string {
	if n.has != nil {
		return n.has.Version
	}
	return n.version
}

// mustSend reports whether the client must be told of the name though it may have
// what is served.
func (n *nameState) mustSend() bool {
	return n.answer || n.phase == requested || n.phase == suspect || n.phase == nacked
}

// waits reports whether the name is still to be sent, sooner or later.
func (n *nameState) waits() bool {
	switch n.phase {
	case nacked, reverted, withheld:
		return n.answer
	}
	return true
}

// request has the name sent although the client may have it.
func (n *nameState) request() {
	switch n.phase {
	case changed:
		n.phase = requested
	case reverted:
		n.phase = nacked
	case withheld:
		n.answer = true
	}
}

// ask has the client answered.
func (n *nameState) ask() {
	n.request()
	n.answer = true
}

// rejectedWithOthers notes that a response was rejected that had the name and
// others, before which the client had a resource.
func (n *nameState) rejectedWithOthers(before *resource.Resource) {
	n.phase = suspect
	if n.rejection != nil {
		n.phase = nacked
	}
	n.answer, n.has, n.version, n.restore = false, before, "", nil
}

// rejectedAlone notes that a content was rejected alone.
func (n *nameState) rejectedAlone(before *resource.Resource, r *rejection) {
	n.phase, n.rejection = nacked, r
	n.answer, n.has, n.version, n.restore = false, before, "", nil
}

// rejectedEarlier notes that a content was rejected on another stream, before which
// the client had a resource. If it does not say what it has now, it is sent that.
func (n *nameState) rejectedEarlier(before *resource.Resource, r *rejection) {
	n.rejection = r
	switch {
	case n.version != "" && !n.mustSend():
		n.phase = reverted
		if before != nil && n.version == before.Version {
			n.has, n.version = before, ""
		}
	case before != nil:
		n.phase, n.restore = restoring, before
	case n.mustSend():
		n.phase = nacked
	default:
		n.phase = reverted
	}
}

// withhold notes that nothing is served of the name, for it is in quarantine.
func (n *nameState) withhold() {
	n.answer = n.mustSend()
	if n.rejection != nil && n.rejection.of(n.has) {
		n.answer = false // it would reject that again
	}
	n.phase, n.rejection, n.restore, n.since = withheld, nil, nil, time.Time{}
}

// serve ends a withheld state.
func (n *nameState) serve() {
	if n.phase != withheld {
		return
	}
	n.phase = changed
	if n.answer {
		n.phase, n.answer = requested, false
	}
}

// forgive ends a rejection: what was rejected has changed.
func (n *nameState) forgive() {
	switch {
	case n.phase == nacked:
		n.phase = suspect
	case n.phase == restoring && n.answer:
		n.phase = requested
	case n.rejection != nil:
		n.phase = changed
	}
	n.rejection, n.restore = nil, nil
}

// sentInstead returns the state after the client was sent what it has, or had,
// instead of what is served.
func (n *nameState) sentInstead(r *resource.Resource) *nameState {
	switch {
	case n.phase == withheld:
		return keepsWithheld(r)
	case n.rejection != nil:
		return &nameState{phase: reverted, has: r, rejection: n.rejection, since: n.since}
	}
	return &nameState{has: r, since: n.since}
}
