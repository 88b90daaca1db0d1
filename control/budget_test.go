package control

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// budgeted runs a loop with one proxy that calls all, and the words of operators.
type budgeted struct {
	t     *testing.T
	loop  *Loop
	words *Revisions
	log   *bytes.Buffer

	mu  sync.Mutex
	got []*translate.Snapshot
}

func withBudget(t *testing.T) *budgeted {
	b := &budgeted{t: t, words: NewRevisions(t.TempDir()), log: new(bytes.Buffer)}
	b.loop = NewLoop(slog.New(slog.NewTextHandler(b.log, nil)), b.publish, answered)
	b.loop.askGrowth(b.words.Meant, func(id string) bool { return b.words.Meant(id) && b.words.Used(id) == nil })
	b.loop.SetMesh(mesh(t, plain))
	b.loop.SetFleet(resource.NewFleet(resource.Profile{Service: "web"}))
	return b
}

func (b *budgeted) publish(s *translate.Snapshot, _ xds.Snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, s)
}

// published returns the snapshots so far, oldest first.
func (b *budgeted) published() []*translate.Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

func (b *budgeted) newest() *translate.Snapshot {
	got := b.published()
	return got[len(got)-1]
}

func (b *budgeted) set(c *watch.Catalog) *watch.Catalog {
	b.loop.SetCatalog(c)
	synctest.Wait()
	return c
}

func (b *budgeted) last() *watch.Catalog { return b.newest().Input.Catalog }

// wantHeld returns what is held, in which the words are.
func (b *budgeted) wantHeld(kept, what string) *Excess {
	b.t.Helper()
	synctest.Wait()
	s := b.loop.Status()
	if s.Excess == nil || s.Excess.Kept != kept || !strings.Contains(s.Excess.what, what) || s.Behind.IsZero() {
		b.t.Fatalf("held: %v, behind since %v; want the last %s, for it is %s", s.Excess, s.Behind, kept, what)
	}
	return s.Excess
}

func (b *budgeted) wantNothingHeld() {
	b.t.Helper()
	synctest.Wait()
	if s := b.loop.Status(); s.Excess != nil || !s.Behind.IsZero() {
		b.t.Fatalf("held: %v, behind since %v", s.Excess, s.Behind)
	}
}

// many are so many services, each with a name of its own by the prefix.
func many(prefix string, n int) (all []*watch.Service) {
	for i := range n {
		all = append(all, service(fmt.Sprintf("%s-%05d", prefix, i), 1000))
	}
	return all
}

// withInstances is a service of so many, each of which has an address of its own.
func withInstances(name string, n int) *watch.Service {
	s := &watch.Service{Name: name}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		s.Instances = append(s.Instances, &watch.Instance{ID: fmt.Sprint(name, i), Address: addr, Port: 1000, MeshPort: 1001, Weight: 1})
	}
	return s
}

func TestACatalogThatGrowsMuchIsHeldAndWhatLeavesItIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBudget(t)
		run(t, b.loop.Run)
		small := b.set(watch.NewCatalog().Update(append(many("a", 50), withInstances("moves", 1)), nil))

		large := b.set(small.Update(many("b", 9000), nil))
		e := b.wantHeld("services that are new or have doubled", "over twice as much")
		if b.last().Len() != 51 {
			t.Fatalf("%d services are served, want the 51 of before", b.last().Len())
		}
		// What was there goes on: an instance that has moved, one that is gone, and a
		// service that has one more.
		moved := withInstances("moves", 2)
		next := b.set(large.Update([]*watch.Service{moved}, []string{"a-00007"}))
		if c := b.last(); c.Service("moves") != moved || c.Service("a-00007") != nil || c.Len() != 50 {
			t.Errorf("of %d services, moves has %d instances", c.Len(), len(c.Service("moves").Instances))
		}
		if again := b.wantHeld(e.Kept, "over twice"); again.ID != e.ID {
			t.Errorf("it is said to be another one: %s, and was %s", again.ID, e.ID)
		}
		if n := strings.Count(b.log.String(), "grown too much"); n != 1 {
			t.Errorf("said %d times", n)
		}
		published := len(b.published())
		time.Sleep(3 * growthWindow)
		b.wantHeld(e.Kept, "over twice")
		if n := len(b.published()) - published; n > 4 {
			t.Errorf("published %d times while nothing changed", n)
		}

		// It takes it back.
		b.set(next.Update(nil, names(many("b", 9000))))
		time.Sleep(askBudget)
		synctest.Wait()
		b.wantNothingHeld()
		if b.last().Len() != 50 {
			t.Errorf("%d services, want 50", b.last().Len())
		}
		b.set(b.last().Update(many("c", 3), nil))
		b.wantNothingHeld()
	})
}

// A service that has doubled has as many instances as it had: those of them that live, and
// others in the place of those that do not.
func TestWhileGrowthIsHeldNobodyCallsWhoIsGone(t *testing.T) {
	was := watch.NewCatalog().Update([]*watch.Service{withInstances("db", 10), service("web", 80)}, nil)
	grown := withInstances("db", 1000)
	grown.Instances = grown.Instances[4:] // four have gone
	grown.Instances[0] = &watch.Instance{ID: grown.Instances[0].ID, Address: grown.Instances[0].Address, Port: 1000, MeshPort: 1001, Weight: 1, Health: watch.Critical}
	is := was.Update(append(many("new", 3), grown), nil)

	got := withoutGrowth(was, is)
	served := got.Service("db").Instances
	if !slices.Equal(served, grown.Instances[:10]) || got.Len() != 2 {
		t.Errorf("%d services; of db %d instances are served, the first %v", got.Len(), len(served), served[0])
	}
	if again := withoutGrowth(got, is); again != got {
		t.Error("it changes though nothing has")
	}

	others := withInstances("db", 1000)
	others.Instances = others.Instances[500:] // all of before have gone
	if got := withoutGrowth(was, is.Update([]*watch.Service{others}, nil)).Service("db").Instances; !slices.Equal(got, others.Instances[:10]) {
		t.Errorf("of a service whose instances were all replaced %d are served", len(got))
	}
}

func names(services []*watch.Service) (all []string) {
	for _, s := range services {
		all = append(all, s.Name)
	}
	return all
}

func TestGrowthThatIsMeantComesIntoForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBudget(t)
		run(t, b.loop.Run)
		small := b.set(watch.NewCatalog().Update(many("a", 50), nil))
		large := b.set(small.Update(many("b", 9000), nil))
		e := b.wantHeld("services that are new or have doubled", "9050 clusters, and has")
		if err := b.words.Mean(strings.Repeat("0", len(e.ID))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * askBudget)
		synctest.Wait()
		b.wantHeld(e.Kept, "9050 clusters")
		if err := b.words.Mean(e.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(askBudget)
		synctest.Wait()
		b.wantNothingHeld()
		if b.last() != large {
			t.Errorf("%d services are served, want %d", b.last().Len(), large.Len())
		}
		if b.words.Meant(e.ID) {
			t.Error("the word is not used up")
		}
		b.set(large.Update(many("c", 1000), nil)) // by the measure of what is in force now
		b.wantNothingHeld()
	})
}

func TestAMeshThatIsSmallOrGrowsSlowlyIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBudget(t)
		run(t, b.loop.Run)
		c := b.set(watch.NewCatalog().Update(many("a", 3), nil))
		c = b.set(c.Update(many("a", 30), nil))
		b.wantNothingHeld()
		c = b.set(c.Update(append(many("b", 2000), withInstances("large", 2000)), nil))
		b.wantNothingHeld()
		for n := 4000; n <= 19000; n += 2000 {
			time.Sleep(growthWindow)
			c = b.set(c.Update(many("b", n), nil))
			b.wantNothingHeld()
		}
		if b.last() != c {
			t.Error("what is served is not the newest")
		}
	})
}

func TestGrowthInStepsCountsAsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBudget(t)
		run(t, b.loop.Run)
		c := b.set(watch.NewCatalog().Update(many("a", 3000), nil))
		for n := 1000; n <= 9000; n += 1000 {
			time.Sleep(time.Second)
			c = b.set(c.Update(many("b", n), nil))
		}
		b.wantHeld("services that are new or have doubled", "over twice as much")
		if n := b.last().Len(); n < 3000 || n > 9000 {
			t.Errorf("%d services are served", n)
		}
	})
}

func TestMoreThanWasMeasuredIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBudget(t)
		run(t, b.loop.Run)
		c := b.set(watch.NewCatalog().Update(many("a", maxProxyClusters-10), nil))
		b.wantNothingHeld()
		c = b.set(c.Update(many("b", 9), nil))
		b.wantNothingHeld()
		c = b.set(c.Update(many("c", 5), nil))
		b.wantHeld("services that are new or have doubled", "over 20000 clusters")
		c = b.set(c.Update(nil, names(many("b", 9))))
		time.Sleep(askBudget)
		synctest.Wait()
		b.wantNothingHeld()
		if b.last() != c {
			t.Error("what is served is not the newest")
		}
	})
}

// A bound that was passed by a word, or at the start, holds nothing again until what is
// served was far below it.
func TestABoundThatWasPassedIsNoNewsNearIt(t *testing.T) {
	for _, how := range []string{"by a word", "at the start"} {
		synctest.Test(t, func(t *testing.T) {
			b := withBudget(t)
			run(t, b.loop.Run)
			near := watch.NewCatalog().Update(many("a", maxProxyClusters-1), nil)
			over := near.Update(many("b", 2), nil)
			if how == "by a word" {
				b.set(near)
				b.set(over)
				if err := b.words.Mean(b.wantHeld("services that are new or have doubled", "over 20000 clusters").ID); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * askBudget)
			} else {
				b.set(over)
			}
			synctest.Wait()
			b.wantNothingHeld()
			b.set(over.Update(nil, names(many("b", 2))))
			time.Sleep(2 * growthWindow)
			if b.set(over); b.last() != over {
				t.Fatalf("passed %s, it is held again: %v", how, b.loop.Status().Excess)
			}
			time.Sleep(2 * growthWindow)
			b.set(over.Update(nil, names(many("a", maxProxyClusters/9))))
			b.wantNothingHeld()
			time.Sleep(2 * growthWindow)
			b.set(over)
			b.wantHeld("services that are new or have doubled", "over 20000 clusters")
		})
	}
}

// It is better than nothing.
func TestTheFirstSnapshotIsServedHoweverLargeItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBudget(t)
		run(t, b.loop.Run)
		c := b.set(watch.NewCatalog().Update(many("a", maxProxyClusters+1), nil))
		b.wantNothingHeld()
		if len(b.published()) != 1 || !strings.Contains(b.log.String(), "more than the control plane was measured with") {
			t.Errorf("%d snapshots, log %s", len(b.published()), b.log)
		}
		// Nor does it hold up what comes later.
		b.set(c.Update([]*watch.Service{service("b", 1)}, nil))
		b.wantNothingHeld()
	})
}

func TestAnEditThatMakesMuchIsHeldAndTheCatalogGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBudget(t)
		run(t, b.loop.Run)
		c := b.set(watch.NewCatalog().Update(many("a", 4000), nil))
		good := b.loop.Status().Mesh
		b.loop.SetMesh(mesh(t, strings.Replace(plain, "name: datapunk", "name: datapunk, services: {web: {upstreams: []}}", 1)))
		synctest.Wait()
		b.wantNothingHeld()
		b.loop.SetMesh(good) // to all 4,000 from none: another scope
		synctest.Wait()
		b.wantNothingHeld() // 7 MB are under the floor
		b.loop.SetMesh(mesh(t, strings.Replace(plain, "name: datapunk", "name: datapunk, services: {web: {upstreams: []}}", 1)))
		synctest.Wait()
		few := b.loop.Status().Mesh
		c = b.set(c.Update(many("b", 4000), nil))
		b.loop.SetMesh(good)
		synctest.Wait()
		b.wantHeld("mesh file", "a proxy of web would be told")
		if b.loop.Status().Mesh != few {
			t.Error("the edit is in force")
		}
		c = b.set(c.Update([]*watch.Service{service("a-00001", 7777)}, nil))
		if b.last() != c {
			t.Error("the catalog does not go on")
		}
		b.wantHeld("mesh file", "a proxy of web would be told")
		b.loop.SetMesh(few)
		time.Sleep(askBudget)
		synctest.Wait()
		b.wantNothingHeld()
	})
}

// A proxy that comes is served what there is for it.
func TestANewProxyIsServedHoweverMuchItCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBudget(t)
		b.loop.SetFleet(resource.NewFleet())
		run(t, b.loop.Run)
		b.set(watch.NewCatalog().Update(many("a", 8000), nil))
		b.loop.SetFleet(resource.NewFleet(resource.Profile{Service: "web"}))
		synctest.Wait()
		b.wantNothingHeld()
		if b.newest().View(resource.Profile{Service: "web"}) == nil {
			t.Error("it is not served")
		}
	})
}

// An edit that turns mTLS on and makes much: once it is meant, the fleet takes the steps,
// for none of them was published while it was held.
func TestAHeldEditTakesTheStepsOfMTLSWhenItComesIntoForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBudget(t)
		b.loop.SetMesh(mesh(t, strings.Replace(plain, "name: datapunk", "name: datapunk, services: {web: {upstreams: []}}", 1)))
		run(t, b.loop.Run)
		b.set(watch.NewCatalog().Update(many("a", 9000), nil))
		b.loop.SetMesh(mesh(t, strict))
		synctest.Wait()
		b.wantHeld("mesh file", "over twice as much")
		time.Sleep(10 * stagePatience)
		e := b.wantHeld("mesh file", "over twice as much")
		if b.loop.Status().Mesh.MTLS.Enabled {
			t.Fatal("the edit is in force")
		}
		if err := b.words.Mean(e.ID); err != nil {
			t.Fatal(err)
		}
		before := len(b.published())
		time.Sleep(askBudget + 10*stageCalm)
		synctest.Wait()
		b.wantNothingHeld()
		var stages []translate.Stage
		for _, s := range b.published()[before:] {
			stages = append(stages, s.Input.Stage)
		}
		if want := []translate.Stage{translate.Listening, translate.Calling, translate.Settled}; !slices.Equal(stages, want) {
			t.Errorf("published stages %v, want %v", stages, want)
		}
	})
}
