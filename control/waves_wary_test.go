package control

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// kill takes a proxy out of the fleet, and returns that.
func (w *waved) kill(p resource.Profile) *resource.Fleet {
	w.mu.Lock()
	delete(w.has, p)
	w.mu.Unlock()
	without := w.loop.Status().Snapshot.Input.Fleet.Update(nil, []resource.Profile{p})
	w.loop.SetFleet(without)
	synctest.Wait()
	return without
}

func (w *waved) editWithBake(timeout, bake string) {
	m := mesh(w.t, strings.Replace(inWaves(timeout), "waves: true", "waves: true, bake: "+bake, 1))
	w.files[m.Revision] = timeout
	w.loop.SetMesh(m)
	synctest.Wait()
}

// A stream that ends holds up no barrier: whether those that have the edit live is asked
// when a wave ends, too.
func TestAProxyThatDiesAtAnyMomentTakesTheEditBack(t *testing.T) {
	for _, c := range []struct {
		bake  string
		after time.Duration
	}{{"1s", 0}, {"1s", 900 * time.Millisecond}, {"10s", 6 * time.Second}, {"10s", 9900 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			w := startWaved(t, 4)
			w.editWithBake("2s", c.bake)
			time.Sleep(c.after)
			w.kill(w.of("2s")[0])
			time.Sleep(waveGone + waveLook)
			w.wantBack("is gone")
			time.Sleep(time.Hour)
			w.want("for good", "2s", 0)
		})
	}
	// One that is back in time has to live with it as long as the others.
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 4)
		w.edit("2s")
		first := w.of("2s")[0]
		time.Sleep(9 * time.Second)
		without := w.kill(first)
		time.Sleep(2 * time.Second)
		w.loop.SetFleet(without.Update([]resource.Profile{first}, nil))
		time.Sleep(9 * time.Second)
		w.want("while it lives with it again", "2s", 1)
		time.Sleep(2 * time.Second)
		w.want("then", "2s", 4)
	})
	// One that dies again and again need not do so within five seconds.
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 4)
		w.editWithBake("2s", "1h")
		first := w.of("2s")[0]
		for range 2 {
			time.Sleep(29 * time.Minute)
			without := w.kill(first)
			time.Sleep(time.Second)
			w.loop.SetFleet(without.Update([]resource.Profile{first}, nil))
			synctest.Wait()
		}
		if is := w.loop.Status().Waves; is == nil || is.Why != "" {
			t.Errorf("a connection that ends each half an hour: %v", is)
		}
	})
}

func TestATakeBackIsCarriedOutWhateverTheLoopWakesFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 100)
		w.edit("2s")
		time.Sleep(10*time.Second + 300*time.Millisecond)
		w.want("the second wave", "2s", 5)
		w.kill(w.of("2s")[0])
		for range 100 {
			time.Sleep((waveGone + waveLook) / 100)
			w.loop.look() // what the replicas do when they hear of each other
		}
		w.want("when one is gone", "2s", 0)
		w.wantBack("is gone")
	})
}

func TestAnEditThatConcernsOneProxyIsTriedThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 1)
		w.edit("2s")
		w.want("at once", "2s", 1)
		w.refuse(w.proxies[0])
		w.want("when it refuses it", "1s", 1)
		w.wantBack("no such thing")
		w.edit("3s")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if is := w.loop.Status(); is.Waves != nil || w.files[is.Mesh.Revision] != "3s" {
			t.Errorf("another edit: %v", is.Waves)
		}
	})
}

// The catalog comes a minute after the start, the fleet two seconds after that; or there is
// a catalog, and the fleet comes when the control plane has been there for half a minute.
func TestAFleetThatComesBackLateIsWaitedFor(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := startWaved(t, 0, func(*waves) {
				if late {
					time.Sleep(time.Minute)
				}
			})
			for i := range 100 {
				w.proxies = append(w.proxies, proxyNo(i))
			}
			w.edit("2s")
			time.Sleep(2 * time.Second)
			w.loop.SetFleet(resource.NewFleet(w.proxies[:2]...))
			time.Sleep(2 * time.Second)
			w.loop.SetFleet(resource.NewFleet(w.proxies...))
			time.Sleep(waveFleet - time.Second)
			w.want("while more may come", "1s", 100)
			time.Sleep(2 * time.Second)
			w.want("then", "2s", 1)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 0)
		m := w.edit("2s")
		time.Sleep(waveFleets)
		synctest.Wait()
		if is := w.loop.Status(); is.Waves != nil || is.Mesh != m {
			t.Errorf("without a proxy: %v", is.Waves)
		}
	})
}

// The watcher reads the file of the disk before there is a catalog, as a rule.
func TestAStartServesTheLastFileThoughTheNextIsThereBeforeTheCatalog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 10)
		l := NewLoop(slog.New(slog.DiscardHandler), w.publish, answered)
		l.tryEdits(w.options())
		w.loop = l
		l.start(mesh(t, inWaves("4s")))
		next := mesh(t, inWaves("5s"))
		w.files[next.Revision] = "5s"
		l.SetMesh(next)
		run(t, l.Run)
		l.SetFleet(resource.NewFleet(w.proxies...))
		l.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("api", 80)}, nil))
		w.want("at first", "4s", 10)
		time.Sleep(waveFleet + waveLook)
		w.want("when the fleet is back", "5s", 1)
	})
}

// A replica without a proxy that an edit concerns waits until the others have tried it, and
// makes nothing of it meanwhile.
func TestAnEditThatConcernsNobodyHereWaitsForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		others := editElsewhere{turn: true, busy: true}
		w := startWaved(t, 10, func(o *waves) {
			o.others = func(string, time.Duration) editElsewhere {
				mu.Lock()
				defer mu.Unlock()
				return others
			}
		})
		before := w.made.Load()
		m := mesh(t, strings.Replace(inWaves("1s"), "name: datapunk", "name: datapunk, version: '2'", 1))
		w.loop.SetMesh(m)
		time.Sleep(time.Minute)
		synctest.Wait()
		if is := w.loop.Status(); is.Waves == nil || !is.Waves.Idle || w.made.Load()-before > 70 {
			t.Errorf("while others try it: %v, %d snapshots", is.Waves, w.made.Load()-before)
		}
		if told := editForPeers(w.loop.Status().Waves); told == nil || !told.Idle {
			t.Errorf("it tells the others %+v", told)
		}
		mu.Lock()
		others.busy = false
		mu.Unlock()
		time.Sleep(2 * waveLook)
		synctest.Wait()
		if is := w.loop.Status(); is.Waves != nil || is.Mesh != m {
			t.Errorf("when they have it: %v", is.Waves)
		}
	})
}

func TestWhichNacksTakeAnEditBack(t *testing.T) {
	for _, c := range []struct {
		what string
		nack func(route string) *xds.Nack
		back bool
	}{
		{"alone", func(r string) *xds.Nack { return &xds.Nack{Resource: r} }, true},
		{"with others, and each is sent again by itself", func(r string) *xds.Nack { return &xds.Nack{Resources: []string{r, "other"}} }, false},
		{"with others, and nothing is sent again", func(r string) *xds.Nack { return &xds.Nack{Resources: []string{"other", r}, Final: true} }, true},
		{"for its own machine", func(r string) *xds.Nack { return &xds.Nack{Resource: r, Cause: "address_in_use"} }, false},
		{"of what the edit does not change", func(string) *xds.Nack { return &xds.Nack{Resource: "inbound"} }, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := startWaved(t, 20)
			w.edit("2s")
			first := w.of("2s")[0]
			n := c.nack(w.routeOf(first).Name)
			n.Type, n.Message = resource.Route.String(), "no"
			w.loop.Nacked("n", first, n)
			synctest.Wait()
			if is := w.loop.Status().Waves; (is.Why != "") != c.back {
				t.Errorf("%s: %v", c.what, is)
			}
		})
	}
	// What a proxy has refused of an earlier edit, and takes now, is no reason, whatever else
	// it refuses.
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 3)
		w.edit("2s")
		first := w.of("2s")[0]
		route := w.routeOf(first).Name
		w.mu.Lock()
		w.status = []xds.ProxyStatus{{Node: "n", Profile: first, Types: map[string]xds.TypeStatus{resource.Route.String(): {
			State: xds.Rejected, LastNack: &xds.Nack{Resource: route}, Refused: map[string]string{"other": "1", route: "of an earlier edit"},
		}}}}
		w.mu.Unlock()
		time.Sleep(11 * time.Second)
		w.want("after the wave", "2s", 3)
	})
}

// Of a proxy that was not well before, it is not known what becomes of the edit there.
func TestProxiesThatAreNotWellHaveAnEditLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 10)
		w.mu.Lock()
		for i, p := range w.proxies[:8] {
			state := []xds.State{xds.Rejected, xds.Pending}[i%2]
			w.status = append(w.status, xds.ProxyStatus{Profile: p, Types: map[string]xds.TypeStatus{resource.Listener.String(): {State: state}}})
		}
		w.mu.Unlock()
		w.edit("2s")
		w.want("at once", "2s", 1)
		if p := w.of("2s")[0]; p != w.proxies[8] && p != w.proxies[9] {
			t.Errorf("%v has it first, which is not well", p)
		}
		time.Sleep(10 * time.Second)
		w.want("then", "2s", 10)
	})
}

func TestAnEditThatMakesTooMuchIsTriedByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 20)
		catalog := watch.NewCatalog().Update([]*watch.Service{service("api", 80)}, nil)
		size := func(n int) int {
			s := translate.Translate(nil, translate.Input{Mesh: mesh(t, inWaves("1s")), Catalog: catalog.Update(many("a", n), nil), Fleet: resource.NewFleet(w.proxies...)})
			return sizeOf(&s.Scope(s.View(w.proxies[0]).Scope).Sets).bytes
		}
		n := (muchGrowth - 40<<10) / ((size(1000) - size(0)) / 1000)
		w.loop.SetCatalog(catalog.Update(many("a", n), nil)) // nearly too much for a minute
		synctest.Wait()
		next := mesh(t, strings.Replace(inWaves("2s"), "policies: {", "load_balancing: {health_checks: {protocol: http, path: /a-rather-long-path-of-a-health-check, interval: 10s}}, policies: {", 1))
		w.loop.SetMesh(next)
		w.wantBack("too much")
		time.Sleep(time.Hour)
		w.want("from then on", "2s", 0)
	})
}

func TestAnEditThatCannotBePublishedIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWaved(t, 20)
		w.mu.Lock()
		w.panics = true
		w.mu.Unlock()
		w.edit("2s")
		time.Sleep(time.Minute)
		w.wantBack("cannot be published")
		if w.panicked != 1 {
			t.Errorf("it was tried %d times", w.panicked)
		}
		w.want("then", "1s", 20)
	})
}

// While this control plane stops, its proxies go to others, and that says nothing of an edit.
func TestWhileTheControlPlaneStopsNothingIsTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stops atomic.Bool
		w := startWaved(t, 20, func(o *waves) { o.stopping = stops.Load })
		w.edit("2s")
		w.want("at once", "2s", 1)
		stops.Store(true)
		fleet := w.loop.Status().Snapshot.Input.Fleet
		for _, p := range w.proxies[:15] {
			fleet = fleet.Update(nil, []resource.Profile{p})
			w.loop.SetFleet(fleet)
			time.Sleep(time.Second)
		}
		if is := w.loop.Status().Waves; is == nil || is.Why != "" {
			t.Errorf("%v", is)
		}
		if n := strings.Count(w.log.String(), "in waves"); n != 1 {
			t.Errorf("it has begun %d times", n)
		}
	})
}

// planeWithWaves is a control plane that runs nothing but its loop, and a file of which it
// is made.
func planeWithWaves(t *testing.T, dir, text string) *Plane {
	t.Helper()
	file := filepath.Join(dir, "mesh.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	p, err := New(t.Context(), Options{
		Log: quiet, ClientLog: quiet, Metrics: prometheus.NewRegistry(), Files: []string{file}, DataDir: filepath.Join(dir, "data"),
		XDSAddress: "unix:none", Catalog: "file:" + filepath.Join(dir, "catalog.yaml"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// An edit that waits for its proxies is in force nowhere: not in what HDS tells, nor in
// what Prometheus and operators are told.
func TestWhatIsNotInASnapshotWaitsWithTheEdit(t *testing.T) {
	p := planeWithWaves(t, t.TempDir(), "mesh: {name: datapunk, edits: {waves: true}}")
	run(t, p.loop.Run)
	p.loop.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("api", 80)}, nil))
	p.loop.SetFleet(resource.NewFleet(proxyNo(0), proxyNo(1), proxyNo(2)))
	for p.loop.Status().Snapshot == nil {
		time.Sleep(time.Millisecond)
	}
	next := mesh(t, "mesh: {name: datapunk, edits: {waves: true}, telemetry: {metrics: {port: 9199}}, services: {api: {health_check: {http: /typo}}}}")
	if err := p.adopt(next, time.Now()); err != nil {
		t.Fatal(err)
	}
	for p.loop.Status().Waves == nil {
		time.Sleep(time.Millisecond)
	}
	if c := p.serving().Service("api").AppCheck; c != nil {
		t.Errorf("HDS tells of %v", c)
	}
	if s := p.Scrape(); s.Port == 9199 {
		t.Error("Prometheus is told of the port")
	}
	c := &checklist{}
	p.checkMesh(c)
	if is := p.Status().Mesh; !strings.Contains(c.all[0].Message, "is served to most") || is.Revision == next.Revision || is.Waves == nil || is.Waves.Revision != next.Revision {
		t.Errorf("operators are told %q, %+v", c.all[0].Message, is)
	}
}

// What an edit opens is opened to what is in force, and not to an edit that waits, or that was
// taken back: a plan says so as the watcher does.
func TestAPlanIsOfTheFileInForce(t *testing.T) {
	p := planeWithWaves(t, t.TempDir(), "mesh: {name: datapunk, edits: {waves: true}, security: {authorization: {policies: [{name: a, action: ALLOW, sources: [web]}]}}}")
	run(t, p.loop.Run)
	p.loop.SetCatalog(watch.NewCatalog().Update([]*watch.Service{service("api", 80)}, nil))
	p.loop.SetFleet(resource.NewFleet(proxyNo(0), proxyNo(1)))
	for p.loop.Status().Snapshot == nil {
		time.Sleep(time.Millisecond)
	}
	const open = "mesh: {name: datapunk, edits: {waves: true}, security: {authorization: {enabled: false}}}"
	if err := p.adopt(mesh(t, open), time.Now()); err != nil {
		t.Fatal(err)
	}
	for p.loop.Status().Waves == nil {
		time.Sleep(time.Millisecond)
	}
	is, err := p.Plan(t.Context(), []api.File{{Name: "mesh.yaml", Content: open + "\n# again\n"}})
	if err != nil || !strings.Contains(is.Waits, "authorization is off") {
		t.Errorf("it waits for %q, %v", is.Waits, err)
	}
}

// A restart tries an edit too, also one that would wait for a word if it came now.
func TestARestartPutsNoEditIntoForceThatGoesInWaves(t *testing.T) {
	t.Parallel()
	services := func(n int) string {
		text := "mesh:\n  name: datapunk\n  edits: {waves: true}\n  version: '" + strconv.Itoa(n) + "'\n  services:\n"
		for i := range n {
			text += "    s" + strconv.Itoa(i) + ": {timeout: {request: 3s}}\n"
		}
		return text
	}
	for what, next := range map[string]string{"it changes something": services(20) + "    other: {}\n", "it removes much": services(3)} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := planeWithWaves(t, dir, services(20))
			last := p.mesh.Load().Revision
			if err := os.WriteFile(p.Files[0], []byte(next), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(policy.Rest + time.Second) // no edit is half written any more
			first, err := p.firstOfFile()
			if err != nil || first.Revision != last {
				t.Errorf("it starts with %v, %v; the last one was %s", first.Revision, err, last)
			}
		})
	}
}
