package main

import (
	"os"
	"testing"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// The server under test is this binary, started again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "--serve" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Time says more of the machine than of the code, so what is held here is what
// the code alone decides: allocations and bytes. The limits are a fifth above
// what was measured.
func TestWhatAChangeCostsDoesNotGrow(t *testing.T) {
	t.Chdir("../..")
	const streams = 100
	plain := world{Services: 100, Instances: 10, Streams: streams}
	inUse, aRoute, oneOfSix := plain, plain, plain
	inUse.Routed, inUse.Traffic = true, true
	aRoute.Routed, aRoute.Change = true, "route"
	oneOfSix.Routed, oneOfSix.Traffic, oneOfSix.Change = true, true, "route"
	for _, tt := range []struct {
		what          string
		kind          string
		world         world
		allocs, bytes float64 // of a stream's part of a change
		full          float64 // bytes of a stream's first sync
	}{
		{"an endpoint", "ours", plain, 34, 1170, 207_000},
		{"an endpoint, SotW", "ours+sotw", plain, 32, 1130, 199_000},
		{"an endpoint, a tenth in subsets, with routes", "ours", inUse, 39, 1710, 464_000},
		{"a route", "ours", aRoute, 109, 1840, 366_000},
		{"one of six routes, a tenth in subsets", "ours", oneOfSix, 390, 5420, 464_000},
	} {
		t.Run(tt.what, func(t *testing.T) {
			w := tt.world
			r, err := measurement{title: t.Name(), kind: tt.kind, world: w, changes: 5}.do(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			allocs, bytes, full := r.ChangeAlloc/streams, r.ChangeKB*1e3/streams, r.SyncMB*1e6/streams
			t.Logf("a stream's part of a change: %.1f allocations, %.0f bytes; of the first sync %.0f bytes", allocs, bytes, full)
			if allocs > tt.allocs || bytes > tt.bytes || full > tt.full {
				t.Errorf("at most %.1f allocations and %.0f bytes, and %.0f bytes, were expected", tt.allocs, tt.bytes, tt.full)
			}
		})
	}
}

func TestAPercentileIsTheValueThatSoManyDoNotExceed(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for p, want := range map[int]float64{0: 1, 50: 3, 99: 5, 100: 5} {
		if got := percentile(values, p); got != want {
			t.Errorf("p%d is %g, want %g", p, got, want)
		}
	}
	if got := percentile(nil, 50); got != 0 {
		t.Errorf("of nothing: %g", got)
	}
}

func TestAPlaceIsReadFromWhatIsServed(t *testing.T) {
	t.Chdir("../..")
	w := world{Services: 2, Instances: 3, Streams: 1}
	for _, n := range []int{0, 1, 700} {
		views, err := w.views(w.catalog().Update([]*watch.Service{w.service(1, n)}, nil))
		if err != nil {
			t.Fatal(err)
		}
		set := views[w.client(0)][resource.Endpoint]
		if got := place(set.Get(serviceName(1)).Body); got != n {
			t.Errorf("place %d, want %d", got, n)
		}
		if got := place(set.Get(serviceName(0)).Body); got != 0 {
			t.Errorf("the other service is at place %d", got)
		}
	}
	if got := place(nil); got != -1 {
		t.Errorf("place %d of a service without instances", got)
	}
}
