package xds

import (
	"slices"
	"time"

	"datapunk.dev/controlplane/resource"
)

// change is one resource put, or removed (res is nil), in a response.
type change struct {
	name   string
	res    *resource.Resource
	before *resource.Resource // what the client had
	fresh  bool               // the client had nothing of that name
	stays  bool               // res is not what the view has, and remains in names
}

// having is the change that sends what the client has, nil for nothing,
// instead of what the view has.
func (c change) having(r *resource.Resource) change {
	c.res, c.stays = r, true
	return c
}

// response is one that was sent, until the client answers it.
type response struct {
	nonce  string
	number uint64 // of all of the stream, in order
	at     time.Time
	*payload
	version digest // of the whole type, once the client has taken it
	view    *view
	leases  uint64 // how many secrets of the lease were sent before it
}

const (
	// maxInFlight is how many responses of a type may be unanswered before
	// changes of the view wait for an answer, however long that takes.
	maxInFlight = 8
	// maxUnanswered bounds what is remembered of a client that never answers.
	maxUnanswered = 64
)

// forgetUnanswered drops the oldest responses of a client that does not answer.
func (ts *typeState) forgetUnanswered() {
	changes := 0
	for i, r := range slices.Backward(ts.inflight) {
		newer := len(ts.inflight) - i
		if changes += len(r.changes); newer > 1 && (newer > maxUnanswered || changes > maxUnansweredChanges) {
			ts.inflight = slices.Delete(ts.inflight, 0, i+1)
			return
		}
	}
}

func split(changes []change) (resources []*resource.Resource, removed []string) {
	resources = make([]*resource.Resource, 0, len(changes))
	for _, c := range changes {
		if c.res == nil {
			removed = append(removed, c.name)
		} else {
			resources = append(resources, c.res)
		}
	}
	return resources, removed
}

// unanswered returns the response with the nonce that is in flight, or nil.
func (ts *typeState) unanswered(nonce string) *response {
	for _, r := range ts.inflight {
		if r.nonce == nonce {
			return r
		}
	}
	return nil
}

// answered takes a response, and those before it, out of flight. A later
// response may replace an earlier one before the client has answered that:
// Envoy acknowledges clusters only when all are warm.
func (ts *typeState) answered(r *response) *response {
	ts.answeredTo = r.number
	i := slices.Index(ts.inflight, r)
	if ts.fullState() {
		// The later full state holds what the earlier ones changed, and is
		// accepted or rejected with that.
		for _, earlier := range slices.Backward(ts.inflight[:i]) {
			r.absorb(earlier)
		}
	}
	ts.inflight = slices.Delete(ts.inflight, 0, i+1)
	return r
}

// absorb adds the changes of an earlier response.
func (r *response) absorb(earlier *response) {
	r.payload = &payload{changes: slices.Clone(r.changes)}
	at := make(map[string]int, len(r.changes))
	for i, c := range r.changes {
		at[c.name] = i
	}
	for _, c := range earlier.changes {
		if i, ok := at[c.name]; ok {
			r.changes[i].before = c.before
		} else {
			r.changes = append(r.changes, c)
		}
	}
}

// acknowledged notes an ACK.
func (ts *typeState) acknowledged(r *response) {
	ts.acked, ts.unsure = true, false
	ts.stream.recordAcks(ts.typ, r.payload)
	ts.stream.forgetNacks(ts.typ, r.changes)
	ts.stream.server.metrics.acked(ts.typ, time.Since(r.at))
	ts.stream.status.acknowledged(ts.typ, r.version)
}
