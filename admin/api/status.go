package api

import "time"

// Status is how the control plane is, in one answer.
type Status struct {
	Replica string `json:"replica"`
	Version string `json:"version"` // of the control plane
	Ready   bool   `json:"ready"`
	// Waiting is what it waits for while it is not ready, Holding where it serves the last
	// good state instead of the newest, and Problems what keeps proxies from being served
	// though all is well here.
	Waiting  []string `json:"waiting,omitempty"`
	Holding  []string `json:"holding,omitempty"`
	Problems []string `json:"problems,omitempty"`

	Mesh    MeshStatus    `json:"mesh"`
	Catalog CatalogStatus `json:"catalog"`
	// Held are resources that could not be made, or failed a check: the last good one
	// stays.
	Held []HeldResource `json:"held,omitempty"`
	// Proxies is how many are in each state, by the worst of their types, and Types
	// how many of each type.
	Proxies map[State]int            `json:"proxies"`
	Types   map[string]map[State]int `json:"types"`
	// Unanswered are the replicas whose proxies are not counted.
	Unanswered []Unanswered `json:"unanswered,omitempty"`
}

// MeshStatus is the mesh file that is in force.
type MeshStatus struct {
	Name     string   `json:"name"`
	Revision string   `json:"revision"`
	Files    []string `json:"files"`
	Pinned   *Pin     `json:"pinned,omitempty"`
	Waves    *Waves   `json:"waves,omitempty"`
}

// Waves is the newest revision of the file, while only some proxies of the asked replica
// have it, or after it was taken back from them.
type Waves struct {
	Revision string    `json:"revision"`
	Since    time.Time `json:"since,omitzero"`
	Has      int       `json:"has"` // proxies that have it, or had it
	Of       int       `json:"of"`  // that it concerns; 0: it waits until the fleet is back after a start
	// TakenBack says why it was; empty: it was not.
	TakenBack string `json:"taken_back,omitempty"`
	Service   string `json:"service,omitempty"` // of the proxy that was the reason
	Source    string `json:"source,omitempty"`  // the place in the mesh file that made what was refused
}

// Pin is a revision that is served until it is released, whatever the file says.
type Pin struct {
	Revision string    `json:"revision"`
	By       string    `json:"by"`
	Since    time.Time `json:"since"`
	// Replica is the one that was told, for all; empty: it is for the asked one alone.
	Replica string `json:"replica,omitempty"`
	// Behind is the revision of the file that would be served.
	Behind string `json:"behind,omitempty"`
	// Failed says why the asked replica does not serve it, but the last good file; empty: it
	// does.
	Failed string `json:"failed,omitempty"`
}

// CatalogStatus is the catalog that is in force.
type CatalogStatus struct {
	Digest    string    `json:"digest"`
	Services  int       `json:"services"`
	Source    string    `json:"source"` // how it is read
	Heard     time.Time `json:"heard,omitzero"`
	Published time.Time `json:"published,omitzero"` // the last snapshot
}

// HeldResource is a resource whose last good state is served.
type HeldResource struct {
	Type   string `json:"type"`
	Name   string `json:"name"`
	Why    string `json:"why"`
	Source string `json:"source,omitempty"` // the place in the mesh file that made it
}

// Names are those that may be asked for, for completion.
type Names struct {
	Names []string `json:"names"`
}
