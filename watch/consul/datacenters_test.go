package consul

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/watch"
)

// several are datacenters of fakes.
type several struct {
	run
	all        *Datacenters
	own, other *fakeConsul
}

// startSeveral runs two datacenters within a synctest bubble.
func startSeveral(t *testing.T, own, other *fakeConsul) *several {
	t.Helper()
	return startKnown(t, true, own, other)
}

// startKnown is that with, or without, the knowledge of what was there before.
func startKnown(t *testing.T, known bool, own, other *fakeConsul) *several {
	t.Helper()
	s := &several{own: own, other: other}
	s.t, s.logs = t, new(bytes.Buffer)
	log := slog.New(slog.NewTextHandler(&locked{&s.mu, s.logs}, nil))
	fakes := map[string]*fakeConsul{"dc1": own, "dc2": other}
	var err error
	s.all, err = NewDatacenters(log, []string{"dc1", "dc2"}, known, func(name string, publish func(*watch.Catalog)) (*Source, error) {
		return newSource(t, fakes[name], Config{Datacenter: name}, Demand{MeshOnly: true}, log, publish), nil
	}, func(c *watch.Catalog) {
		_, _ = s.all.Status(), s.all.Unread("lake", "dc2") // who takes it asks at once
		s.mu.Lock()
		defer s.mu.Unlock()
		s.catalogs = append(s.catalogs, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.all.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return s
}

// lakes are the instances of lake, as id@datacenter.
func (s *several) lakes() string {
	s.t.Helper()
	if s.published() == 0 {
		s.t.Fatalf("nothing was published; status %+v", s.all.Status())
	}
	var all []string
	for _, i := range s.catalog().Service("lake").Instances {
		all = append(all, i.ID+"@"+i.Datacenter)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func noPath(*http.Request) (*http.Response, error) {
	return reply(500, "No path to datacenter", nil), nil
}

func TestDatacentersAreOneCatalog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		own, other := newFake(), newFake()
		own.set("lake", many(1)...)
		own.set("dome", many(2)...)
		other.set("lake", at1("10.1.0.1"))
		other.set("far", at1("10.1.0.2"))
		s := startSeveral(t, own, other)
		if n := s.published(); n != 1 {
			t.Errorf("the first state came in %d catalogs", n)
		}
		first := s.catalog()
		if got := s.lakes(); !strings.Contains(got, "@dc1") || !strings.Contains(got, "@dc2") || first.Len() != 3 {
			t.Errorf("lake is at %s, of %d services", got, first.Len())
		}

		other.set("lake", at1("10.1.0.1"), at1("10.1.0.3"))
		next := s.catalog()
		if changed, ok := next.ChangedSince(first); !ok || !slices.Equal(changed, []string{"lake"}) || next.Learned().IsZero() {
			t.Errorf("a change over there changes %v (%t)", changed, ok)
		}
		if next.Service("dome") != first.Service("dome") {
			t.Error("what did not change is another one")
		}
		other.set("far")
		time.Sleep(time.Minute) // the last one is confirmed
		if s := s.catalog().Service("far"); s != nil {
			t.Errorf("far is there: %+v", s)
		}
	})
}

// Networks that overlap: nobody could tell which of the two is called.
func TestOneAddressInTwoDatacenters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		own, other := newFake(), newFake()
		own.set("lake", at1("10.0.0.1"))
		other.set("lake", at1("10.0.0.1"))
		s := startSeveral(t, own, other)
		if lake := s.catalog().Service("lake"); len(lake.Instances) != 1 || len(lake.Excluded) != 1 {
			t.Errorf("%d instances, and left out are %v", len(lake.Instances), lake.Excluded)
		}
	})
}

// One that cannot be read at the start holds the mesh's own up for a few seconds, the
// mesh's own everybody; and nothing is said to be gone that was not read yet.
func TestADatacenterIsNotWaitedForForever(t *testing.T) {
	bubble(t, func(t *testing.T) {
		own, other := newFake(), newFake()
		own.set("lake", many(1)...)
		other.set("lake", at1("10.1.0.1"))
		other.hook = noPath
		s := startSeveral(t, own, other)
		time.Sleep(othersPatience - time.Second)
		if s.published() > 0 || s.all.Status().Ready {
			t.Error("ready without it, at once")
		}
		if !s.all.Unread("lake", "dc2") || s.all.Unread("lake", "dc1") || s.all.Unread("lake", "dc3") {
			t.Error("what was read, and what not")
		}
		time.Sleep(2 * time.Second)
		if got := s.lakes(); strings.Contains(got, "dc2") || !s.all.Status().Ready {
			t.Errorf("lake is at %s", got)
		}
		if got := fmt.Sprint(s.all.Status().Waiting); !strings.Contains(got, "datacenter dc2: list of services: 500 No path to datacenter") {
			t.Errorf("waiting for %s", got)
		}
		if got := s.logged(); !strings.Contains(got, "without the datacenters that cannot be read") || !strings.Contains(got, "datacenter=dc2 reason=") {
			t.Errorf("the log:\n%s", got)
		}
		other.fail(nil)
		time.Sleep(maxBackoff)
		if got := s.lakes(); !strings.Contains(got, "dc2") {
			t.Errorf("lake is at %s when it can be read", got)
		}
	})
	bubble(t, func(t *testing.T) {
		own, other := newFake(), newFake()
		other.set("lake", at1("10.1.0.1"))
		own.hook = noPath
		s := startSeveral(t, own, other)
		time.Sleep(time.Minute)
		if s.published() > 0 || s.all.Status().Ready {
			t.Error("ready without the mesh's own")
		}
		own.fail(nil)
		time.Sleep(maxBackoff)
		if got := s.lakes(); !strings.Contains(got, "dc2") {
			t.Errorf("lake is at %s", got)
		}
	})
}

// To who knows nothing of before a slow datacenter is worth a longer wait, which is said:
// a proxy that comes to it would lose that one's instances.
func TestWhoKnowsNothingWaitsLongerForADatacenter(t *testing.T) {
	for name, c := range map[string]struct {
		answers time.Duration // after so long
		both    bool
	}{"slow": {othersPatience + 5*time.Second, true}, "away": {time.Hour, false}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				own, other := newFake(), newFake()
				own.set("lake", many(1)...)
				other.set("lake", at1("10.1.0.1"))
				began := time.Now()
				other.hook = func(r *http.Request) (*http.Response, error) {
					select {
					case <-time.After(c.answers - time.Since(began)):
						return nil, nil
					case <-r.Context().Done():
						return nil, r.Context().Err()
					}
				}
				s := startKnown(t, false, own, other)
				time.Sleep(othersPatience + time.Second)
				if st := s.all.Status(); s.published() > 0 || st.Ready || !strings.Contains(fmt.Sprint(st.Waiting), "datacenter dc2: ") {
					t.Errorf("%d catalogs without it; status %+v", s.published(), st)
				}
				time.Sleep(newPatience - othersPatience)
				if got := s.lakes(); strings.Contains(got, "dc2") != c.both {
					t.Errorf("lake is at %s", got)
				}
				if n := s.published(); n != 1 {
					t.Errorf("%d catalogs", n)
				}
			})
		})
	}
}

// What is lost of one says nothing of the other: its last good instances stay, and its
// answers are said to be old, while the other's removals are taken as ever.
func TestADatacenterIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		own, other := newFake(), newFake()
		own.set("lake", many(4)...)
		other.set("lake", at1("10.1.0.1"), at1("10.1.0.2"))
		s := startSeveral(t, own, other)
		lost := time.Now()
		other.fail(noPath)
		other.set("lake") // what it has by now is not known
		own.set("lake", many(3)...)
		time.Sleep(5 * time.Minute)
		if n := len(s.catalog().Service("lake").Instances); n != 5 {
			t.Errorf("%d instances", n)
		}
		stats := s.all.Stats()
		if d := stats.Datacenters[0]; d.Name != "dc1" || !d.Ready || time.Since(d.Fresh) > time.Minute || stats.Fresh != d.Fresh {
			t.Errorf("the own: %+v", d)
		}
		if d := stats.Datacenters[1]; d.Name != "dc2" || d.Ready || d.Fresh.After(lost.Add(time.Minute)) {
			t.Errorf("the lost one: %+v", d)
		}
		if st := s.all.Status(); !st.Ready || len(st.Waiting) == 0 || time.Since(st.LastSuccess) > time.Minute {
			t.Errorf("%+v", st)
		}

		other.fail(nil) // it is back, and has lost all
		var removals []watch.Removal
		for began := time.Now(); len(removals) == 0 && time.Since(began) < time.Minute; synctest.Wait() {
			time.Sleep(100 * time.Millisecond)
			removals = s.all.Removals()
		}
		if len(removals) != 1 || !strings.HasPrefix(removals[0].Why, "datacenter dc2: ") || len(s.catalog().Service("lake").Instances) != 5 {
			t.Fatalf("held: %+v", removals)
		}
		if found, err := s.all.Decide(t.Context(), removals[0].ID, true); !found || err != nil {
			t.Errorf("accepted: %t, %v", found, err)
		}
		if n := len(s.catalog().Service("lake").Instances); n != 3 {
			t.Errorf("%d instances after it was accepted", n)
		}
	})
}

// The keys that are wanted of a node's metadata are in its instances, if their own have
// none; other keys are read when they are wanted.
func TestMetadataOfNodes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", at1("10.0.0.1", func(e *entry) { e.Node.Meta = map[string]string{"rack": "r1", "row": "w1", "other": "x"} }),
			at1("10.0.0.2", func(e *entry) {
				e.Node.Meta, e.Service.Meta["rack"] = map[string]string{"rack": "r2"}, "own"
			}))
		r := start(t, fake, Demand{MeshOnly: true, NodeMeta: []string{"rack"}})
		of := func() string {
			var all []string
			for _, i := range r.catalog().Service("lake").Instances {
				all = append(all, fmt.Sprint(i.NodeMeta))
			}
			return strings.Join(all, " ")
		}
		if got := of(); got != "map[rack:r1] map[]" {
			t.Errorf("%s", got)
		}
		r.SetDemand(Demand{MeshOnly: true, NodeMeta: []string{"row"}})
		if got := of(); got != "map[row:w1] map[]" {
			t.Errorf("%s, once another key is wanted", got)
		}
	})
}

// Two datacenters that lose the same addresses are two removals: a word on one is none
// on the other.
func TestRemovalsOfTwoDatacentersAreToldApart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		own, other := newFake(), newFake()
		own.set("lake", at1("10.0.0.1"), at1("10.0.0.2"))
		other.set("lake", at1("10.0.0.1"), at1("10.0.0.2"))
		s := startSeveral(t, own, other)
		own.set("lake")
		other.set("lake")
		var held []watch.Removal
		for began := time.Now(); len(held) < 2 && time.Since(began) < time.Minute; synctest.Wait() {
			time.Sleep(100 * time.Millisecond)
			held = s.all.Removals()
		}
		if len(held) != 2 || held[0].ID == held[1].ID {
			t.Fatalf("held: %+v", held)
		}
		if found, err := s.all.Decide(t.Context(), held[1].ID, false); !found || err != nil {
			t.Errorf("refused: %t, %v", found, err)
		}
		for _, r := range s.all.Removals() {
			if r.Refused != (r.ID == held[1].ID) {
				t.Errorf("%s is refused: %t", r.Why, r.Refused)
			}
		}
	})
}
