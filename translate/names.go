package translate

import (
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// naming says which service of the mesh is which service of the catalog: what
// the file names, by its consul_service, and whatever else the catalog has
// under its own name.
type naming struct {
	file   map[string]struct{} // the services that the file names
	claims map[string][]string // catalog name → services of the file, in order
}

func namingOf(m *policy.Mesh) *naming {
	n := &naming{file: make(map[string]struct{}), claims: make(map[string][]string)}
	for _, name := range m.Names() {
		n.file[name] = struct{}{}
		catalogName := m.Service(name).ConsulService
		n.claims[catalogName] = append(n.claims[catalogName], name)
	}
	return n
}

// affected adds the services of the mesh that a change of the catalog's name
// may touch.
func (n *naming) affected(catalogName string, names map[string]struct{}) {
	names[catalogName] = struct{}{}
	for _, name := range n.claims[catalogName] {
		names[name] = struct{}{}
	}
}

// all adds the names whose meaning the file settles: those of its services,
// and those of the catalog that they claim.
func (n *naming) all(names map[string]struct{}) {
	for name := range n.file {
		names[name] = struct{}{}
	}
	for catalogName := range n.claims {
		names[catalogName] = struct{}{}
	}
}

// entry is the catalog's entry of a service of the mesh; known is false if the
// mesh has no such service.
func (n *naming) entry(c *watch.Catalog, settings *policy.Service) (entry *watch.Service, known bool) {
	if _, named := n.file[settings.Name]; named {
		return c.Service(settings.ConsulService), true
	}
	if len(n.claims[settings.Name]) > 0 {
		return nil, false
	}
	entry = c.Service(settings.Name)
	return entry, entry != nil
}

// unservable says why a service cannot have this name; empty if it can.
//
// SPIFFE-ID section 2.2: a path segment has letters, digits, dots, dashes and
// underscores, and is neither a dot nor two. The other names are taken: by the
// control plane's own identity, by clusters of other origin, and by the second
// name that each service's virtual host has.
func unservable(name string) string {
	switch name {
	case "":
		return "it is empty"
	case ".", "..":
		return "it is no segment of a SPIFFE ID"
	}
	if why := resource.Reserved(name); why != "" {
		return why
	}
	for i := range len(name) {
		switch b := name[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '.', b == '-', b == '_':
		default:
			return "it is no segment of a SPIFFE ID, which has letters, digits, '.', '-' and '_' only"
		}
	}
	return ""
}
