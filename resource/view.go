package resource

// Sets are resources of each type. A nil set is an empty one.
type Sets [NumTypes]*Set

// Get returns the resource of the type with the name, or nil.
func (s *Sets) Get(t Type, name string) *Resource {
	if s[t] == nil {
		return nil
	}
	return s[t].Get(name)
}

// Scope is the half of what proxies see that many of them share: the clusters
// and endpoints that they may call, the routes to them, and the roots that they
// trust. What a resource of a scope needs is in the scope, but for the proxy's
// own certificate.
type Scope struct {
	Key  string
	Kind Kind
	Sets Sets
}

// View is what one profile's proxies see: what is their own (listeners, inbound
// routes, whom they admit, the application's clusters), and a scope. No name of
// a type is in both halves.
type View struct {
	Profile Profile
	Scope   string // the key of the scope
	Own     Sets
	// Missing says, for people, what was left out for want of metadata.
	Missing []string
}
