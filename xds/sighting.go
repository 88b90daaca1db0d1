package xds

import (
	"time"

	"datapunk.dev/controlplane/resource"
)

// Sighting is one stream of a node.
type Sighting struct {
	Service string
	Host    string // see [listen.HostOf]
	Profile resource.Profile
	Began   time.Time
}

// Sightings returns the streams that a node.id has now.
func (s *Server) Sightings(node string) []Sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.nodes[node]
	if r == nil {
		return nil
	}
	list := make([]Sighting, 0, len(r.streams))
	for _, st := range r.streams {
		list = append(list, Sighting{Service: r.service, Host: r.host, Profile: st.slot.profile, Began: st.status.began()})
	}
	return list
}
