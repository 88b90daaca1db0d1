// Package plan says what an edit does before it is made: it compares two snapshots of
// what a fleet is served. Which resources of which proxies differ and in which
// fields, whose listeners drain, and which services may call which others that they
// could not, by the rules that would be served and not by the words of the file.
package plan

import (
	"cmp"
	"slices"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
)

// Plan is what differs between two snapshots.
type Plan struct {
	From      string           `json:"from"` // revisions of the mesh files
	To        string           `json:"to"`
	Proxies   []ProxyChange    `json:"proxies"`
	Resources []ResourceChange `json:"resources"`
	Drains    []Drain          `json:"drains"`
	Edges     []EdgeChange     `json:"edges"`
	Held      []string         `json:"held,omitempty"` // resources that could not be made
}

// ProxyChange is what differs for the proxies of one service that are alike.
type ProxyChange struct {
	Service   string `json:"service"`
	Address   string `json:"address,omitempty"`
	MeshPort  uint16 `json:"mesh_port,omitempty"`
	Resources []int  `json:"resources"` // places in Resources
}

// ResourceChange is a resource that some proxies have instead of another one.
type ResourceChange struct {
	Type    string        `json:"type"`
	Name    string        `json:"name"`
	What    What          `json:"what"`
	Proxies int           `json:"proxies"` // how many kinds of proxies
	Fields  []FieldChange `json:"fields,omitempty"`
	Source  string        `json:"source,omitempty"` // the line that it comes from
	// Uncompared says that the fields were not looked at: so many resources of its
	// type and name change that those of the first ones tell.
	Uncompared bool `json:"uncompared,omitempty"`

	before, after *resource.Resource
}

// What becomes of a resource.
type What string

// The changes.
const (
	Added   What = "added"
	Removed What = "removed"
	Changed What = "changed"
)

// Drain is a listener whose connections end.
type Drain struct {
	Service  string `json:"service"`
	Address  string `json:"address,omitempty"`
	Listener string `json:"listener"`
	Why      string `json:"why"`
}

// Empty reports whether nothing differs.
func (p *Plan) Empty() bool { return len(p.Resources) == 0 && len(p.Edges) == 0 }

// maxCompared is how many resources of one type and name, of different proxies, are
// compared field by field: a listener that changes does so in each proxy alike.
const maxCompared = 50

// pair is a resource before and after.
type pair struct{ before, after *resource.Resource }

// comparison is the making of a plan.
type comparison struct {
	plan       *Plan
	last, next *translate.Snapshot
	places     map[pair]int
	scopes     map[[2]*resource.Scope][]int
}

// Compare returns what next does to the fleet that last serves. It costs least when
// next was translated with last as predecessor.
func Compare(last, next *translate.Snapshot) (*Plan, error) {
	c := &comparison{
		plan: &Plan{
			From: last.Input.Mesh.Revision, To: next.Input.Mesh.Revision,
			Proxies: []ProxyChange{}, Resources: []ResourceChange{}, Drains: []Drain{}, Edges: []EdgeChange{},
		},
		last: last, next: next, places: make(map[pair]int), scopes: make(map[[2]*resource.Scope][]int),
	}
	for profile := range next.Input.Fleet.Profiles() {
		c.proxy(profile)
	}
	compared := make(map[resource.Ref]int)
	for i := range c.plan.Resources {
		r := &c.plan.Resources[i]
		if r.What != Changed {
			continue
		}
		ref := r.after.Type.Ref(r.Name)
		if compared[ref]++; compared[ref] > maxCompared {
			r.Uncompared = true
			continue
		}
		var err error
		if r.Fields, err = fieldsOf(r.before, r.after); err != nil {
			return nil, err
		}
	}
	if err := c.edges(); err != nil {
		return nil, err
	}
	for _, h := range next.Held {
		c.plan.Held = append(c.plan.Held, h.Type.String()+" "+h.Name+": "+h.Cause)
	}
	return c.plan, nil
}

func (c *comparison) proxy(profile resource.Profile) {
	before, after := c.last.View(profile), c.next.View(profile)
	if before == nil || after == nil {
		return
	}
	change := ProxyChange{Service: profile.Service, Address: profile.Address, MeshPort: profile.MeshPort}
	change.Resources = append(change.Resources, c.sets(&before.Own, &after.Own)...)
	scopes := [2]*resource.Scope{c.last.Scope(before.Scope), c.next.Scope(after.Scope)}
	shared, known := c.scopes[scopes]
	if !known {
		var none resource.Sets
		a, b := &none, &none
		if scopes[0] != nil {
			a = &scopes[0].Sets
		}
		if scopes[1] != nil {
			b = &scopes[1].Sets
		}
		shared = c.sets(a, b)
		c.scopes[scopes] = shared
	}
	change.Resources = append(change.Resources, shared...)
	if len(change.Resources) == 0 {
		return
	}
	for _, i := range change.Resources {
		r := &c.plan.Resources[i]
		r.Proxies++
		if r.Type != resource.Listener.String() || r.What == Added {
			continue
		}
		why := "it changes: Envoy makes it anew, and its connections have the drain time to end"
		if r.What == Removed {
			why = "it goes away"
		}
		c.plan.Drains = append(c.plan.Drains, Drain{profile.Service, profile.Address, r.Name, why})
	}
	c.plan.Proxies = append(c.plan.Proxies, change)
}

// sets returns the places of what differs between the sets of each type.
func (c *comparison) sets(before, after *resource.Sets) []int {
	var places []int
	for t := range before {
		for _, name := range changed(before[t], after[t]) {
			was, is := get(before[t], name), get(after[t], name)
			if was == is || was != nil && is != nil && was.Version == is.Version {
				continue
			}
			places = append(places, c.place(resource.Type(t), name, was, is))
		}
	}
	return places
}

func get(s *resource.Set, name string) *resource.Resource {
	if s == nil {
		return nil
	}
	return s.Get(name)
}

// changed are the names that may differ between two sets, sorted.
func changed(before, after *resource.Set) []string {
	if before == after {
		return nil
	}
	var names []string
	if before != nil && after != nil {
		if some, ok := after.ChangedSince(before); ok {
			names = slices.Clone(some)
			slices.Sort(names)
			return slices.Compact(names)
		}
	}
	for _, s := range []*resource.Set{before, after} {
		if s != nil {
			for r := range s.All() {
				names = append(names, r.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *comparison) place(t resource.Type, name string, before, after *resource.Resource) int {
	key := pair{before, after}
	if i, ok := c.places[key]; ok {
		return i
	}
	r := ResourceChange{Type: t.String(), Name: name, What: Changed, before: before, after: after}
	switch {
	case before == nil:
		r.What = Added
	case after == nil:
		r.What = Removed
	}
	mesh, of := c.next.Input.Mesh, after
	if after == nil {
		mesh, of = c.last.Input.Mesh, before
	}
	if len(of.Keys) > 0 {
		r.Source = mesh.Source(of.Keys[0]).String()
	}
	c.places[key] = len(c.plan.Resources)
	c.plan.Resources = append(c.plan.Resources, r)
	return c.places[key]
}

// compareEdges orders edges by callee.
func compareEdges(a, b EdgeChange) int {
	return cmp.Or(cmp.Compare(a.Callee, b.Callee), cmp.Compare(b.To, a.To), cmp.Compare(b.From, a.From))
}
