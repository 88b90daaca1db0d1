package xds

import (
	"fmt"
	"testing"

	"datapunk.dev/controlplane/resource"
)

// What the tally and the served sets remember is bounded by what is served.
func TestWhatIsRememberedOfContentsThatAreGone(t *testing.T) {
	tally := newTally(3)
	ss := newServedSets(tally, &quarantines{})
	set := resource.NewSet()
	var now *half
	serve := func(resources ...*resource.Resource) {
		set = set.Update(resources, nil)
		now = ss.half(now, resource.Sidecar, nil, resource.Sets{eds: set}, nil)
		ss.published()
	}
	ack := func(r *resource.Resource, nodes int) {
		for i := range nodes {
			tally.ack(resource.Sidecar, eds, fmt.Sprint(i), []change{{name: r.Name, res: r}})
		}
	}
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprint("e", i))
		serve(endpoint(names[i], "0"))
	}
	for round := range 20 {
		for _, name := range names { // nobody proves anything
			r := endpoint(name, fmt.Sprint("x", round))
			serve(r)
			ack(r, 1)
		}
	}
	if n := len(tally.records); n > 2*300+1024+1 {
		t.Errorf("%d records for 300 resources", n)
	}
	if n := tally.open[eds].Load(); int(n) != len(tally.records) {
		t.Errorf("%d open of %d", n, len(tally.records))
	}
	if n := len(now.types[eds].acked); n != 300 {
		t.Errorf("%d contents that were acknowledged are remembered", n)
	}
	for _, version := range []string{"good", "better"} {
		for _, name := range names {
			r := endpoint(name, version)
			serve(r)
			ack(r, 3)
		}
	}
	if n := len(now.types[eds].acked); n > 40 {
		t.Errorf("%d are, though what took their place is proven", n)
	}
	set = resource.NewSet()
	serve()
	if n := len(now.types[eds].acked); n != 0 {
		t.Errorf("%d are of names that are gone", n)
	}
}

// The quorum counts proxies, not their answers, and each for what it said last.
func TestTally(t *testing.T) {
	const other = 1 // another state of what it depends on
	r := cluster("a", "1")
	c := contentOf(resource.Sidecar, r)
	for _, tt := range []struct {
		name             string
		answers          []string // node, "+" for an ACK, "-" for a NACK, "!" for one in the other state
		proven, rejected bool
	}{
		{"three ACKs prove it", []string{"a+", "b+", "c+"}, true, false},
		{"two do not", []string{"a+", "b+", "a+"}, false, false},
		{"three NACKs reject it", []string{"a-", "b-", "c-"}, false, true},
		{"those of one proxy are one", []string{"a-", "a-", "a-"}, false, false},
		{"a proxy that takes it after all has not rejected it", []string{"a-", "b-", "a+", "c-"}, false, false},
		{"what is proven stays so", []string{"a+", "b+", "c+", "d-", "e-", "f-"}, true, false},
		{"what is rejected may be proven later", []string{"d-", "e-", "f-", "a+", "b+", "c+"}, true, true},
		{"NACKs in another state of what it depends on count apart", []string{"a-", "b-", "c!"}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tally := newTally(3)
			tally.enter(resource.Sidecar, []*resource.Resource{r})
			rejected := false
			for _, a := range tt.answers {
				switch node := a[:1]; a[1] {
				case '+':
					tally.ack(resource.Sidecar, cds, node, []change{{name: "a", res: r}})
				case '-':
					rejected = tally.nack(c, 0, node) || rejected
				case '!':
					rejected = tally.nack(c, other, node) || rejected
				}
			}
			if tally.isProven(c) != tt.proven || rejected != tt.rejected {
				t.Errorf("proven %t, rejected %t", tally.isProven(c), rejected)
			}
		})
	}
}
