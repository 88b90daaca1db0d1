package xds

import (
	"net/netip"
	"time"

	"datapunk.dev/controlplane/resource"
)

// Presence is a connected sidecar as a catalog could have it: who it is, and what
// it says of where it takes the calls of the mesh.
type Presence struct {
	Node    string
	Profile resource.Profile
	From    netip.Addr // its connection comes from there; invalid for a Unix socket
	Version string     // of the application, as its metadata has it
	Tags    []string
	Meta    map[string]string
	Checks  string // the kinds of checks of its application that it can have made
	Proved  bool   // by a credential: false in plaintext mode
	Since   time.Time
}

// tellPresence tells of a stream, once, when its client has its listeners: it has
// acknowledged them, or came back with what it should have. The listener of its
// own application is the one that counts: a proxy that could not open it takes no
// calls, and one that lacks another takes them all the same.
func (s *stream) tellPresence(v *view) {
	if s.present || s.server.options.OnPresence == nil || s.slot.profile.Kind != resource.Sidecar || !s.types[resource.Listener].listens(v) {
		return
	}
	s.present = true
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.present[s.node.ID] = s
	s.server.options.OnPresence(s.presence(), true)
}

// listens reports whether the client has acknowledged what it should have of
// listeners, that of its own application above all.
func (ts *typeState) listens(v *view) bool {
	if !ts.sub.active || ts.base != v.of(ts.typ) || len(ts.inflight) > 0 || ts.base.get(resource.ListenerInbound) == nil {
		return false
	}
	d := ts.names[resource.ListenerInbound]
	return d == nil || d.rejection == nil && !d.waits()
}

// absentLocked is told that a stream has ended.
func (s *Server) absentLocked(st *stream) {
	if s.present[st.node.ID] != st {
		return // it never told, or a newer one of the same proxy has
	}
	delete(s.present, st.node.ID)
	s.options.OnPresence(st.presence(), false)
}

func (s *stream) presence() Presence {
	said := s.node.Instance()
	p := Presence{
		Node: s.node.ID, Profile: s.slot.profile, Proved: s.credential != nil, Since: time.Now(),
		Version: said.Version, Tags: said.Tags, Meta: said.Meta, Checks: said.Checks,
	}
	if from, err := netip.ParseAddrPort(peerAddress(s.transport.Context())); err == nil {
		p.From = from.Addr().Unmap()
	}
	return p
}
