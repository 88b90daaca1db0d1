package resource

import (
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Ref names a resource that another one needs.
type Ref struct {
	Type Type
	Name string
}

// Ref names a resource of the type.
func (t Type) Ref(name string) Ref { return Ref{Type: t, Name: name} }

// Resource is one xDS resource, checked and encoded once. Every view and every
// stream shares the pointer.
type Resource struct {
	Type    Type
	Name    string
	Version string // hash of the content: equal on every replica
	Body    []byte // the message, encoded deterministically: the value of its Any
	// Keys of the mesh file that made it, most specific first
	// ("circuit_breakers.custom.lake_service"); policy.Mesh.Source has the line.
	Keys []string
	// Refs are what it needs to work: a listener its secrets and routes, a
	// cluster its secrets, a route its clusters.
	Refs []Ref
}

// New returns a resource with the version of its content.
func New(t Type, name string, body []byte, keys []string, refs []Ref) *Resource {
	return &Resource{Type: t, Name: name, Version: version(t, body), Body: body, Keys: keys, Refs: refs}
}

// From returns the resource as what other keys have made.
func (r *Resource) From(keys []string) *Resource {
	other := *r
	other.Keys = keys
	return &other
}

func (r *Resource) size() int { return len(r.Name) + len(r.Body) }

// version is the content's hash. It guards against nobody: both what is hashed
// and who compares are ours.
func version(t Type, body []byte) string {
	h := xxhash.New()
	_, _ = h.WriteString(t.URL())
	_, _ = h.Write(body)
	s := strconv.FormatUint(h.Sum64(), 16)
	return "0000000000000000"[len(s):] + s
}

// Same reports whether two resources of one type and name are alike in all
// that is told of them.
func (r *Resource) Same(o *Resource) bool {
	return r == o || r.Version == o.Version && slices.Equal(r.Keys, o.Keys) && slices.Equal(r.Refs, o.Refs)
}
