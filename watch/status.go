package watch

import "time"

// Status is what a source of the catalog says of itself.
type Status struct {
	// Ready is whether the source has delivered a whole catalog of its own. A
	// source that later loses its peer holds the last good catalog and stays
	// ready; Waiting says so.
	Ready bool
	// Mode is how the source reads its peer: "http2", "http1",
	// "http1+trigger" or "file". Empty until it is known.
	Mode string
	// Waiting names what is missing or failing, and why: "service lake:
	// connection refused". Of very many it has the first, and how many more.
	Waiting []string
	// Held are removals that are kept back until they are confirmed, likewise.
	Held []string
	// HeldServices is the number of services with such removals.
	HeldServices int
	// LastSuccess is when the source last heard from its peer.
	LastSuccess time.Time
	// Errors counts the failures since the source started.
	Errors uint64
}
