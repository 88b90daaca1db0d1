package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"datapunk.dev/controlplane/policy"
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
}

// seedFile is the mesh file, from the root of the repository.
const seedFile = "configs/mesh.yaml"

func serviceName(i int) string { return fmt.Sprintf("service-%05d", i) }

// client is the service that a stream says it is. Streams with a scope of
// their own are one service each; the others are all of one.
func (w world) client(stream int) string {
	if w.Scope == 0 {
		return "client"
	}
	return fmt.Sprintf("client-%05d", stream)
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

func (w world) mesh() (*policy.Mesh, error) {
	seed, err := os.ReadFile(seedFile)
	if err != nil {
		return nil, err
	}
	files := []policy.File{{Name: seedFile, Data: seed}}
	if w.Scope > 0 {
		var b bytes.Buffer
		b.WriteString("mesh:\n  services:\n")
		for s := range w.Streams {
			fmt.Fprintf(&b, "    %s: {upstreams: [%s]}\n", w.client(s), strings.Join(w.upstreams(s), ", "))
		}
		files = append(files, policy.File{Name: "scopes.yaml", Data: b.Bytes()})
	}
	return policy.Parse(files, policy.Options{LookupEnv: func(string) (string, bool) { return "", false }})
}

// service is the catalog's entry of a service in its nth state: its first
// instance has moved n times.
func (w world) service(i, n int) *watch.Service {
	s := &watch.Service{Name: serviceName(i)}
	for k := range w.Instances {
		port := uint16(20000)
		if k == 0 {
			port += uint16(n)
		}
		s.Instances = append(s.Instances, &watch.Instance{
			ID:      fmt.Sprintf("%s-%d", s.Name, k),
			Address: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(k)}),
			Port:    8080, MeshPort: port, Weight: 1,
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

// profile is what the servers take a stream of the service for.
func profile(service string) translate.Profile {
	return translate.Profile{Service: service, OutboundPort: 15001}
}

// view is what a client of the service is to have of a catalog.
func (w world) view(catalog *watch.Catalog, service string) (*translate.View, error) {
	m, err := w.mesh()
	if err != nil {
		return nil, err
	}
	p := profile(service)
	snapshot := translate.Translate(nil, translate.Input{
		Mesh: m, Catalog: catalog, Roots: roots,
		Fleet: translate.NewFleet(func(yield func(translate.Profile) bool) { yield(p) }),
	})
	return snapshot.View(p), nil
}

// roots stands for a trust bundle: no stream of a benchmark asks for secrets.
var roots = []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
