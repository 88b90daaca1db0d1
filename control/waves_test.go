package control

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/replica"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// inWaves is a mesh file whose edits go to the proxies in waves; an edit is another timeout.
func inWaves(timeout string) string {
	return "mesh: {name: datapunk, edits: {waves: true}, policies: {timeout: {request: " + timeout + "}}, security: {mtls: {enabled: false}, authorization: {enabled: false}}}"
}

// waved is a loop with proxies, and what each of them has.
type waved struct {
	t       *testing.T
	loop    *Loop
	fleet   fleet
	log     bytes.Buffer
	proxies []resource.Profile
	files   map[string]string // the timeout by revision
	made    atomic.Int64      // snapshots

	mu       sync.Mutex
	served   xds.Snapshot
	has      map[resource.Profile]*resource.View
	scopes   map[string]*resource.Scope // by what was told of them
	word     string
	panics   bool // an edit cannot be published
	panicked int
	leaving  resource.Profile
	status   []xds.ProxyStatus
}

func startWaved(t *testing.T, n int, more ...func(*waves)) *waved {
	w := &waved{t: t, files: make(map[string]string), has: make(map[resource.Profile]*resource.View), scopes: make(map[string]*resource.Scope)}
	for i := range n {
		w.proxies = append(w.proxies, proxyNo(i))
	}
	w.loop = NewLoop(slog.New(slog.NewTextHandler(&w.log, nil)), w.publish, w.fleet.acked)
	w.loop.translate = func(last *translate.Snapshot, in translate.Input) *translate.Snapshot {
		w.made.Add(1)
		return translate.Translate(last, in)
	}
	with := w.options()
	for _, set := range more {
		set(&with)
	}
	w.loop.tryEdits(with)
	run(t, w.loop.Run)
	w.loop.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("api", 80)}, nil))
	w.loop.SetFleet(resource.NewFleet(w.proxies...))
	w.edit("1s")
	time.Sleep(waveFleet)
	synctest.Wait()
	return w
}

// options are those of a loop with its proxies.
func (w *waved) options() waves {
	return waves{
		acked: func(ctx context.Context, _ func(string, resource.Profile) bool) <-chan struct{} {
			return w.fleet.acked(ctx)
		},
		proxies: func() []xds.ProxyStatus {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.status
		},
		leaves: func(p resource.Profile) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return p == w.leaving
		},
		released: func(resource.Profile) bool { return false }, stopping: func() bool { return false },
		meant: func(revision string) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return revision == w.word
		},
	}
}

func proxyNo(i int) resource.Profile {
	return resource.Profile{Service: fmt.Sprintf("s%d", i%4), Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), MeshPort: 20000, OutboundPort: 15001}
}

// publish does what xds does: it has what was told of, and of nothing else.
func (w *waved) publish(_ *translate.Snapshot, served xds.Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := served.(*split); ok && s.tried != nil && w.panics {
		w.panicked++
		panic("in xds")
	}
	w.served = served
	scopes, views := served.Changed()
	for _, s := range scopes {
		if w.scopes[s.Key] != nil {
			w.scopes[s.Key] = s
		}
	}
	for _, v := range views {
		if w.has[v.Profile] = v; w.scopes[v.Scope] == nil {
			w.scopes[v.Scope] = served.Scope(v.Scope)
		}
	}
	used := make(map[string]bool)
	for p, has := range w.has {
		is := served.View(p)
		if is == nil {
			delete(w.has, p) // its last stream has ended
			continue
		}
		used[has.Scope] = true
		if scope := served.Scope(is.Scope); has.Scope != is.Scope || has.Own != is.Own || w.scopes[is.Scope].Sets != scope.Sets {
			w.t.Errorf("%v has something else than what is served, in scope %q", p, is.Scope)
		}
	}
	for key := range w.scopes {
		if !used[key] {
			delete(w.scopes, key)
		}
	}
}

func (w *waved) edit(timeout string) *policy.Mesh {
	m := mesh(w.t, inWaves(timeout))
	w.files[m.Revision] = timeout
	w.loop.SetMesh(m)
	synctest.Wait()
	return m
}

// of are the proxies that have a timeout in the routes to api.
func (w *waved) of(timeout string) (all []resource.Profile) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seconds := strings.TrimSuffix(timeout, "s")
	for _, p := range w.proxies {
		v := w.has[p]
		if v == nil {
			continue
		}
		if s := w.scopes[v.Scope]; s != nil && hasTimeout(s, seconds[0]-'0') {
			all = append(all, p)
		}
	}
	return all
}

// hasTimeout reports whether a route of a scope has a timeout of so many seconds.
func hasTimeout(s *resource.Scope, seconds byte) bool {
	for r := range s.Sets[resource.Route].All() {
		if strings.HasSuffix(r.Name, "api") && bytes.Contains(r.Body, []byte{0x42, 2, 8, seconds}) {
			return true
		}
	}
	return false
}

func (w *waved) want(when, timeout string, n int) {
	w.t.Helper()
	synctest.Wait()
	if got := w.of(timeout); len(got) != n {
		w.t.Fatalf("%s: %d proxies have a timeout of %s, want %d; %v\n%s", when, len(got), timeout, n, w.loop.Status().Waves, &w.log)
	}
}

func (w *waved) wantBack(why string) {
	w.t.Helper()
	synctest.Wait()
	if is := w.loop.Status().Waves; is == nil || !strings.Contains(is.Why, why) {
		w.t.Fatalf("it is %v, want it taken back, for %s", is, why)
	}
}

func TestAnEditGoesToTheProxiesInWaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 100)
		w.want("at the start", "1s", 100)
		w.edit("2s")
		w.want("at once", "2s", 1)
		w.want("at once", "1s", 99)
		first := w.of("2s")[0]
		w.loop.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("api", 81), service("db", 90)}, nil))
		synctest.Wait()
		for _, p := range []resource.Profile{first, w.proxies[0], w.proxies[1]} {
			if w.scopes[w.has[p].Scope].Sets.Get(resource.Cluster, "db") == nil {
				t.Errorf("%v does not follow the catalog", p)
			}
		}
		for _, wave := range []int{5, 25} {
			time.Sleep(9 * time.Second)
			w.want("before the wave has lived for 10 s", "1s", 100-len(w.of("2s")))
			if len(w.of("2s")) == wave {
				t.Error("the next wave is early")
			}
			time.Sleep(time.Second)
			w.want("the next wave", "2s", wave)
			if !slices.Contains(w.of("2s"), first) {
				t.Error("it was taken from the first")
			}
		}
		of := make(map[string]bool)
		for _, p := range w.of("2s") {
			of[p.Service] = true
		}
		if len(of) != 4 {
			t.Errorf("a quarter of the proxies has it, of the services %v alone", of)
		}
		time.Sleep(10 * time.Second)
		w.want("at the end", "2s", 100)
		if is := w.loop.Status(); is.Waves != nil || w.files[is.Mesh.Revision] != "2s" {
			t.Errorf("at the end: %v", is.Waves)
		}
	})
}

// refuse has a proxy refuse a route, as xds tells of it.
func (w *waved) refuse(p resource.Profile) {
	w.loop.Nacked("n", p, &xds.Nack{Type: resource.Route.String(), Resource: w.routeOf(p).Name, Message: "no such thing", Source: "mesh.yaml:1:1"})
}

func (w *waved) routeOf(p resource.Profile) *resource.Resource {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.scopes[w.has[p].Scope].Sets[resource.Route].All() {
		if strings.HasSuffix(r.Name, "api") {
			return r
		}
	}
	w.t.Fatal("there is no route")
	return nil
}

func TestAnEditThatAProxyRefusesIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 100)
		m := w.edit("2s")
		w.want("at once", "2s", 1)
		first := w.of("2s")[0]
		other := w.proxies[slices.IndexFunc(w.proxies, func(p resource.Profile) bool { return p != first })]
		w.refuse(other) // of what it had before
		w.want("when another refuses what it had", "2s", 1)
		w.refuse(first)
		w.want("when it refuses it", "1s", 100)
		w.wantBack("no such thing")
		time.Sleep(time.Hour)
		w.want("from then on", "1s", 100)
		if n := strings.Count(w.log.String(), "taken back"); n != 1 {
			t.Errorf("the log says %d times that it is taken back", n)
		}

		w.edit("3s")
		w.want("another edit", "3s", 1)
		w.want("another edit", "1s", 99)
		w.edit("1s")
		w.want("the last good file, again", "1s", 100)
		if is := w.loop.Status().Waves; is != nil {
			t.Errorf("with the last good file: %v", is)
		}

		w.edit("2s")
		w.refuse(w.of("2s")[0])
		w.wantBack("no such thing")
		w.mu.Lock()
		w.word = m.Revision
		w.mu.Unlock()
		time.Sleep(2 * waveLook)
		w.want("when somebody has said that it is meant", "2s", 100)
		if is := w.loop.Status().Waves; is != nil {
			t.Errorf("when it is meant: %v", is)
		}
	})
}

func TestAnEditIsTakenBackWhenAProxyThatHasItIsGone(t *testing.T) {
	for what, leave := range map[string]func(w *waved, all, without *resource.Fleet){
		"it does not come back": func(w *waved, _, without *resource.Fleet) {
			w.loop.SetFleet(without)
			time.Sleep(waveGone - time.Second)
			w.want("while it may come back", "2s", 0)
			if is := w.loop.Status().Waves; is == nil || is.Why != "" {
				w.t.Fatalf("while it may come back: %v", is)
			}
			time.Sleep(2 * time.Second)
		},
		"it goes again and again": func(w *waved, all, without *resource.Fleet) {
			for range 2 {
				w.loop.SetFleet(without)
				time.Sleep(time.Second)
				w.loop.SetFleet(all)
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWaved(t, 3)
				w.edit("2s")
				w.want("at once", "2s", 1)
				first := w.of("2s")[0]
				all := w.loop.Status().Snapshot.Input.Fleet
				w.mu.Lock()
				delete(w.has, first)
				w.mu.Unlock()
				leave(w, all, all.Update(nil, []resource.Profile{first}))
				w.wantBack("is gone")
				if is := w.loop.Status().Waves; is.Service != first.Service {
					t.Errorf("it names a proxy of %q, want %q", is.Service, first.Service)
				}
			})
		})
	}
	t.Run("a connection that is lost once is no reason", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := startWaved(t, 3)
			w.edit("2s")
			first := w.of("2s")[0]
			all := w.loop.Status().Snapshot.Input.Fleet
			w.loop.SetFleet(all.Update(nil, []resource.Profile{first}))
			time.Sleep(time.Second)
			w.loop.SetFleet(all.Update(nil, []resource.Profile{first}).Update([]resource.Profile{first}, nil))
			time.Sleep(time.Minute)
			w.want("at the end", "2s", 3)
		})
	})
	t.Run("one that leaves is no reason", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := startWaved(t, 3)
			w.edit("2s")
			first := w.of("2s")[0]
			w.mu.Lock()
			w.leaving = first
			w.mu.Unlock()
			time.Sleep(waveLook)
			w.want("when it leaves", "2s", 1)
			if w.of("2s")[0] == first {
				t.Error("no other one has it in its place")
			}
			w.loop.SetFleet(w.loop.Status().Snapshot.Input.Fleet.Update(nil, []resource.Profile{first}))
			w.mu.Lock()
			delete(w.has, first)
			w.mu.Unlock()
			time.Sleep(time.Minute)
			w.want("at the end", "2s", 2)
		})
	})
}

func TestAnEditThatIsNotAnsweredIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 3)
		w.fleet.be(silent)
		defer w.fleet.be(!silent)
		w.edit("2s")
		time.Sleep(wavePatience - time.Second)
		w.want("while it is waited for", "2s", 1)
		time.Sleep(2 * time.Second)
		w.want("after that", "1s", 3)
		w.wantBack("has not answered it")
	})
}

// What a proxy has refused on an earlier stream, or others have, is not sent again: then
// nobody refuses anything, and it is its status that tells.
func TestAnEditThatWasRefusedBeforeIsTakenBack(t *testing.T) {
	for what, of := range map[string]func(route, version string) xds.TypeStatus{
		"by itself": func(route, version string) xds.TypeStatus {
			return xds.TypeStatus{State: xds.Rejected, Refused: map[string]string{route: version}, LastNack: &xds.Nack{Resource: route, Message: "as before"}}
		},
		"by others": func(route, version string) xds.TypeStatus {
			return xds.TypeStatus{State: xds.Synced, Quarantined: []xds.Quarantined{{Name: route, Message: "as before"}}}
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWaved(t, 3)
				w.edit("2s")
				first := w.of("2s")[0]
				route := w.routeOf(first)
				w.mu.Lock()
				w.status = []xds.ProxyStatus{{Node: "n", Profile: first, Types: map[string]xds.TypeStatus{resource.Route.String(): of(route.Name, route.Version)}}}
				w.mu.Unlock()
				time.Sleep(10 * time.Second)
				w.want("at the end of the wave", "1s", 3)
				w.wantBack("as before")
			})
		})
	}
}

func TestEditsThatGoToAllProxiesAtOnce(t *testing.T) {
	for what, edit := range map[string]func(w *waved){
		"one that does not ask for waves": func(w *waved) {
			w.loop.SetMesh(mesh(w.t, strings.Replace(inWaves("2s"), "waves: true", "waves: false", 1)))
		},
		"one that is pinned": func(w *waved) { w.loop.SetPast(mesh(w.t, inWaves("2s")), time.Time{}) },
		"one that somebody has accepted": func(w *waved) {
			w.mu.Lock()
			w.word = mesh(w.t, inWaves("2s")).Revision
			w.mu.Unlock()
			w.edit("2s")
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWaved(t, 10)
				edit(w)
				w.want("at once", "2s", 10)
			})
		})
	}
	t.Run("one of mTLS, which has steps of its own", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := startWaved(t, 10)
			w.loop.SetMesh(mesh(t, strings.Replace(inWaves("2s"), "mtls: {enabled: false}", "mtls: {enabled: true}", 1)))
			w.want("at once", "2s", 10)
			time.Sleep(time.Minute)
			if is := w.loop.Status(); is.Waves != nil || !is.Mesh.MTLS.Enabled {
				t.Errorf("after it: %v", is.Waves)
			}
		})
	})
}

// After a start the fleet is not there yet: whom an edit concerns is not known.
func TestAnEditWaitsUntilTheFleetIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waved{t: t}
		l := NewLoop(slog.New(slog.DiscardHandler), func(*translate.Snapshot, xds.Snapshot) {}, answered)
		l.tryEdits(waves{
			acked:   func(ctx context.Context, _ func(string, resource.Profile) bool) <-chan struct{} { return answered(ctx) },
			proxies: func() []xds.ProxyStatus { return nil },
			leaves:  func(resource.Profile) bool { return false }, released: func(resource.Profile) bool { return false }, stopping: func() bool { return false }, meant: never,
		})
		run(t, l.Run)
		l.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("api", 80)}, nil))
		l.SetMesh(mesh(t, inWaves("1s")))
		synctest.Wait()
		l.SetMesh(mesh(t, inWaves("2s")))
		time.Sleep(waveFleet / 2)
		if is := l.Status().Waves; is == nil || is.Of != 0 {
			t.Errorf("before the fleet is back: %v", is)
		}
		l.SetFleet(resource.NewFleet(proxyNo(0), proxyNo(1), proxyNo(2)))
		time.Sleep(waveFleet + waveLook)
		if is := l.Status().Waves; is == nil || is.Has != 1 || is.Of != 3 {
			t.Errorf("when it is: %v", is)
		}
		_ = w
	})
}

// Whatever happens in whatever order, each proxy has been told of all that it has, and when
// nothing happens any more all have the newest file, or the last one before it.
func TestEveryHistoryOfWavesEndsWithOneFile(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 7), 1, 40).Draw(r, "steps")
		kinds := rapid.SliceOfN(rapid.IntRange(1, 30), len(steps), len(steps)).Draw(r, "kinds")
		synctest.Test(t, func(t *testing.T) {
			w := startWaved(t, 9)
			catalog := watch.NewCatalog().Update([]*watch.Service{service("api", 80)}, nil)
			fleet := resource.NewFleet(w.proxies...)
			newest := "1s"
			for i, step := range steps {
				k := kinds[i]
				switch step {
				case 0, 1:
					newest = fmt.Sprintf("%ds", 1+k%9)
					w.edit(newest)
				case 2:
					catalog = catalog.Update([]*watch.Service{service("api", 80), service(fmt.Sprintf("c%d", k%5), uint16(100+i))}, nil)
					w.loop.SetCatalog(catalog)
				case 3:
					catalog = catalog.Update(nil, []string{fmt.Sprintf("c%d", k%5)})
					w.loop.SetCatalog(catalog)
				case 4:
					fleet = fleet.Update([]resource.Profile{proxyNo(k % 12)}, nil)
					w.loop.SetFleet(fleet)
				case 5:
					fleet = fleet.Update(nil, []resource.Profile{proxyNo(k % 12)})
					w.loop.SetFleet(fleet)
				case 6:
					if p := proxyNo(k % 9); w.view(p) != nil {
						w.refuse(p)
					}
				case 7:
					time.Sleep(time.Duration(k) * time.Second)
				}
				synctest.Wait()
			}
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			is := w.loop.Status()
			if is.Waves != nil && is.Waves.Why == "" {
				t.Errorf("it does not end: %v", is.Waves)
			}
			if is.Waves == nil && w.files[is.Mesh.Revision] != newest {
				t.Errorf("all have %s, want %s", w.files[is.Mesh.Revision], newest)
			}
			for p := range fleet.Profiles() {
				if v := w.view(p); v == nil || strings.HasPrefix(v.Scope, "\x00") {
					t.Errorf("%v has %v at the end", p, v)
				}
			}
			if snapshot, ok := w.served.(*split); !ok || snapshot.tried != nil {
				t.Error("an edit is tried at the end")
			}
		})
	})
}

func (w *waved) view(p resource.Profile) *resource.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.has[p]
}

func TestTheSizesOfWaves(t *testing.T) {
	for n, want := range map[int][]int{1: {1}, 2: {1}, 3: {1}, 5: {1, 2}, 8: {1, 2}, 20: {1, 5}, 21: {1, 2, 6}, 1000: {1, 50, 250}} {
		if got := waveSizes(n); !slices.Equal(got, want) {
			t.Errorf("of %d proxies: %v, want %v", n, got, want)
		}
	}
}

func TestReplicasTryAnEditOneAfterTheOther(t *testing.T) {
	member := func(name, mesh string, edit *replica.Edit) replica.Member {
		return replica.Member{Name: name, Mesh: mesh, Edit: edit}
	}
	trying, idle, back := &replica.Edit{Revision: "new"}, &replica.Edit{Revision: "new", Idle: true}, &replica.Edit{Revision: "new", TakenBack: "refused"}
	for _, c := range []struct {
		what string
		v    *replica.View
		seen time.Duration
		turn bool
		by   string
		busy bool
	}{
		{"alone", &replica.View{Self: "a", Leads: true, Leader: "a", Members: []replica.Member{member("a", "old", nil)}}, 0, true, "", false},
		{"the leader", &replica.View{Self: "a", Leads: true, Leader: "a", Members: []replica.Member{member("a", "old", nil), member("b", "old", trying)}}, 0, true, "", true},
		{"the leader tries it", &replica.View{Self: "b", Leader: "a", Members: []replica.Member{member("a", "old", trying), member("b", "old", trying)}}, time.Hour, false, "", true},
		{"it concerns nobody at the leader", &replica.View{Self: "b", Leader: "a", Members: []replica.Member{member("a", "old", idle), member("b", "old", trying)}}, 0, true, "", false},
		{"the leader has it", &replica.View{Self: "b", Leader: "a", Members: []replica.Member{member("a", "new", nil), member("b", "old", trying)}}, 0, true, "", false},
		{"the leader has not heard of it", &replica.View{Self: "b", Leader: "a", Members: []replica.Member{member("a", "old", nil), member("b", "old", nil)}}, 0, false, "", false},
		{"nor does it ever", &replica.View{Self: "b", Leader: "a", Members: []replica.Member{member("a", "old", nil), member("b", "old", nil)}}, waveLeader, true, "", false},
		{"another has taken it back", &replica.View{Self: "a", Leads: true, Leader: "a", Members: []replica.Member{member("a", "old", trying), member("b", "old", back)}}, 0, false, "b", false},
		{"another has taken another one back", &replica.View{Self: "a", Leads: true, Leader: "a", Members: []replica.Member{member("a", "old", trying), member("b", "old", &replica.Edit{Revision: "x", TakenBack: "refused"})}}, 0, true, "", false},
		{"it does not know of the others", &replica.View{Self: "b", Trouble: "consul is away", Leader: "a", Members: []replica.Member{member("a", "old", trying)}}, 0, true, "", false},
	} {
		if is := editOfOthers(c.v, "new", c.seen); is.turn != c.turn || is.by != c.by || is.busy != c.busy {
			t.Errorf("%s: %+v; want turn %v, taken back by %q, busy %v", c.what, is, c.turn, c.by, c.busy)
		}
	}

	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		turn, by := false, ""
		w := startWaved(t, 3, func(o *waves) {
			o.others = func(string, time.Duration) editElsewhere {
				mu.Lock()
				defer mu.Unlock()
				return editElsewhere{turn: turn, by: by, why: "it has"}
			}
		})
		w.edit("2s")
		time.Sleep(time.Minute)
		w.want("while it is another's turn", "1s", 3)
		mu.Lock()
		turn = true
		mu.Unlock()
		time.Sleep(waveLook)
		w.want("when it is its turn", "2s", 1)
		mu.Lock()
		by = "b"
		mu.Unlock()
		time.Sleep(waveLook)
		w.want("when another has taken it back", "1s", 3)
		w.wantBack("it has")
		if is := w.loop.Status().Waves; editForPeers(is) != nil {
			t.Errorf("it tells the others %v", editForPeers(is))
		}
	})
}
