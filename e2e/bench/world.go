package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
)

// world is a mesh of a size: the operators' file as it stands, and a catalog
// of equal services. Every kind of server serves what it translates to.
type world struct {
	Services  int `json:"services"`
	Instances int `json:"instances"`
	Streams   int `json:"streams"`
	// Scope is how many services a stream asks for; 0: all of them.
	Scope int `json:"scope"`
	// Ports: each proxy has ports of its own too, as where one machine has many.
	// Without, proxies differ by their addresses alone.
	Ports bool `json:"ports,omitempty"`
	// Equal: all proxies of a service say the same of themselves, as no real ones
	// do: what there is to share is shared.
	Equal bool `json:"equal,omitempty"`
	// Replicas: streams with the same scope are of the same service. Without,
	// each stream with a scope is of a service of its own.
	Replicas bool `json:"replicas,omitempty"`

	SotW    bool   `json:"sotw,omitempty"`     // the streams' variant of the protocol
	DataDir string `json:"data_dir,omitempty"` // the authority's, for TLS; empty: plaintext
	Consul  string `json:"consul,omitempty"`   // where the catalog is; empty: in the server

	// Traffic: each tenth service has three subsets and five routes.
	Traffic bool `json:"traffic,omitempty"`
	// Routed: the streams ask for the routes to their services too.
	Routed bool `json:"routed,omitempty"`

	// Bare: without mTLS, policies and checks by the proxy, as one Envoy by itself can
	// have it.
	Bare bool `json:"bare,omitempty"`

	// Change is what changes in a Consul: its first instance moves to another
	// port ("port", or nothing), one more joins ("instance"), or a check flips
	// ("check"). Of "route" it is the mesh file: a route of the service.
	Change string `json:"change,omitempty"`
	// Callers: the services of the streams are in Consul too, with an instance each.
	Callers bool `json:"callers,omitempty"`
}

// seedFile is the mesh file, from the root of the repository.
const seedFile = "configs/mesh.yaml"

// The prefix of the services that change, and the port of an instance that has
// not moved.
const (
	servicePrefix = "service-"
	firstPort     = 20000
)

func serviceName(i int) string { return fmt.Sprintf("%s%05d", servicePrefix, i) }

// serviceNumber is the other way; -1 for another service.
func serviceNumber(name []byte) int {
	digits, ok := bytes.CutPrefix(name, []byte(servicePrefix))
	if !ok || len(digits) < 5 {
		return -1
	}
	n := 0
	for _, d := range digits[:5] { // what follows is Consul's
		n = n*10 + int(d-'0')
	}
	return n
}

// client is the service that a stream says it is. Streams that ask for all are
// all of one.
func (w world) client(stream int) string {
	switch {
	case w.Scope == 0:
		return "client"
	case w.Replicas:
		stream = stream * w.Scope % w.Services / w.Scope
	}
	return fmt.Sprintf("client-%05d", stream)
}

// clients are the distinct services of the streams, with the first stream of each.
func (w world) clients() map[string]int {
	first := make(map[string]int)
	for s := range w.Streams {
		if _, ok := first[w.client(s)]; !ok {
			first[w.client(s)] = s
		}
	}
	return first
}

// upstreams are the services that a stream asks for.
func (w world) upstreams(stream int) []string {
	if w.Scope == 0 {
		names := make([]string, w.Services)
		for i := range names {
			names[i] = serviceName(i)
		}
		return names
	}
	names := make([]string, w.Scope)
	for i := range names {
		names[i] = serviceName((stream*w.Scope + i) % w.Services)
	}
	return names
}

// subscribers is how many streams have the service in their scope.
func (w world) subscribers(service int) int {
	if w.Scope == 0 {
		return w.Streams
	}
	n := 0
	for s := range w.Streams {
		for i := range w.Scope {
			if (s*w.Scope+i)%w.Services == service {
				n++
				break
			}
		}
	}
	return n
}

func (w world) mesh() (*policy.Mesh, error) { return w.edited(nil) }

// edited is the mesh file in which some services have a route that says how often it
// was edited.
func (w world) edited(times map[int]int) (*policy.Mesh, error) { return w.parsed(times) }

// parsed is that with more files laid over it.
func (w world) parsed(times map[int]int, more ...policy.File) (*policy.Mesh, error) {
	seed, err := os.ReadFile(seedFile)
	if err != nil {
		return nil, err
	}
	files := []policy.File{{Name: seedFile, Data: seed}}
	if w.Scope > 0 {
		var b bytes.Buffer
		b.WriteString("mesh:\n  services:\n")
		for client, stream := range w.clients() {
			fmt.Fprintf(&b, "    %s: {upstreams: [%s]}\n", client, strings.Join(w.upstreams(stream), ", "))
		}
		files = append(files, policy.File{Name: "scopes.yaml", Data: b.Bytes()})
	}
	if w.Traffic || len(times) > 0 {
		files = append(files, policy.File{Name: "traffic.yaml", Data: w.traffic(times)})
	}
	if w.Bare {
		files = append(files, policy.File{Name: "bare.yaml", Data: []byte("mesh: {security: {mtls: {enabled: false}, authorization: null}, load_balancing: {health_checks: null}}\n")})
	}
	files = append(files, more...)
	env := make(map[string]string)
	if host, port, err := net.SplitHostPort(w.Consul); err == nil {
		env["CONSUL_HOST"], env["CONSUL_PORT"] = host, port
	}
	return policy.Parse(files, policy.Options{LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok }})
}

// service is the catalog's entry of a service in its nth state: its first
// instance has moved n times.
func (w world) service(i, n int) *watch.Service {
	s := &watch.Service{Name: serviceName(i)}
	for k := range w.Instances {
		port := uint16(firstPort)
		if k == 0 {
			port += uint16(n)
		}
		s.Instances = append(s.Instances, &watch.Instance{
			ID:      fmt.Sprintf("%s-%d", s.Name, k),
			Address: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(k)}),
			Port:    8080, MeshPort: port, Weight: 1,
			Meta: map[string]string{"version": fmt.Sprint(k % subsets)},
		})
	}
	return s
}

func (w world) catalog() *watch.Catalog {
	all := make([]*watch.Service, w.Services)
	for i := range all {
		all[i] = w.service(i, 0)
	}
	return watch.NewCatalog().Update(all, nil)
}

// profile is what the servers take a stream for.
func (w world) profile(stream int) resource.Profile {
	p := resource.Profile{Service: w.client(stream), AppPort: 8080, MeshPort: 15008, OutboundPort: 15001}
	if !w.Equal {
		p.Address = netip.AddrFrom4([4]byte{127, byte(1 + stream>>16), byte(stream >> 8), byte(stream)}).String()
	}
	if w.Ports {
		p.AppPort += uint16(stream % 5000)
	}
	return p
}

// seen is all that the clients of one service are to have of a type.
type seen [resource.NumTypes]*resource.Set

func see(s *translate.Snapshot, p resource.Profile) (all seen) {
	v := s.View(p)
	scope := s.Scope(v.Scope)
	for t := range all {
		var resources []*resource.Resource
		for _, half := range []*resource.Set{scope.Sets[t], v.Own[t]} {
			if half != nil {
				resources = slices.AppendSeq(resources, half.All())
			}
		}
		all[t] = resource.NewSet(resources...)
	}
	return all
}

// views are what the clients of the world are to have of a catalog. Only
// listeners, which no stream asks for, differ within a service, unless its
// proxies have ports of their own.
func (w world) views(catalog *watch.Catalog) (map[string]seen, error) {
	m, err := w.mesh()
	if err != nil {
		return nil, err
	}
	clients := w.clients()
	var profiles []resource.Profile
	for _, stream := range clients {
		profiles = append(profiles, w.profile(stream))
	}
	snapshot := translate.Translate(nil, translate.Input{
		Mesh: m, Catalog: catalog, Roots: roots,
		Fleet: resource.NewFleet(profiles...),
	})
	views := make(map[string]seen, len(clients))
	for client, stream := range clients {
		views[client] = see(snapshot, w.profile(stream))
	}
	return views, nil
}

// roots stands for a trust bundle: no stream of a benchmark asks for secrets.
var roots = []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
