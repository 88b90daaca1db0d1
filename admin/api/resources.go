package api

import (
	"encoding/json"
	"time"
)

// Resources are what a proxy is served.
type Resources struct {
	Node      string     `json:"node"`
	Service   string     `json:"service"`
	Resources []Resource `json:"resources"`
}

// Resource is one xDS resource, in the words of Envoy's API.
type Resource struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// Source is the place in the mesh file that made it.
	Source string `json:"source,omitempty"`
	// Instead says that it stands in the place of a content that is in quarantine.
	Instead bool `json:"instead,omitempty"`
	// Body is not there of a secret with a private key, which has Certificate.
	Body        json.RawMessage      `json:"body,omitempty"`
	Certificate *ResourceCertificate `json:"certificate,omitempty"`
}

// ResourceCertificate is the certificate of a secret. The key is never shown.
type ResourceCertificate struct {
	Serial  string    `json:"serial"`
	Expires time.Time `json:"expires,omitzero"`
}
