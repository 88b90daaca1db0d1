package consul

import (
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// hostDown has an address answer as a hook says.
func (f *fakeConsul) hostDown(address string, hook func(*http.Request) (*http.Response, error)) {
	f.fail(func(req *http.Request) (*http.Response, error) {
		if req.URL.Host != address {
			return nil, nil
		}
		return hook(req)
	})
}

// askedAt is how many requests an address was sent since a time.
func (f *fakeConsul) askedAt(address string, since time.Time) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.asked {
		if r.url.Host == address && r.at.After(since) {
			n++
		}
	}
	return n
}

// A server that lost its leader goes on answering from memory, whether it says that it
// knows none, or when it last heard from one. It is believed, and people are told.
func TestOldAnswersAreSaid(t *testing.T) {
	for name, tt := range map[string]struct{ begin, end func(f *fakeConsul) }{
		"it knows no leader": {
			func(f *fakeConsul) { f.noLeader, f.contact = true, 2*time.Second },
			func(f *fakeConsul) { f.noLeader, f.contact = false, 0 },
		},
		"it never heard from one": {
			func(f *fakeConsul) { f.noLeader, f.contact = true, 1<<63-1 },
			func(f *fakeConsul) { f.noLeader, f.contact = false, 0 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				fake := newFake()
				fake.set("lake", many(2)...)
				r := start(t, fake, Demand{MeshOnly: true})
				time.Sleep(time.Minute)
				synctest.Wait()
				if age := time.Since(r.Stats().Fresh); age > freshEvery {
					t.Errorf("answers are %s old while all is well", age)
				}
				lost := time.Now()
				fake.lock(func() { tt.begin(fake) })
				time.Sleep(15 * time.Second)
				r.wantWaiting("fresh answers: consul:8500 has heard from no leader since ")
				r.want("lake", 2)
				time.Sleep(time.Minute)
				synctest.Wait()
				if fresh := r.Stats().Fresh; fresh.After(time.Now().Add(-2*time.Second)) && name != "it knows no leader" || fresh.Before(lost.Add(-freshEvery)) {
					t.Errorf("fresh at %s, lost at %s, now %s", fresh, lost, time.Now())
				}
				fake.lock(func() { tt.end(fake) })
				time.Sleep(2 * freshEvery)
				r.wantWaiting("")
				if n := strings.Count(r.logged(), "consul's answers may be old"); n != 1 {
					t.Errorf("said %d times", n)
				}
			})
		})
	}
}

// A server whose leader is frozen forwards to it what needs a leader, and waits as long
// as it is let. What is known meanwhile is said, and goes when the leader answers.
func TestOldAnswersAreSaidWhileALeaderIsLookedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(2)...)
		r := start(t, fake, Demand{MeshOnly: true})
		time.Sleep(time.Minute)
		fake.lock(func() { fake.contact = time.Minute })
		back := make(chan struct{})
		fake.fail(func(req *http.Request) (*http.Response, error) {
			if req.URL.Query().Has("stale") {
				return nil, nil
			}
			select {
			case <-back:
				return nil, nil
			case <-req.Context().Done():
				return nil, req.Context().Err()
			}
		})
		time.Sleep(freshEvery + freshTime)
		synctest.Wait()
		r.wantWaiting("fresh answers: consul:8500 has heard from no leader since ")
		close(back)
		synctest.Wait()
		r.wantWaiting("")
		r.want("lake", 2)
	})
}

// An agent asks another server when it is asked for what needs a leader; what waits at
// the one that has none would wait there for its time.
func TestAnAgentWhoseServerIsOutOfTouchIsAskedAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(2)...)
		r := start(t, fake, Demand{MeshOnly: true})
		time.Sleep(time.Second)
		fake.lock(func() { fake.contact = time.Minute })
		before := len(fake.requests("/v1/health/service/lake"))
		time.Sleep(2 * freshEvery)
		synctest.Wait()
		if after := len(fake.requests("/v1/health/service/lake")); after == before {
			t.Error("what waited at that server waits still")
		}
		r.wantWaiting("")
		r.want("lake", 2)
	})
}

// Where the mesh file names several, the next one is asked for whatever reason the one
// before it is of no use, soon; there it stays.
func TestAnotherAddressIsAsked(t *testing.T) {
	for name, tt := range map[string]struct {
		err     error  // of each request; nil: none
		contact string // what stale reads say since when there is no leader; empty: nothing is answered
	}{
		"it hangs":                     {},
		"it has lost its leader":       {contact: "40000"},
		"it never heard from a leader": {contact: "9223372036854"},
		"it closes connections":        {err: io.EOF},
		"it is not there":              {err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}},
	} {
		down := func(req *http.Request) (*http.Response, error) {
			switch q := req.URL.Query(); {
			case tt.err != nil:
				return nil, tt.err
			case tt.contact == "", q.Has("stale") && q.Has("index"):
				<-req.Context().Done()
				return nil, req.Context().Err()
			case !q.Has("stale"):
				return reply(500, "No cluster leader", nil), nil
			}
			return reply(200, `[]`, http.Header{"X-Consul-Index": {"10"}, "X-Consul-Knownleader": {"false"}, "X-Consul-Lastcontact": {tt.contact}}), nil
		}
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				fake := newFake()
				fake.fallbacks = []string{"other:8500"}
				fake.set("lake", many(2)...)
				r := start(t, fake, Demand{MeshOnly: true})
				time.Sleep(time.Minute)
				r.want("lake", 2)
				if n := fake.askedAt("other:8500", time.Time{}); n > 0 {
					t.Errorf("the other one was asked %d times while all was well", n)
				}
				fake.hostDown("consul:8500", down)
				began := time.Now()
				time.Sleep(15 * time.Second)
				fake.set("lake", many(3)...)
				r.want("lake", 3)
				r.wantWaiting("")
				fake.fail(nil)
				time.Sleep(time.Minute)
				if n := fake.askedAt("consul:8500", began.Add(15*time.Second)); n > 0 {
					t.Errorf("the first one was asked %d times after that", n)
				}
			})
		})
	}
}
