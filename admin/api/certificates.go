package api

import "time"

// Certificates are those of the proxies that are connected to this replica, and the
// authority that they come from.
type Certificates struct {
	Authority    Authority     `json:"authority"`
	Certificates []Certificate `json:"certificates"`
	Next         string        `json:"next,omitempty"` // see [Proxies]
	// Elsewhere are the other replicas, which have the certificates of their own proxies.
	Elsewhere []Elsewhere `json:"elsewhere,omitempty"`
}

// Authority is who issues, and its root.
type Authority struct {
	TrustDomain string    `json:"trust_domain"`
	Root        string    `json:"root"` // SHA-256 of the root certificate, sha256:…
	RootExpires time.Time `json:"root_expires"`
	// Chain are the certificates above a proxy's own, in PEM: what it shows with it, and
	// the root.
	Chain   []string `json:"chain"`
	Issued  uint64   `json:"issued"` // since the start
	Failed  uint64   `json:"failed"`
	Failing int      `json:"failing"` // proxies that wait for another attempt
}

// Certificate is that of one proxy.
type Certificate struct {
	Node     string `json:"node"`
	Service  string `json:"service"`
	SPIFFEID string `json:"spiffe_id"`
	Serial   string `json:"serial,omitempty"`
	// Begins and Expires are unknown of one that it had before this replica started.
	Begins  time.Time `json:"begins,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	RenewAt time.Time `json:"renew_at,omitzero"` // or when the next attempt is
	Adopted bool      `json:"adopted,omitempty"` // issued by another replica, or before the start
	Error   string    `json:"error,omitempty"`   // why the last attempt failed
}

// Rotate is whose certificates are renewed now: of a node, or of all of a service.
type Rotate struct {
	Node    string `json:"node,omitempty"`
	Service string `json:"service,omitempty"`
}
