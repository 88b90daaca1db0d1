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
	stays  bool               // res is not what the view has, and remains in diffs
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
	*parcel
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
func (f *feed) forgetUnanswered() {
	changes := 0
	for i, r := range slices.Backward(f.inflight) {
		newer := len(f.inflight) - i
		if changes += len(r.changes); newer > 1 && (newer > maxUnanswered || changes > maxUnansweredChanges) {
			f.inflight = slices.Delete(f.inflight, 0, i+1)
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
func (f *feed) unanswered(nonce string) *response {
	for _, r := range f.inflight {
		if r.nonce == nonce {
			return r
		}
	}
	return nil
}

// answered takes a response, and those before it, out of flight. A later
// response may replace an earlier one before the client has answered that:
// Envoy acknowledges clusters only when all are warm.
func (f *feed) answered(r *response) *response {
	f.answeredTo = r.number
	i := slices.Index(f.inflight, r)
	if f.fullState() {
		// The later full state holds what the earlier ones changed, and is
		// accepted or rejected with that.
		for _, earlier := range slices.Backward(f.inflight[:i]) {
			r.absorb(earlier)
		}
	}
	f.inflight = slices.Delete(f.inflight, 0, i+1)
	return r
}

// absorb adds the changes of an earlier response.
func (r *response) absorb(earlier *response) {
	r.parcel = &parcel{changes: slices.Clone(r.changes)}
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
func (f *feed) acknowledged(r *response) {
	f.accepted, f.unsure = true, false
	f.stream.vouch(f.typ, r.parcel)
	f.stream.forget(f.typ, r.changes)
	f.stream.server.metrics.acked(f.typ, time.Since(r.at))
	f.stream.status.acknowledged(f.typ, r.version)
}
