package xds

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// movedRest is how long a proxy that was sent away, and came back, is left alone: twice
// as long each time, up to maxMovedRest, since it may know of no other replica.
const (
	movedRest    = 30 * time.Second
	maxMovedRest = time.Hour
)

// sentAway is when a proxy was sent away last, and how often.
type sentAway struct {
	at    time.Time
	times int
}

func (a sentAway) rest() time.Duration { return min(movedRest<<min(a.times-1, 10), maxMovedRest) }

var errMoved = status.Error(codes.Unavailable, "another replica of the control plane has fewer streams")

// Envoys returns how many ADS streams there are, each of one Envoy.
func (s *Server) Envoys() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.envoys
}

// Moved returns how many streams were ended by [Server.Move].
func (s *Server) Moved() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moves
}

// Close has new streams refused: their clients go to another replica.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
}

// End ends up to n ADS streams, as [Server.Drain] does all.
func (s *Server) End(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		if n <= 0 {
			return
		}
		if st.aggregated && st.slot != nil && !st.leaving {
			st.leaving = true
			st.end(errDraining)
			n--
		}
	}
}

// Move ends up to n ADS streams, so that their proxies look for another replica, where
// they are sent nothing that they have. It leaves those alone for a while that came back
// after they were sent away, and returns how many it ended.
func (s *Server) Move(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for node, a := range s.sentAway {
		if now.Sub(a.at) >= 2*maxMovedRest {
			delete(s.sentAway, node)
		}
	}
	ended := 0
	for st := range s.streams { // in no order
		if ended >= n {
			break
		}
		if !st.aggregated || st.slot == nil || st.leaving {
			continue
		}
		before := s.sentAway[st.node.ID]
		if before.times > 0 && now.Sub(before.at) < before.rest() {
			continue
		}
		s.sentAway[st.node.ID] = sentAway{now, before.times + 1}
		st.leaving = true
		st.end(errMoved)
		ended++
	}
	s.moves += uint64(ended)
	return ended
}
