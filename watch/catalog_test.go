package watch_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"datapunk.dev/controlplane/watch"
)

func service(name string, ports ...uint16) *watch.Service {
	s := &watch.Service{Name: name}
	for _, port := range ports {
		s.Instances = append(s.Instances, &watch.Instance{
			ID: fmt.Sprintf("%s-%d", name, port), Address: netip.MustParseAddr("10.0.0.1"), Port: port, Weight: 1,
		})
	}
	return s
}

func names(c *watch.Catalog) []string {
	var names []string
	for s := range c.Services() {
		names = append(names, s.Name)
	}
	return names
}

func changed(t *testing.T, base, c *watch.Catalog) []string {
	t.Helper()
	set, ok := c.ChangedSince(base)
	if !ok {
		t.Fatal("not known what changed")
	}
	return slices.Compact(slices.Sorted(slices.Values(set)))
}

func TestUpdate(t *testing.T) {
	empty := watch.NewCatalog()
	one := empty.Update([]*watch.Service{service("lake", 1), service("dome", 1)}, nil)
	two := one.Update([]*watch.Service{service("lake", 1), service("stream", 1)}, []string{"dome", "never"})

	if got := names(one); !slices.Equal(got, []string{"dome", "lake"}) {
		t.Errorf("one has %v", got)
	}
	if got := names(two); !slices.Equal(got, []string{"lake", "stream"}) || two.Len() != 2 {
		t.Errorf("two has %v", got)
	}
	if two.Service("dome") != nil || two.Service("lake") != one.Service("lake") {
		t.Error("two does not share what it kept")
	}
	if got := changed(t, one, two); !slices.Equal(got, []string{"dome", "stream"}) {
		t.Errorf("changed: %v", got)
	}
	if two.Update([]*watch.Service{service("lake", 1)}, []string{"dome"}) != two {
		t.Error("no change made another catalog")
	}
	if empty.Len() != 0 {
		t.Error("an update changed its predecessor")
	}
}

func TestChangedSinceComparesWholeWhenItMust(t *testing.T) {
	one := watch.NewCatalog().Update([]*watch.Service{service("a", 1)}, nil)
	two := one.Update([]*watch.Service{service("b", 1)}, nil)
	three := two.Update([]*watch.Service{service("c", 1)}, nil)
	stranger := watch.NewCatalog().Update([]*watch.Service{service("a", 1)}, nil)

	for name, base := range map[string]*watch.Catalog{"nil": nil, "of another lineage": stranger} {
		if _, ok := three.ChangedSince(base); ok {
			t.Errorf("a base that is %s: the changes are said to be known", name)
		}
	}
	if got := changed(t, three, three); len(got) != 0 {
		t.Errorf("changed since itself: %v", got)
	}
}

// Whatever a reader skips, the names that it is told cover every difference.
func TestChangesCoverDifferences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		latest := watch.NewCatalog()
		read := latest
		for range rapid.IntRange(1, 20).Draw(t, "updates") {
			next := latest.Update(
				[]*watch.Service{service(name.Draw(t, "put"), rapid.Uint16Range(1, 3).Draw(t, "port"))},
				rapid.SliceOfN(name, 0, 2).Draw(t, "remove"),
			)
			latest = next
			set, ok := latest.ChangedSince(read)
			if !ok {
				t.Fatal("twenty steps behind, and the changes are not known")
			}
			for _, n := range []string{"a", "b", "c", "d"} {
				if !slices.Contains(set, n) && latest.Service(n) != read.Service(n) {
					t.Fatalf("%s differs and the reader is not told", n)
				}
			}
			if rapid.Bool().Draw(t, "read") {
				read = latest
			}
		}
	})
}

func TestDistinct(t *testing.T) {
	at := func(id, addr string, port uint16, h watch.Health) *watch.Instance {
		return &watch.Instance{ID: id, Address: netip.MustParseAddr(addr), Port: port, Health: h}
	}
	got := watch.Distinct([]*watch.Instance{
		at("c", "10.0.0.2", 80, watch.Passing),
		at("b", "10.0.0.1", 80, watch.Critical),
		at("z", "10.0.0.1", 80, watch.Warning), // the same place as b, and better
		at("y", "10.0.0.1", 79, watch.Passing),
		at("d", "10.0.0.2", 80, watch.Passing), // the same place as c, and as good
	})
	var ids []string
	for _, i := range got {
		ids = append(ids, i.ID)
	}
	if want := []string{"y", "z", "c"}; !slices.Equal(ids, want) {
		t.Errorf("got %v, want %v", ids, want)
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			var all []*watch.Service
			for i := range n {
				all = append(all, service(fmt.Sprintf("service-%05d", i), 1, 2, 3))
			}
			c := watch.NewCatalog().Update(all, nil)
			flip := [][]*watch.Service{{service("service-00050", 1, 2)}, {service("service-00050", 1, 2, 3)}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c = c.Update(flip[i%2], nil)
			}
		})
	}
}
