package control

import (
	"math/rand/v2"
	"testing"
	"time"

	"datapunk.dev/controlplane/replica"
)

func fleetOf(streams ...int) *replica.View {
	v := &replica.View{Self: "a"}
	for i, n := range streams {
		v.Members = append(v.Members, replica.Member{Name: string(rune('a' + i)), Streams: n, Catalog: "c"})
	}
	return v
}

func TestAReplicaGivesUpWhatIsMoreThanItsShare(t *testing.T) {
	for name, c := range map[string]struct {
		view *replica.View
		mine int
		want int
	}{
		"one that came back has none":              {fleetOf(1500, 1500, 0), 1500, 400},
		"a tenth more than its share is its own":   {fleetOf(1100, 950, 950), 1100, 0},
		"it has fewer":                             {fleetOf(100, 1500, 1400), 100, 0},
		"its own count is newer than what is told": {fleetOf(0, 1000, 1000), 1600, 280},
		"two proxies of three":                     {fleetOf(2, 1, 0), 2, 1},
		"all of three":                             {fleetOf(3, 0, 0), 3, 2},
		"half of six":                              {fleetOf(3, 3, 0), 3, 1},
		"two of four, which is one too many":       {fleetOf(2, 2, 0), 2, 0},
		"it is alone":                              {fleetOf(1500), 1500, 0},
		"nobody is known":                          {&replica.View{Self: "a"}, 1500, 0},
	} {
		if got := excess(c.view, c.mine); got != c.want {
			t.Errorf("%s: gives up %d, want %d", name, got, c.want)
		}
	}
	// Who cannot take any more does not count, nor what was true once.
	v := fleetOf(1500, 1500, 0)
	v.Members[2].Draining = true
	if got := excess(v, 1500); got != 0 {
		t.Errorf("to one that drains: %d", got)
	}
	v = fleetOf(1500, 1500, 0)
	v.Members[2].Catalog = ""
	if got := excess(v, 1500); got != 0 {
		t.Errorf("to one that does not serve yet: %d", got)
	}
	v = fleetOf(1500, 1500, 0)
	v.Trouble = "connection refused"
	if got := excess(v, 1500); got != 0 {
		t.Errorf("while nothing is known of the others: %d", got)
	}
	v = fleetOf(1500, 1500, 0)
	v.Members[0].Draining = true
	if got := excess(v, 1500); got != 0 {
		t.Errorf("one that drains does that in its own time: %d", got)
	}
}

// However streams land, the fleet is spread within minutes, and comes to rest.
func TestAFleetSpreadsOverAReplicaThatComesBack(t *testing.T) {
	streams := []int{1500, 1500, 0}
	moves, last := 0, 0
	random := rand.New(rand.NewPCG(1, 2))
	for second := 1; second <= 300; second++ {
		landing := []int{0, 0, 0}
		for i := range streams {
			v := fleetOf(streams...)
			v.Self = v.Members[i].Name
			n := min(excess(v, streams[i]), max(1, streams[i]/movedShare))
			streams[i] -= n
			for range n {
				landing[random.IntN(3)]++ // this one may be found again
			}
			if moves += n; n > 0 {
				last = second
			}
		}
		for i := range landing {
			streams[i] += landing[i]
		}
	}
	for i, n := range streams {
		if n > 1200 || n < 800 {
			t.Errorf("after 5 minutes replica %d has %d of 3000: %v", i, n, streams)
		}
	}
	if last > 240 {
		t.Errorf("it still moves streams after %d s", last)
	}
	t.Logf("%v after %d s and %d moves", streams, last, moves)
}

func TestADrainGivesTheOthersTimeToTakeIt(t *testing.T) {
	for _, c := range []struct {
		streams, others int
		want            time.Duration
	}{{0, 2, drainStep}, {3, 2, 3 * drainStep}, {1000, 2, 4 * time.Second}, {10_000, 2, 10 * time.Second}, {10_000, 1, 20 * time.Second}, {100_000, 2, 20 * time.Second}} {
		if got := time.Duration(drainSteps(c.streams, c.others)) * drainStep; got != c.want {
			t.Errorf("%d streams to %d replicas: %s, want %s", c.streams, c.others, got, c.want)
		}
	}
}
