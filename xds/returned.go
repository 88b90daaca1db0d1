package xds

import "datapunk.dev/controlplane/resource"

// What a client that comes back says that it has. It has acknowledged that, to
// this control plane before its restart or to another one, so it speaks for the
// content like an acknowledgement: what was proven good stays so across a
// restart, although a few proxies that refuse it may be the first to return.

// brought returns the resource of the snapshot that the client came with, be it
// in quarantine or not; nil if it came with none, or with another version.
func (f *feed) brought(name string, d *diff) *resource.Resource {
	if d.version == "" || f.typ == resource.Secret && !f.stream.secrets.mayHave(name) {
		return nil
	}
	if r := f.base.published(name); r != nil && r.Version == d.version {
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
func (f *feed) claimed() bool {
	wildcard := f.sub.wildcard && len(f.sub.names.names) == 0 && !f.stream.doubted
	served := wildcard && f.base.digest().is(f.claims)
	whole := wildcard && f.base.whole().is(f.claims)
	sends := !served && !whole
	for name, s := range f.base.fallbacks() {
		if served || !f.sub.has(name) {
			continue
		}
		// What is in quarantine and has no substitute is not taken from a client
		// that may have it: what a response lacks, it would delete.
		if whole || s.resource == nil {
			f.note(name, &diff{has: s.withheld, kept: s.resource == nil})
		}
		sends = sends || s.resource != nil
	}
	var has []change
	switch {
	case whole:
		for r := range f.base.allPublished() {
			has = append(has, change{name: r.Name, res: r})
		}
	case served:
		for r := range f.base.all() {
			has = append(has, change{name: r.Name, res: r})
		}
	}
	f.stream.vouch(f.typ, &parcel{changes: has})
	if !sends {
		f.version, f.owed = f.base.digest(), false
		if whole {
			f.version = f.base.whole()
		}
		f.hasAll(f.version)
	}
	return !sends
}
