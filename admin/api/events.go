package api

import "time"

// Events are what has happened, oldest first.
type Events struct {
	Events []Event `json:"events"`
	// Next is what to ask for `after` to have what comes later.
	Next string `json:"next"`
	// Missed says that events after the cursor are kept no more, or that it is one of
	// before a restart.
	Missed bool `json:"missed,omitempty"`
	// Elsewhere are the other replicas, which have their own events.
	Elsewhere []Elsewhere `json:"elsewhere,omitempty"`
}

// Event is one thing that has happened.
type Event struct {
	Cursor   string    `json:"cursor"`
	Time     time.Time `json:"time"`
	Kind     EventKind `json:"kind"`
	Message  string    `json:"message"`
	Operator string    `json:"operator,omitempty"` // who did it
	Node     string    `json:"node,omitempty"`
	Service  string    `json:"service,omitempty"`
	Revision string    `json:"revision,omitempty"` // of the mesh file
	Source   string    `json:"source,omitempty"`   // a place in the mesh file
}

// EventKind is what has happened, as a word of a short list.
type EventKind string

// The kinds of events.
const (
	MeshInForce    EventKind = "mesh_in_force"   // a mesh file came into force
	MeshRefused    EventKind = "mesh_refused"    // one did not
	MeshHeld       EventKind = "mesh_held"       // one waits
	MeshTried      EventKind = "mesh_tried"      // one goes to the proxies bit by bit
	MeshTakenBack  EventKind = "mesh_taken_back" // one was, from the proxies that had it first
	MeshPinned     EventKind = "mesh_pinned"     // a revision is served until released
	MeshReleased   EventKind = "mesh_released"   // and was
	ProxyConnected EventKind = "proxy_connected" // a sidecar has its listeners
	ProxyLeft      EventKind = "proxy_left"      // and is gone
	ProxyRejected  EventKind = "proxy_rejected"  // a proxy refused a response
	Acted          EventKind = "acted"           // an operator did something
	ActFailed      EventKind = "act_failed"      // or could not
)
