package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNothingIsPublishedBeforeEverythingIsIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(2)...)
		fake.set("dome", many(1)...)
		fake.hook = func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/v1/health/service/dome" {
				return reply(500, "", nil), nil
			}
			return nil, nil
		}
		r := start(t, fake, Demand{MeshOnly: true, Services: []string{"nowhere"}})
		if n := r.published(); n != 0 {
			t.Fatalf("%d catalogs without the answer for dome", n)
		}
		r.wantWaiting("service dome: 500")
		if r.Status().Ready {
			t.Error("ready")
		}
		fake.fail(nil)
		time.Sleep(maxBackoff)
		r.wantWaiting("")
		r.want("lake", 2)
		r.want("dome", 1)
		r.want("nowhere", -1)
		if n := r.published(); n != 1 {
			t.Errorf("the first state came in %d catalogs", n)
		}
		if st := r.Status(); !st.Ready || st.Mode != "http1" || st.LastSuccess.IsZero() {
			t.Errorf("status %+v", st)
		}
	})
}

// One service that cannot be read, as another may not, keeps nobody from being served
// for longer than a while. It is said, and is there when it can be read.
func TestAServiceThatCannotBeReadIsNotWaitedForForever(t *testing.T) {
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"it is refused": func(*http.Request) (*http.Response, error) { return reply(500, "", nil), nil },
		"it is no JSON": func(*http.Request) (*http.Response, error) {
			return reply(200, "<html>", http.Header{"X-Consul-Index": {"9"}}), nil
		},
		"it is not answered": func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				fake := newFake()
				fake.set("lake", many(2)...)
				fake.set("dome", many(1)...)
				fake.set("nexus", many(1)...)
				fake.hook = func(req *http.Request) (*http.Response, error) {
					if req.URL.Path == "/v1/health/service/dome" {
						return answer(req)
					}
					return nil, nil
				}
				r := start(t, fake, Demand{MeshOnly: true})
				time.Sleep(patience - time.Second)
				if n := r.published(); n != 0 || !r.Unread("dome", "") || r.Unread("lake", "") {
					t.Fatalf("%d catalogs; dome unread: %v, lake: %v", n, r.Unread("dome", ""), r.Unread("lake", ""))
				}
				time.Sleep(2 * time.Second)
				r.want("lake", 2)
				r.want("nexus", 1)
				r.want("dome", -1)
				r.wantWaiting("service dome: ")
				fake.fail(nil)
				time.Sleep(2 * time.Minute)
				r.want("dome", 1)
				r.wantWaiting("")
				if r.Unread("dome", "") {
					t.Error("dome is unread still")
				}
			})
		})
	}
}

// Each change is published without any time passing, and changes nothing else.
// Whoever sees the first catalog sees a status that waits for nothing.
func TestTheStatusIsNotBehindTheCatalog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		for i := range 20 {
			fake.set(fmt.Sprintf("s%02d", i), many(1)...)
		}
		var s *Source
		published := 0
		s = newSource(t, fake, Config{}, Demand{MeshOnly: true}, slog.New(slog.DiscardHandler), func(*watch.Catalog) {
			published++
			if st := s.Status(); !st.Ready || len(st.Waiting) > 0 {
				t.Errorf("status %+v", st)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || published != 1 {
			t.Errorf("error %v, %d catalogs", err, published)
		}
	})
}

func TestChangesPassAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(3)...)
		fake.set("dome", many(3)...)
		r := start(t, fake, Demand{MeshOnly: true})
		began := time.Now()

		base := r.catalog()
		fake.set("lake", many(4)...)
		r.want("lake", 4)
		if changed, ok := r.catalog().ChangedSince(base); !ok || len(changed) != 1 {
			t.Errorf("changed %v, %v", changed, ok)
		}

		critical := many(4)
		critical[0].Checks[0].Status = "critical"
		fake.set("lake", critical...)
		if got := r.catalog().Service("lake").Instances[0].Health; got != watch.Critical {
			t.Errorf("health %s", got)
		}

		fake.set("lake", many(3)...) // one deregistered
		r.want("lake", 3)
		fake.set("stream", many(1)...) // a service that is new
		r.want("stream", 1)

		n := r.published()
		fake.set("lake", many(3)...) // the index moves, and nothing else
		if r.published() != n {
			t.Error("an unchanged service was published")
		}
		if d := time.Since(began); d > 0 {
			t.Errorf("it took %s", d)
		}
	})
}

func TestMeshOnlyLeavesOthersOut(t *testing.T) {
	plain := func(e *entry) { e.Service.Meta = nil }
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(1)...)
		fake.set("jaeger", at1("10.0.1.1", plain))
		fake.set("other", at1("10.0.1.2", plain))
		r := start(t, fake, Demand{MeshOnly: true, Services: []string{"jaeger"}})
		r.want("lake", 1)
		r.want("jaeger", 1)
		r.want("other", -1)

		r.SetDemand(Demand{})
		r.want("other", 1)
		r.want(canary, -1)

		r.SetDemand(Demand{MeshOnly: true})
		r.want("lake", 1)
		r.want("jaeger", -1)
		r.want("other", -1)
		if n := r.Stats().Services; n != 1 {
			t.Errorf("%d services are watched", n)
		}
	})
}

func TestAnEmptyMeshIsReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, newFake(), Demand{MeshOnly: true})
		if r.catalog().Len() != 0 || !r.Status().Ready {
			t.Errorf("status %+v", r.Status())
		}
	})
}

func TestAnEmptyAnswerWithoutConsulItselfIsNotReady(t *testing.T) {
	for _, tt := range []struct {
		noLeader bool
		want     string
	}{{true, "no leader"}, {false, "the token may have no rights"}} {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			fake.noCanary, fake.noLeader = true, tt.noLeader
			r := start(t, fake, Demand{MeshOnly: true})
			r.wantWaiting("list of services: ")
			r.wantWaiting(tt.want)
			if r.published() != 0 {
				t.Error("published")
			}
			fake.lock(func() { fake.noCanary, fake.noLeader = false, false })
			time.Sleep(maxBackoff)
			r.wantWaiting("")
		})
	}
}

// A narrow token never sees Consul's own service; what it sees is the catalog.
func TestATokenForSomeServices(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.noCanary = true
		fake.set("lake", many(1)...)
		r := start(t, fake, Demand{MeshOnly: true})
		r.want("lake", 1)
	})
}

// A token that may read services and no nodes is answered an empty list for
// every one of them, which would take all instances out of a fleet.
func TestATokenWithoutNodes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(1)...)
		hide := func(req *http.Request) (*http.Response, error) {
			if !strings.HasPrefix(req.URL.Path, "/v1/health/service/") {
				return nil, nil
			}
			header := http.Header{"X-Consul-Index": {"9"}, "X-Consul-Results-Filtered-By-Acls": {"true"}}
			return &http.Response{StatusCode: http.StatusOK, Header: header, Body: io.NopCloser(strings.NewReader("[]"))}, nil
		}
		fake.fail(hide)
		// A service that only the file names may well be one that the token
		// does not see.
		r := start(t, fake, Demand{MeshOnly: true, Services: []string{"elsewhere"}})
		time.Sleep(time.Minute)
		r.wantWaiting("service lake: the token may read the service and none of its nodes")
		if r.published() != 0 {
			t.Error("published an empty catalog")
		}
		fake.fail(nil)
		time.Sleep(maxBackoff)
		r.want("lake", 1)
		r.wantWaiting("")
	})
}

// Whatever Consul answers, the last good catalog stays, and the next query
// starts from index 0.
func TestIndexRules(t *testing.T) {
	good := http.Header{"X-Consul-Index": {"99"}, "X-Consul-Knownleader": {"true"}}
	for _, tt := range []struct {
		name string
		hook func() (*http.Response, error)
		want string
	}{
		{"broken connection", func() (*http.Response, error) { return nil, errors.New("broken") }, "broken"},
		{"500", func() (*http.Response, error) { return reply(500, "rpc error", nil), nil }, "500 rpc error"},
		{"500 without a leader", func() (*http.Response, error) { return reply(500, "No cluster leader", nil), nil }, "no leader"},
		{"429", func() (*http.Response, error) { return reply(429, "too many", nil), nil }, "429 too many"},
		{"403", func() (*http.Response, error) { return reply(403, "ACL not found", nil), nil }, "403 ACL not found"},
		{"redirect", func() (*http.Response, error) {
			return reply(302, "", http.Header{"Location": {"http://elsewhere/"}}), nil
		}, "302"},
		{"no index", func() (*http.Response, error) { return reply(200, "[]", nil), nil }, "X-Consul-Index"},
		{"a page", func() (*http.Response, error) { return reply(200, "<html>hello", good.Clone()), nil }, "not the JSON"},
		{"truncated", func() (*http.Response, error) { return reply(200, `[{"Node":`, good.Clone()), nil }, "not the JSON"},
		{"null", func() (*http.Response, error) { return reply(200, "null", good.Clone()), nil }, "null"},
		{"an object", func() (*http.Response, error) { return reply(200, `{"a":[]}`, good.Clone()), nil }, "not the JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				fake := newFake()
				fake.set("lake", many(2)...)
				r := start(t, fake, Demand{MeshOnly: true})
				r.want("lake", 2)
				fake.fail(func(req *http.Request) (*http.Response, error) {
					if strings.HasPrefix(req.URL.Path, "/v1/health") {
						return tt.hook()
					}
					return nil, nil
				})
				time.Sleep(time.Minute)
				r.wantWaiting("service lake: ")
				r.wantWaiting(tt.want)
				r.want("lake", 2)
				if !r.Status().Ready {
					t.Error("a source that was ready once is not any more")
				}
				if n := strings.Count(r.logged(), "cannot be read"); n != 1 {
					t.Errorf("logged %d times", n)
				}
				asked := fake.requests("/v1/health/service/lake")
				if last := asked[len(asked)-1]; last.index != "" {
					t.Errorf("asked again with index %s", last.index)
				}

				fake.fail(nil)
				fake.set("lake", many(3)...)
				time.Sleep(maxBackoff)
				r.want("lake", 3)
				r.wantWaiting("")
				if n := strings.Count(r.logged(), "can be read again"); n != 1 {
					t.Errorf("recovery logged %d times", n)
				}
			})
		})
	}
}

func TestAnIndexThatGoesBackStartsAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(2)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.lock(func() { fake.indexes["lake"] = 3; fake.wake() })
		r.want("lake", 2)
		asked := fake.requests("/v1/health/service/lake")
		// First without an index, then with 11, and after the answer that said
		// 3 without one again.
		var got []string
		for _, q := range asked {
			got = append(got, q.index)
		}
		if fmt.Sprint(got) != "[ 11  3]" {
			t.Errorf("asked with indexes %q", got)
		}
	})
}

// "Index 0" would make the next query return at once, and so on for ever.
func TestIndexZeroIsOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(1)...)
		fake.lock(func() { fake.indexes["lake"] = 0 })
		start(t, fake, Demand{MeshOnly: true})
		if asked := fake.requests("/v1/health/service/lake"); len(asked) < 2 || asked[1].index != "1" {
			t.Errorf("asked %v", asked)
		}
	})
}

func TestBackoff(t *testing.T) {
	for _, tt := range []struct {
		err   error
		least time.Duration
	}{{errors.New("connection refused"), minBackoff}, {&refusal{"no leader"}, minRefused}, {&consul.StatusError{Code: 429}, minRefused}} {
		distinct := make(map[time.Duration]bool)
		for range 100 {
			var b backoff
			for i := range 20 {
				d := b.next(tt.err)
				if d < tt.least || d > maxBackoff {
					t.Fatalf("pause %d is %s", i, d)
				}
				if i == 0 {
					distinct[d] = true
					if d >= 2*tt.least {
						t.Fatalf("the first pause is %s", d)
					}
				}
			}
		}
		if len(distinct) < 50 {
			t.Error("no jitter")
		}
	}
}

// An index that moves all the time costs a few queries a second, and the first
// change after a quiet time is not late.
func TestBusyIndex(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(3)...)
		fake.set("dome", many(3)...)
		r := start(t, fake, Demand{MeshOnly: true})
		time.Sleep(time.Minute)
		before := len(fake.requests("/v1/health/service/lake"))
		for i := range 300 {
			flap := many(3)
			if i%2 == 0 {
				flap[0].Checks[0].Status = "critical"
			}
			fake.set("lake", flap...)
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(fake.requests("/v1/health/service/lake")) - before; n < 100 || n > 30*pollRate+pollBurst+1 {
			t.Errorf("%d queries in 30 s", n)
		}
		if n := len(fake.requests("/v1/health/service/dome")); n > 5 {
			t.Errorf("another service was asked for %d times", n)
		}
		began := time.Now()
		fake.set("dome", many(4)...)
		r.want("dome", 4)
		if time.Since(began) > 0 {
			t.Error("another service's change was late")
		}
	})
}

// A query that hangs ends by itself, after the longest time that Consul may take; that
// nothing is answered is said long before.
func TestAQueryThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(1)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.fail(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		})
		within := func(from, to time.Duration, what string) {
			t.Helper()
			began := time.Now()
			for !strings.Contains(strings.Join(r.Status().Waiting, "\n"), what) && time.Since(began) < time.Hour {
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
			}
			if d := time.Since(began); d < from || d > to {
				t.Errorf("%q after %s", what, d)
			}
		}
		began := time.Now()
		within(0, 15*time.Second, "fresh answers: consul:8500 takes connections and does not answer")
		const wait, answerTime = 55 * time.Second, 20 * time.Second
		so := time.Since(began)
		within(wait+wait/16-so, wait+wait/16+answerTime+time.Second, "timeout")
		r.want("lake", 1)
		fake.fail(nil)
		time.Sleep(2 * answerTime)
		r.wantWaiting("")
	})
}

func TestSetDemandWhileConsulIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.fail(func(*http.Request) (*http.Response, error) { return nil, errors.New("down") })
		r := start(t, fake, Demand{MeshOnly: true})
		r.SetDemand(Demand{Services: []string{"lake", ""}})
		r.wantWaiting("list of services: down")
		fake.fail(nil)
		fake.set("lake", many(1)...)
		time.Sleep(maxBackoff)
		r.want("lake", 1)
	})
}

// BenchmarkChangeToEvent is the time from a change to the catalog that has it,
// without a network or a Consul in between.
func BenchmarkChangeToEvent(b *testing.B) {
	const n = 2000 // each has its turn, so that no watch is limited
	fake := newFake()
	fake.http2 = true
	name := func(i int) string { return fmt.Sprintf("s%04d", i%n) }
	for i := range n {
		fake.set(name(i), many(3)...)
	}
	news := make(chan struct{}, 1)
	s := newSource(b, fake, Config{}, Demand{MeshOnly: true}, slog.New(slog.DiscardHandler), func(*watch.Catalog) { news <- struct{}{} })
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	<-news
	flip := [][]entry{many(3), many(3)}
	flip[0][0].Checks[0].Status = "critical"
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		fake.set(name(i), flip[i/n%2]...)
		<-news
	}
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
}
