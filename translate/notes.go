package translate

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/spelling"
)

// maxSuggestions is for how many names a nearest one is sought: a file that
// knows none of the catalog's names would otherwise cost its product with it.
const maxSuggestions = 20

// meshNotes are the findings about the file as a whole.
func (b *build) meshNotes(next *state) []string {
	n := &notes{b: b, next: next}
	names := slices.Sorted(maps.Keys(b.naming.file))
	for _, name := range names {
		s, ok := next.services.Get(name)
		if !ok {
			continue // unservable, and reported as such
		}
		if s.entry.Empty() {
			n.addf("service %s: the catalog has no service %s%s", name, s.settings.ConsulService, n.nearest(s.settings.ConsulService, n.unclaimed))
		}
		if other := b.in.Catalog.Service(name); other != nil && s.settings.ConsulService != name && len(b.naming.claims[name]) == 0 {
			n.addf("catalog service %s is left out: the file's service of that name is %s in the catalog", name, s.settings.ConsulService)
		}
		for _, u := range s.settings.Upstreams {
			n.known(fmt.Sprintf("service %s: upstream", name), u.Service)
		}
	}
	for _, p := range b.authz.policies {
		for _, name := range slices.Concat(p.Sources, p.NotSources, p.Destinations, p.NotDestinations) {
			n.known("policy "+p.Name+":", name)
		}
		if b.authz.enabled && p.Action == policy.Allow && p.fromAnybody() {
			n.addf("policy %s admits nobody: it has no principals and no sources", p.Name)
		}
	}
	n.misspelled()
	return n.all
}

// misspelled notes the services of connected proxies that have a service's name but
// for the case: a host has none, and an identity has.
func (n *notes) misspelled() {
	var folded map[string]string // of the services, made when it is asked for
	last := ""
	for p := range n.b.in.Fleet.Profiles() {
		if p.Service == last {
			continue
		}
		last = p.Service
		if _, known := n.next.services.Get(p.Service); known {
			continue
		}
		if folded == nil {
			folded = make(map[string]string)
			for name := range n.services {
				folded[strings.ToLower(name)] = name
			}
		}
		if name, ok := folded[strings.ToLower(p.Service)]; ok {
			n.addf("proxies of %s are connected, and the mesh has %s: an identity is compared with its case, so nobody takes them for that", p.Service, name)
		}
	}
}

type notes struct {
	b      *build
	next   *state
	all    []string
	sought int
}

func (n *notes) addf(format string, args ...any) { n.all = append(n.all, fmt.Sprintf(format, args...)) }

// known notes a name that is no service of the mesh.
func (n *notes) known(where, name string) {
	if _, ok := n.next.services.Get(name); !ok {
		n.addf("%s %s is no service of the mesh%s", where, name, n.nearest(name, n.services))
	}
}

// unclaimed are the catalog's names that no service of the file stands for.
func (n *notes) unclaimed(yield func(string) bool) {
	for s := range n.b.in.Catalog.Services() {
		if len(n.b.naming.claims[s.Name]) == 0 && !yield(s.Name) {
			return
		}
	}
}

func (n *notes) services(yield func(string) bool) {
	for name := range n.next.services.All() {
		if !yield(name) {
			return
		}
	}
}

// nearest is a suggestion, or nothing if no name is near.
func (n *notes) nearest(name string, names iter.Seq[string]) string {
	if n.sought == maxSuggestions {
		return ""
	}
	n.sought++
	if near := spelling.Nearest(name, names); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return ""
}
