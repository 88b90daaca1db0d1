package xds

import "datapunk.dev/controlplane/resource"

// What a client that comes back says that it has. It has acknowledged that, to
// this control plane before its restart or to another one, so it speaks for the
// content like an acknowledgement: what was proven good stays so across a
// restart, although a few proxies that refuse it may be the first to return.

// brought returns the resource of the snapshot that the client came with, be it
// in quarantine or not; nil if it came with none, or with another version.
func (ts *typeState) brought(name string, d *nameState) *resource.Resource {
	if d.version == "" || ts.typ == resource.Secret && !ts.stream.secrets.mayHave(name) {
		return nil
	}
	if r := ts.base.published(name); r != nil && r.Version == d.version {
		return r
	}
	return nil
}

// claimed takes in the version that a SotW client came with. It reports whether
// that is all that the client is to have, so that there is nothing to send.
//
// "Servers may decide to optimize by not resending resources that the client had
// already seen on the previous stream [...]. It is generally safe for servers to
// do this optimization for LDS and CDS when the only subscription is a wildcard
// subscription".
func (ts *typeState) claimed() bool {
	wildcard := ts.sub.wildcard && len(ts.sub.names.Names) == 0 && !ts.stream.suspected
	served := wildcard && ts.base.digest().is(ts.claims)
	whole := wildcard && ts.base.whole().is(ts.claims)
	sends := !served && !whole
	for name, s := range ts.base.fallbacks() {
		if served || !ts.sub.has(name) {
			continue
		}
		// What is in quarantine and has no fallback is not taken from a client
		// that may have it: what a response lacks, it would delete.
		if whole || s.resource == nil {
			state := clientHas(s.withheld)
			if s.resource == nil {
				state = keepsWithheld(s.withheld)
			}
			ts.set(name, state)
		}
		sends = sends || s.resource != nil
	}
	var has []change
	switch {
	case whole:
		for r := range ts.base.allPublished() {
			has = append(has, change{name: r.Name, res: r})
		}
	case served:
		for r := range ts.base.all() {
			has = append(has, change{name: r.Name, res: r})
		}
	}
	ts.stream.recordAcks(ts.typ, &payload{changes: has})
	if !sends {
		ts.version, ts.owed = ts.base.digest(), false
		if whole {
			ts.version = ts.base.whole()
		}
		ts.hasAll(ts.version)
	}
	return !sends
}
