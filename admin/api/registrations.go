package api

import "time"

// Registrations are who is in the catalog.
type Registrations struct {
	Enabled bool   `json:"enabled"`
	Replica string `json:"replica,omitempty"` // this one's name
	// Interval is between two comparisons with the catalog, and After the time from the
	// loss of a proxy to the removal of its entry, as the mesh file has them.
	Interval string `json:"interval,omitempty"`
	After    string `json:"deregister_after,omitempty"`
	// Sweeper is whether this replica looks after what others left that are gone.
	Sweeper bool `json:"sweeper"`
	// Trouble is why nothing is written, or what is there is not compared.
	Trouble       []string       `json:"trouble,omitempty"`
	Registrations []Registration `json:"registrations"`
}

// Registration is one instance, or a connected proxy that is none.
type Registration struct {
	ID       string    `json:"id"` // node.id of a proxy
	Service  string    `json:"service"`
	Address  string    `json:"address,omitempty"`
	Port     uint16    `json:"port,omitempty"`
	MeshPort string    `json:"mesh_port,omitempty"`
	State    string    `json:"state"`           // of package register; NONE: nothing is to be registered
	Owner    string    `json:"owner,omitempty"` // the replica that wrote it
	Since    time.Time `json:"since,omitzero"`  // in this state
	Reason   string    `json:"reason,omitempty"`
}
