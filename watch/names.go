package watch

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// rememberFor is how long a service is known whose last instance went: a
	// weekend, and what failed in it. Callers of one that is not known are told
	// that there is no such thing, and some never ask again.
	rememberFor = 72 * time.Hour
	// rememberLeast is how many such services are known, however few there are
	// of others; beyond that, no more than the catalog has had at once. Each is a
	// cluster in every proxy that may call it.
	rememberLeast = 200
)

// Names decides which names of a source's catalog are services of the mesh.
//
// Hosts are compared without their case, so of names that differ in nothing else
// one is a service: that which the mesh file has, else the one that was there
// first, else the last in the order of bytes, which prefers small letters. The
// instances of the others are left out, and named at the one.
//
// A service whose last instance went stays, without any.
type Names struct {
	file  map[string]string // folded → the mesh file's service
	named map[string]string // that service → its name in the catalog
	taken map[string]bool   // names in the catalog of services of the file
	known map[string]*name  // folded → what there is of it

	gone map[string]*name // folded → those of known with a service whose last instance went
	most int              // services that the source has had at once

	selection   Selection
	source, out *Catalog
}

// name is a name, whatever its case.
type name struct {
	source []string  // the source's spellings, sorted
	first  string    // the one of them that is the service; empty: none is yet
	out    []string  // those that are given out
	gone   string    // a service whose last instance went; empty: none
	since  time.Time // when that was
}

// NewNames returns a Names that knows no service.
func NewNames() *Names {
	return &Names{known: make(map[string]*name), gone: make(map[string]*name), source: NewCatalog(), out: NewCatalog()}
}

// fold is what names have in common that differ only in case. Letters beyond
// ASCII are in no name that can be served.
func fold(name string) string { return strings.ToLower(name) }

// of returns what is known of a name.
func (n *Names) of(key string) *name {
	if n.known[key] == nil {
		n.known[key] = &name{}
	}
	return n.known[key]
}

// SetFile says which services the mesh file has, each with its name in the
// catalog, and returns what the catalog is then.
func (n *Names) SetFile(services map[string]string) *Catalog {
	folded := make(map[string]struct{})
	touch := func() {
		for service, at := range n.named {
			folded[fold(service)], folded[fold(at)] = struct{}{}, struct{}{}
		}
	}
	touch()
	n.file, n.named, n.taken = make(map[string]string), services, make(map[string]bool)
	for _, service := range slices.Sorted(maps.Keys(services)) {
		n.file[fold(service)] = service
		n.taken[services[service]] = true
	}
	touch()
	n.update(folded)
	return n.out
}

// SetSelection says what of the source's catalogs is in the mesh, and returns what the
// catalog is then. A service that goes because it is not selected does not stay.
func (n *Names) SetSelection(s Selection) *Catalog {
	n.selection = s
	folded := make(map[string]struct{})
	for key, k := range n.gone {
		if s.Excludes(k.gone) != "" {
			folded[key] = struct{}{}
			n.drop(key)
		}
	}
	n.update(folded)
	return n.out
}

// Take takes the source's next catalog, and returns what it is to the mesh.
// Remember says that a service which has no instance stays: not where somebody
// wrote down that it goes.
func (n *Names) Take(c *Catalog, remember bool, now time.Time) *Catalog {
	changed, related := c.ChangedSince(n.source)
	if !related {
		changed = nil
		for _, catalog := range []*Catalog{n.source, c} {
			for s := range catalog.Services() {
				changed = append(changed, s.Name)
			}
		}
	}
	folded := make(map[string]struct{}, len(changed))
	for _, spelling := range changed {
		was, is := n.source.Service(spelling), c.Service(spelling)
		key := fold(spelling)
		folded[key] = struct{}{}
		k := n.of(key)
		at, found := slices.BinarySearch(k.source, spelling)
		switch {
		case is != nil && !found:
			k.source = slices.Insert(k.source, at, spelling)
		case is == nil && found:
			k.source = slices.Delete(k.source, at, at+1)
			if was != nil && len(n.selection.Instances(was).Instances) > 0 && n.selection.Excludes(spelling) == "" && slices.Contains(k.out, spelling) {
				k.gone, k.since = spelling, now
				n.gone[key] = k
			}
		}
		if is != nil && k.gone == spelling {
			n.drop(key)
		}
	}
	n.source, n.most = c, max(n.most, c.Len())
	if !remember {
		for key := range n.gone {
			folded[key] = struct{}{}
			n.drop(key)
		}
	}
	if len(n.gone) > n.room() {
		n.forget(now, folded)
	}
	n.update(folded)
	if !related { // whoever has the last one is to compare the two whole
		n.out = NewCatalog().Update(slices.Collect(n.out.Services()), nil)
	}
	if n.out.Learned() != c.Learned() {
		n.out = n.out.LearnedAt(c.Learned())
	}
	return n.out
}

// Forget drops the services that had no instance for long, and returns what the
// catalog is then.
func (n *Names) Forget(now time.Time) *Catalog {
	folded := make(map[string]struct{})
	n.forget(now, folded)
	n.update(folded)
	return n.out
}

// Remembered is how many services there are without an instance, because their
// last one went.
func (n *Names) Remembered() int { return len(n.gone) }

// Source returns the catalog that was last taken.
func (n *Names) Source() *Catalog { return n.source }

// drop forgets the service of a name whose last instance went.
func (n *Names) drop(key string) {
	n.gone[key].gone = ""
	delete(n.gone, key)
}

// room is how many services may be remembered.
func (n *Names) room() int { return max(rememberLeast, n.most-n.source.Len()) }

// forget drops what was remembered for long, and the oldest of what is too many.
func (n *Names) forget(now time.Time, folded map[string]struct{}) {
	over := len(n.gone) - n.room()
	keys := slices.SortedFunc(maps.Keys(n.gone), func(a, b string) int {
		return cmp.Or(n.gone[a].since.Compare(n.gone[b].since), cmp.Compare(a, b))
	})
	for i, key := range keys {
		if i < over || now.Sub(n.gone[key].since) >= rememberFor {
			folded[key] = struct{}{}
			n.drop(key)
		}
	}
}

// update decides anew on the folded names.
func (n *Names) update(folded map[string]struct{}) {
	var put []*Service
	var remove []string
	for key := range folded {
		k := n.known[key]
		if k == nil {
			continue
		}
		out := n.decide(key, k)
		var names []string
		for _, s := range out {
			names = append(names, s.Name)
		}
		for _, old := range k.out {
			if !slices.Contains(names, old) {
				remove = append(remove, old)
			}
		}
		put, k.out = append(put, out...), names
		if len(k.source)+len(k.out) == 0 {
			delete(n.known, key)
		}
	}
	n.out = n.out.Update(put, remove)
}

// decide returns the services of a name.
func (n *Names) decide(key string, k *name) []*Service {
	service, inFile := n.file[key]
	at := n.named[service] // where the catalog has what is left out noted
	if inFile && fold(at) != key {
		// The name is another service's in the catalog: the file has its say.
		inFile = false
	}
	var free []string // those that no service of the file is
	var out []*Service
	for _, spelling := range k.source {
		if n.taken[spelling] {
			out = append(out, n.source.Service(spelling))
		} else {
			free = append(free, spelling)
		}
	}
	if !inFile {
		if !slices.Contains(free, k.first) {
			k.first = ""
		}
		if k.first == "" && len(free) > 0 {
			k.first = free[len(free)-1]
		}
		at = k.first
		if at != "" {
			out = append(out, n.source.Service(at))
		}
	}
	if len(out) == 0 && k.gone != "" && (!inFile || k.gone == at) {
		out = append(out, &Service{Name: k.gone})
	}
	for _, spelling := range free {
		if spelling != at {
			out = leaveOut(out, at, n.source.Service(spelling))
		}
	}
	return out
}

// leaveOut names the instances of a service at another one, whose name it has but
// for the case.
func leaveOut(out []*Service, at string, left *Service) []*Service {
	i := slices.IndexFunc(out, func(s *Service) bool { return s.Name == at })
	if i < 0 {
		i = len(out)
		out = append(out, &Service{Name: at})
	}
	noted := *out[i]
	noted.Excluded = slices.Clone(noted.Excluded)
	for _, instance := range left.Instances {
		noted.Exclude(instance.ID, fmt.Sprintf("it is registered as %s, and hosts are compared without their case", left.Name))
	}
	out[i] = &noted
	return out
}
