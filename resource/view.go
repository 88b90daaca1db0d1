package resource

// Sets are resources of each type.
type Sets [NumTypes]*Set

// View is what one profile's proxies see: a set of resources a type. Sets are
// shared with every view that has the same content.
type View struct {
	Profile Profile
	Sets    Sets
	// Missing says, for people, what was left out for want of metadata.
	Missing []string
}
