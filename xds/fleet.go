package xds

import (
	"time"

	"datapunk.dev/controlplane/resource"
)

// fleetInterval is the least time between two reports of the fleet: each makes
// a snapshot, and after a restart ten thousand proxies come at once.
const fleetInterval = 10 * time.Millisecond

// reportFleetLocked has OnFleet called, since a profile came or left: at once, or with
// all changes of the interval that is running.
func (s *Server) reportFleetLocked(p resource.Profile) {
	if s.options.OnFleet == nil {
		return
	}
	s.moved[p] = struct{}{}
	s.reportLocked()
}

// countInboundLocked counts a stream that came, or left, for the place where its
// proxy takes connections, and has OnInbound called if it is the first or the last.
func (s *Server) countInboundLocked(st *stream, n int) {
	at, ok := resource.InboundOf(st.slot.profile, st.from)
	if !ok || s.options.OnInbound == nil {
		return
	}
	before := s.inbound[at]
	now := before + n
	if s.inbound[at] = now; now == 0 {
		delete(s.inbound, at)
	}
	if (before == 0) == (now == 0) {
		return
	}
	if _, turned := s.turned[at]; turned {
		delete(s.turned, at) // it is as it was when that was last told
		return
	}
	s.turned[at] = now > 0
	s.reportLocked()
}

func (s *Server) reportLocked() {
	if !s.reporting {
		s.reporting = true
		go s.report()
	}
}

func (s *Server) report() {
	s.mu.Lock()
	if len(s.moved)+len(s.turned) == 0 {
		s.reporting = false
		s.mu.Unlock()
		return
	}
	var came, left []resource.Profile
	for p := range s.moved {
		if s.slots[p] != nil {
			came = append(came, p)
		} else {
			left = append(left, p)
		}
	}
	var inboundCame, inboundLeft []resource.Inbound
	for at, here := range s.turned {
		if here {
			inboundCame = append(inboundCame, at)
		} else {
			inboundLeft = append(inboundLeft, at)
		}
	}
	clear(s.moved)
	clear(s.turned)
	s.fleet = s.fleet.Update(came, left)
	fleet := s.fleet
	s.mu.Unlock()
	if len(inboundCame)+len(inboundLeft) > 0 {
		s.options.OnInbound(inboundCame, inboundLeft)
	}
	if len(came)+len(left) > 0 {
		s.options.OnFleet(fleet)
	}
	time.AfterFunc(fleetInterval, s.report)
}
