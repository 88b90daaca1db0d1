package watch

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"time"
)

// Removal is what a source does not have of a service any more, and what is not
// believed to be gone: it is in the catalog still.
type Removal struct {
	// ID is by what people name it. It is of what is gone: where more goes, or less,
	// it is another one. Removals with one ID are decided on together.
	ID        string
	Service   string // of the catalog
	Instances []Removed
	Had       int // instances of the service, with those
	Why       string
	Since     time.Time
	Until     time.Time // when it is believed at the latest; zero: when it is confirmed
	Refused   bool      // somebody has said that it is to be kept
}

// Removed is an instance that is gone.
type Removed struct {
	ID      string
	Address string // HOST:PORT where it is dialed
	Sidecar Presence
}

// RemovalID returns the ID of what is gone of a service in a datacenter, which is empty
// where one alone is read: two datacenters may have one address.
func RemovalID(service, datacenter string, gone []Removed) string {
	sum := sha256.New()
	_, _ = io.WriteString(sum, service+"\n") // a hash takes all
	for _, i := range gone {
		_, _ = io.WriteString(sum, i.Address+"\n")
	}
	if datacenter != "" {
		_, _ = io.WriteString(sum, "datacenter "+datacenter+"\n")
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}
