package replica

import (
	"encoding/json"
	"slices"
	"time"
)

// Member is what a replica says of itself to the others.
type Member struct {
	Name    string    `json:"name"`
	Address string    `json:"address,omitempty"` // of its xDS port, for the others; empty: they cannot reach it
	Started time.Time `json:"started"`
	Streams int       `json:"streams"` // of Envoys
	Mesh    string    `json:"mesh"`    // revision of the mesh file in force
	Catalog string    `json:"catalog"` // digest of the catalog that it serves
	// Edit is a newer mesh file that not all of its proxies have; nil: there is none.
	Edit *Edit `json:"edit,omitempty"`
	// Stage is the epoch of the last stage that all of its proxies have.
	Stage    uint64 `json:"stage,omitempty"`
	Draining bool   `json:"draining,omitempty"` // it takes no new streams
	// Roots is how far it is with another root; nil: it says nothing of that.
	Roots *Roots `json:"roots,omitempty"`
	// Quarantined are the contents that it has in quarantine, as package xds
	// writes them.
	Quarantined json.RawMessage `json:"quarantined,omitempty"`
}

// Edit is a mesh file that a replica tries on some of its proxies, or has taken back.
type Edit struct {
	Revision  string `json:"revision"`
	TakenBack string `json:"taken_back,omitempty"` // why; empty: it was not
	Idle      bool   `json:"idle,omitempty"`       // it concerns none of its proxies
}

// Roots is how far a replica is with another root. Each of the two is a SHA-256, as text.
type Roots struct {
	// Trusted are those that all of its proxies trust.
	Trusted []string `json:"trusted"`
	Signs   string   `json:"signs"` // the proxies' certificates
	// Until is when the last certificate ends that the other one has signed, and Old how
	// many of its proxies hold such a one.
	Until time.Time `json:"until,omitzero"`
	Old   int       `json:"old,omitempty"`
	// Returning is whether proxies of before its start may not be back yet: then it does
	// not know of all.
	Returning bool `json:"returning,omitempty"`
	// Pinned is how many of its Envoys accept no control plane of the next root.
	Pinned int `json:"pinned,omitempty"`
}

// Stages is how far the fleet is between mTLS off, which is 0, and on.
type Stages struct {
	Epoch uint64    `json:"epoch"` // one more with each change
	At    int       `json:"at"`
	By    string    `json:"by"` // the replica that led
	Since time.Time `json:"since"`

	index uint64 // of the key; 0: there is none
}

const notAsked = "not asked yet"

// View is what a replica knows of all. It is immutable.
type View struct {
	Self string
	// Trouble is why it is not in touch with the others; empty: it is. Then all else
	// is as it was last.
	Trouble string
	Leads   bool   // this one does
	Leader  string // empty: none
	Members []Member
	Stages  *Stages // nil: nobody has written any
	Pin     *Pin    // nil: nobody has written any
}

// Answered reports whether Consul was asked, with or without success.
func (v *View) Answered() bool { return v.Trouble != notAsked }

// Member returns what a replica says of itself, or nil.
func (v *View) Member(name string) *Member {
	if i := slices.IndexFunc(v.Members, func(m Member) bool { return m.Name == name }); i >= 0 {
		return &v.Members[i]
	}
	return nil
}

// Others returns the members but for this one.
func (v *View) Others() []Member {
	return slices.DeleteFunc(slices.Clone(v.Members), func(m Member) bool { return m.Name == v.Self })
}
