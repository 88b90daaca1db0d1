package consul

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/watch"
)

func tagged(tags ...string) func(*entry) { return func(e *entry) { e.Service.Tags = tags } }

// What the mesh file excludes by name is neither watched nor in the catalog, however its
// name is spelt, and whether the file names it or not.
func TestAServiceThatIsExcludedIsNotWatched(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		for _, name := range []string{"lake", "dome", "Nomad-client", "nomad", "tempo"} {
			fake.set(name, many(1)...)
		}
		r := start(t, fake, Demand{Services: []string{"dome", "tempo"}, Select: watch.Selection{Exclude: []string{"consul", "nomad*", "dome"}}})
		r.want("lake", 1)
		r.want("tempo", 1)
		for _, name := range []string{"dome", "Nomad-client", "nomad"} {
			r.want(name, -1)
			if n := len(fake.requests(healthPath(name))); n > 0 {
				t.Errorf("%s was asked for %d times", name, n)
			}
		}
	})
}

// An edit that excludes services takes them out at once and asks nothing about any; one
// that takes it back has them again.
func TestExcludingTakesNoReadAndNoDoubt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(2)...)
		fake.set("dome", many(40)...)
		r := start(t, fake, Demand{MeshOnly: true})
		r.want("dome", 40)
		asked := len(fake.requests(healthPath("lake"))) + len(fake.requests(healthPath("dome")))

		r.SetDemand(Demand{MeshOnly: true, Select: watch.Selection{Exclude: []string{"d*e"}}})
		r.want("dome", -1)
		r.want("lake", 2)
		r.wantHeld("")
		if n := len(fake.requests(healthPath("lake"))) + len(fake.requests(healthPath("dome"))); n != asked {
			t.Errorf("services were asked for %d times more", n-asked)
		}
		r.SetDemand(Demand{MeshOnly: true})
		r.want("dome", 40)
	})
}

// A service whose removal is held is gone when the mesh file leaves it out.
func TestAHeldRemovalEndsWithTheSelection(t *testing.T) {
	for name, of := range map[string]watch.Selection{
		"its name":   {Exclude: []string{"lake"}},
		"its tags":   {Tags: []string{"blue"}},
		"its health": {OnlyPassing: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				fake := newFake()
				fake.set("lake", at1("10.0.0.1", status("critical")), at1("10.0.0.2", status("critical")))
				fake.set("dome", at1("10.0.1.1", tagged("blue")))
				r := start(t, fake, Demand{})
				r.want("lake", 2)
				fake.set("lake")
				r.wantHeld("lake: 2 of 2 instances gone")
				r.SetDemand(Demand{Select: of})
				r.wantHeld("")
				r.want("lake", -1)
				r.want("dome", 1)
			})
		})
	}
}

// Instances without the tags are out, and Consul's list is asked for those that have
// them alone. A service that the file names says why it has none.
func TestOnlyInstancesWithTheTags(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", at1("10.0.0.1", tagged("blue", "mesh")), at1("10.0.0.2", tagged("mesh")), at1("10.0.0.3", tagged("blue")))
		fake.set("dome", at1("10.0.1.1", tagged("mesh")))
		r := start(t, fake, Demand{MeshOnly: true, Services: []string{"dome"}, Select: watch.Selection{Tags: []string{"mesh", "blue"}}})
		r.want("lake", 1)
		r.want("dome", 0)
		if why := r.catalog().Service("dome").Unselected; why != "none of its 1 instances has the tag blue" {
			t.Errorf("dome has no instance because %q", why)
		}
		const filter = `ServiceKind == "" and ("mesh_port" in ServiceMeta and "mesh" in ServiceTags and "blue" in ServiceTags or ServiceName == "consul")`
		if got := fake.requests("/v1/catalog/services")[0].url.Query().Get("filter"); got != filter {
			t.Errorf("the list is asked for with %s", got)
		}
		// A tag that comes puts it in, one that goes takes it out, without a doubt.
		fake.set("lake", at1("10.0.0.1", tagged("blue")), at1("10.0.0.2", tagged("mesh", "blue")), at1("10.0.0.3"))
		r.want("lake", 1)
		if at := r.catalog().Service("lake").Instances[0].Address.String(); at != "10.0.0.2" {
			t.Errorf("the instance of lake is %s", at)
		}
		r.wantHeld("")
		// And an edit has all of them again.
		r.SetDemand(Demand{MeshOnly: true, Services: []string{"dome"}})
		r.want("lake", 3)
		r.want("dome", 1)
	})
}

// only_passing leaves out who is not passing as soon as it is not, and doubts what is
// gone as ever.
func TestOnlyThoseThatPass(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", at1("10.0.0.1"), at1("10.0.0.2", status("warning")), at1("10.0.0.3", status("critical")))
		r := start(t, fake, Demand{MeshOnly: true, Select: watch.Selection{OnlyPassing: true}})
		r.want("lake", 1)
		fake.set("lake", at1("10.0.0.1", status("critical")), at1("10.0.0.2"), at1("10.0.0.3"))
		r.want("lake", 2)
		r.wantHeld("")
		fake.set("lake", at1("10.0.0.1", status("critical")), at1("10.0.0.2", status("critical")), at1("10.0.0.3", status("critical")))
		r.want("lake", 0) // it is there: nobody is passing
		r.wantHeld("")
		fake.set("lake", at1("10.0.0.1"), at1("10.0.0.2"), at1("10.0.0.3"))
		r.want("lake", 3)
		fake.set("lake", at1("10.0.0.1", status("critical")))
		r.wantHeld("lake: 2 of 2 instances gone")
	})
}

// Who compares the catalog with another one can tell what is left out from what is gone.
func TestWhatIsLeftOutIsKnownToBeThere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", at1("10.0.0.1"), at1("10.0.0.2", status("critical")), at1("10.0.0.3"))
		passing := Demand{MeshOnly: true, Select: watch.Selection{OnlyPassing: true}}
		r := start(t, fake, Demand{MeshOnly: true})
		r.want("lake", 3)
		var places []watch.Place
		for _, i := range r.catalog().Service("lake").Instances {
			places = append(places, i.Dialed())
		}
		want := func(when string, all ...bool) {
			t.Helper()
			for n, is := range all {
				if r.Unselected("lake", "", places[n]) != is {
					t.Errorf("%s: that 10.0.0.%d is left out is not %v", when, n+1, is)
				}
			}
		}
		want("all are in", false, false, false)
		r.SetDemand(passing)
		r.want("lake", 2)
		want("by an edit", false, true, false)
		fake.set("lake", at1("10.0.0.1", status("critical")), at1("10.0.0.2"), at1("10.0.0.3"))
		r.want("lake", 2)
		want("by an answer", true, false, false)
		fake.set("lake", at1("10.0.0.2"), at1("10.0.0.3"))
		synctest.Wait()
		want("it is gone", false, false, false)
	})
}

// A server that is behind, or an answer that was under way, does not bring back what an
// edit has left out.
func TestAnAnswerOfBeforeBringsNothingBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", at1("10.0.0.1", tagged("blue")), at1("10.0.0.2"))
		r := start(t, fake, Demand{MeshOnly: true})
		r.want("lake", 2)
		fake.set("lake", at1("10.0.0.1", tagged("blue")), at1("10.0.0.2"), at1("10.0.0.3"))
		r.SetDemand(Demand{MeshOnly: true, Select: watch.Selection{Tags: []string{"blue"}}})
		r.want("lake", 1)
		time.Sleep(2 * time.Minute)
		r.want("lake", 1)
	})
}

// Selecting costs no query: what is asked is the same as without, but for what is left out.
func TestSelectingAsksNoMore(t *testing.T) {
	count := func(of watch.Selection) (n int) {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			for i := range 20 {
				fake.set(fmt.Sprintf("s%d", i), at1(fmt.Sprintf("10.0.0.%d", i+1), tagged("blue")))
			}
			r := start(t, fake, Demand{MeshOnly: true, Select: of})
			r.want("s3", 1)
			for round := range 10 {
				state := []string{"critical", "passing"}[round%2]
				fake.set("s3", at1("10.0.0.4", tagged("blue"), status(state)))
				time.Sleep(time.Second)
			}
			n, _ = fake.counted()
		})
		return n
	}
	all := count(watch.Selection{})
	selected := count(watch.Selection{Tags: []string{"blue"}, OnlyPassing: true, Exclude: []string{"nomad*"}})
	if selected > all {
		t.Errorf("%d queries, and %d with a selection", all, selected)
	}
	if fewer := count(watch.Selection{Exclude: []string{"s1*"}}); fewer >= all {
		t.Errorf("%d queries, and %d with half of the services", all, fewer)
	}
	if strings.Contains(Demand{}.filter(), "ServiceTags") {
		t.Error("tags are asked for that nobody wants")
	}
}
