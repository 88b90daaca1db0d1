package api

import "time"

// Replicas are the control planes of the mesh, as this one knows them.
type Replicas struct {
	// Leadership is how it is known who leads: "self", this one, "none", another one, or
	// "consul".
	Leadership string `json:"leadership"`
	Replica    string `json:"replica"` // this one's name
	Leader     string `json:"leader,omitempty"`
	Leads      bool   `json:"leads"` // this one does
	// Trouble is why this one is not in touch with the others; then the rest is as it
	// was last.
	Trouble  string    `json:"trouble,omitempty"`
	MTLSStep string    `json:"mtls_step,omitempty"` // 1/3, from off to on
	Replicas []Replica `json:"replicas"`
}

// Elsewhere is another replica, which answers for what it has itself.
type Elsewhere struct {
	Replica string `json:"replica"`
	Address string `json:"address,omitempty"` // of its xDS port
	Proxies int    `json:"proxies"`           // that are connected to it
}

// Replica is one of them.
type Replica struct {
	Name         string    `json:"name"`
	Address      string    `json:"address,omitempty"` // of its xDS port
	Started      time.Time `json:"started"`
	Streams      int       `json:"streams"` // of Envoys
	MeshRevision string    `json:"mesh_revision"`
	Catalog      string    `json:"catalog_digest"`
	Draining     bool      `json:"draining,omitempty"`
	// DisagreesFor is for how long it has served something else than this one.
	DisagreesFor string `json:"disagrees_for,omitempty"`
}
