package xds

import (
	"time"

	"datapunk.dev/controlplane/resource"
)

// ageSlack is how much longer than its connection may be old a stream can be that ends with
// it: gRPC adds a tenth at most, and calls have their grace.
const ageSlack = connectionGrace + 10*time.Second

// keepReleased is how long it is known why a proxy has gone.
const keepReleased = time.Minute

// released are the profiles whose last stream this server has ended, and when.
type released struct {
	at    map[resource.Profile]time.Time
	swept time.Time
}

// Released reports whether the last proxy with a profile has left, in the last minute,
// because this server has ended its stream, or may have: it was sent away, its credential
// has expired, or its connection was as old as it may be. It looks for a server then, and
// that may be another one.
func (s *Server) Released(p resource.Profile) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.released.at[p]
	return ok && time.Since(at) < keepReleased
}

// noteEndLocked notes why the last stream of a profile has ended.
func (s *Server) noteEndLocked(st *stream, now time.Time) {
	r := &s.released
	if now.Sub(r.swept) >= keepReleased {
		for p, at := range r.at {
			if now.Sub(at) >= keepReleased {
				delete(r.at, p)
			}
		}
		r.swept = now
	}
	if !s.endedByUs(st, now) {
		delete(r.at, st.slot.profile)
		return
	}
	if r.at == nil {
		r.at = make(map[resource.Profile]time.Time)
	}
	r.at[st.slot.profile] = now
}

func (s *Server) endedByUs(st *stream, now time.Time) bool {
	if st.leaving || st.credential != nil && !st.credential.Expires.IsZero() && now.After(st.credential.Expires) {
		return true
	}
	age, limit := now.Sub(st.status.began()), s.options.Limits.ConnectionAge
	return limit > 0 && age >= limit-limit/10 && age <= limit+limit/10+ageSlack
}
