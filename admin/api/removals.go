package api

import "time"

// Removals are what the catalog's source does not have any more, and what is kept.
type Removals struct {
	Removals []Removal `json:"removals"`
}

// Removal is what is gone of one service. Those with one ID are decided on together.
type Removal struct {
	ID        string            `json:"id"`
	Service   string            `json:"service"` // of the catalog
	Instances []RemovalInstance `json:"instances"`
	Had       int               `json:"had"`
	Left      int               `json:"left"`
	Why       string            `json:"why"`
	Since     time.Time         `json:"since,omitzero"`
	Until     time.Time         `json:"until,omitzero"` // it is believed then at the latest
	Refused   bool              `json:"refused"`
	Callers   map[string]int    `json:"callers"` // services, and how many proxies of each
	Effect    string            `json:"effect"`  // of accepting it
}

// RemovalInstance is an instance that is gone.
type RemovalInstance struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Sidecar string `json:"sidecar"` // connected, left or unseen
}
