package control

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// leftFor is for how long it is known of a sidecar that it was there. One that
// stops does so within seconds of its entry in the catalog.
const leftFor = time.Minute

// sidecars knows of each instance whether its sidecar is connected. It is
// the witness beside the catalog of which are there.
type sidecars struct {
	mu        sync.Mutex
	connected map[resource.Inbound]struct{}
	left      map[resource.Inbound]time.Time // when; each for leftFor
	names     map[string][]string            // catalog name → services of the mesh file
}

func newSidecars() *sidecars {
	return &sidecars{connected: make(map[resource.Inbound]struct{}), left: make(map[resource.Inbound]time.Time)}
}

// setServices says which services of the mesh file there are, each with its name
// in the catalog.
func (s *sidecars) setServices(services map[string]string) {
	names := make(map[string][]string)
	for name, at := range services {
		names[at] = append(names[at], name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = names
}

// moved takes in which sidecars came and left.
func (s *sidecars) moved(came, left []resource.Inbound) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.left, func(_ resource.Inbound, at time.Time) bool { return now.Sub(at) >= leftFor })
	for _, at := range left {
		delete(s.connected, at)
		s.left[at] = now
	}
	for _, at := range came {
		s.connected[at] = struct{}{}
		delete(s.left, at)
	}
}

// of returns what is known of the sidecar of an instance of a service of the
// catalog. It is the instance's if it is of the service, and takes connections
// where the instance is dialed.
func (s *sidecars) of(service string, i *watch.Instance) watch.Presence {
	if i.MeshPort == 0 {
		return watch.Unseen
	}
	at := netip.AddrPortFrom(i.Address.Unmap(), i.MeshPort)
	s.mu.Lock()
	defer s.mu.Unlock()
	names := s.names[service]
	if len(names) == 0 {
		names = []string{service}
	}
	is := watch.Unseen
	for _, name := range names {
		one := resource.Inbound{Service: name, At: at}
		if _, ok := s.connected[one]; ok {
			return watch.Connected
		}
		if when, ok := s.left[one]; ok && time.Since(when) < leftFor {
			is = watch.Left
		}
	}
	return is
}
