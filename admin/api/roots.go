package api

import "time"

// Roots are the root certificates that one control plane has the proxies trust. Hashes are
// as `openssl x509 -fingerprint -sha256` prints them, behind sha256:.
type Roots struct {
	Phase string `json:"phase"`          // steady, prepared or activated
	First string `json:"first"`          // of the xDS port
	Next  string `json:"next,omitempty"` // that takes its place; empty: none is prepared
	Signs string `json:"signs"`          // the proxies' certificates
	// Trusted is whether all connected proxies have acknowledged the roots in force.
	Trusted bool `json:"trusted"`
	// Old is how many proxies hold a certificate of the root that does not sign, and
	// Until when the last such one ends.
	Old   int       `json:"old"`
	Until time.Time `json:"until,omitzero"`
	// Pinned are the Envoys that accept no control plane of the next root.
	Pinned  []string `json:"pinned,omitempty"`
	Failure string   `json:"failure,omitempty"` // why the data directory is not followed
	Bundle  string   `json:"bundle"`            // the certificates of all, as PEM
}
