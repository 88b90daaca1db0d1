package register

import "net/netip"

// todo is what the edges are to do.
type todo struct {
	dials   []dial
	changes []change
	reads   map[string]struct{} // services
	nodes   map[string]struct{} // nodes
}

type dial struct {
	node string
	at   netip.AddrPort
}

// change is one write.
type change struct {
	kind changeKind
	want entry
	have *stored // what it is based on; nil: there is nothing
}

type changeKind uint8

const (
	put changeKind = iota
	mark
	remove
	removeNode // is left empty
	assess     // what was reported of its application
)

// outcome is what became of a change.
type outcome struct {
	node   string
	kind   changeKind
	result result
	why    string  // refused or failed
	stored *stored // what is there now; nil: nothing
}

type result uint8

const (
	written  result = iota
	conflict        // what is there is not what the change was based on
	denied          // the token may not
	failed          // nobody knows whether it was written
)
