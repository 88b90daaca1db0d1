package xds

import (
	"testing"
	"time"

	"datapunk.dev/controlplane/resource"
)

// A proxy that goes because its connection is as old as it may be goes to another server, as
// one that was sent away does. One that goes at another time goes by itself.
func TestWhoseProxiesWereReleased(t *testing.T) {
	const age = 30 * time.Minute
	p := resource.Profile{Service: "web"}
	for _, c := range []struct {
		what  string
		lived time.Duration
		how   func(st *stream)
		want  bool
	}{
		{"by itself", time.Minute, nil, false},
		{"just before its connection may be so old", 26 * time.Minute, nil, false},
		{"at the age of its connection", 31 * time.Minute, nil, true},
		{"after its grace", 33*time.Minute + 20*time.Second, nil, true},
		{"long after, on a connection without an age", time.Hour, nil, false},
		{"sent away", time.Minute, func(st *stream) { st.leaving = true }, true},
		{"with a credential that has expired", time.Minute, func(st *stream) { st.credential = &Credential{Expires: time.Now().Add(-time.Second)} }, true},
		{"with one that has not", time.Minute, func(st *stream) { st.credential = &Credential{Expires: time.Now().Add(time.Hour)} }, false},
	} {
		s := New(Options{Limits: Limits{ConnectionAge: age}})
		st := &stream{server: s, slot: &slot{profile: p}}
		st.status.proxy.Connected = time.Now().Add(-c.lived)
		if c.how != nil {
			c.how(st)
		}
		s.noteEndLocked(st, time.Now())
		if got := s.Released(p); got != c.want {
			t.Errorf("%s: released %v, want %v", c.what, got, c.want)
		}
		s.noteEndLocked(&stream{server: s, slot: &slot{profile: resource.Profile{Service: "other"}}, leaving: true}, time.Now().Add(2*keepReleased))
		if len(s.released.at) != 1 {
			t.Errorf("%s: %d are known two minutes later", c.what, len(s.released.at))
		}
	}
}
