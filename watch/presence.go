package watch

// Presence is what is known of the sidecar of an instance by whoever talks to
// sidecars: the second witness, beside the catalog, of whether it is there.
type Presence uint8

// What may be known of a sidecar.
const (
	Unseen    Presence = iota // none is known: there is none, or another control plane has it
	Connected                 // it is there
	Left                      // it was there a moment ago, and is no more
)

// String is the word for people.
func (p Presence) String() string { return [...]string{"unseen", "connected", "left"}[p] }
