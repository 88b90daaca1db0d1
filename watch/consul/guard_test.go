package consul

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// confirmed is how long it takes until a real removal is believed.
const confirmed = 7 * time.Second

func TestGuardHoldsAndConfirms(t *testing.T) {
	for _, tt := range []struct {
		name      string
		from, to  int
		held      string // empty: passes at once
		elsewhere int    // instances in another service, so that the mesh is large
	}{
		{"one of three", 3, 2, "", 100},
		{"one of two", 2, 1, "", 100},
		{"half", 10, 5, "", 100},
		{"over half", 10, 4, "6 of its 10 instances at once", 100},
		{"two of three", 3, 1, "2 of its 3 instances at once", 100},
		{"the last one", 1, 0, "no instance is left", 100},
		{"all", 10, 0, "no instance is left", 100},
		{"over 15 % of the mesh", 10, 6, "4 of 20 instances of the mesh", 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				fake := newFake()
				fake.set("lake", many(tt.from)...)
				fake.set("dome", many(tt.elsewhere)...)
				r := start(t, fake, Demand{MeshOnly: true})
				fake.set("lake", many(tt.to)...)
				if tt.held == "" {
					r.want("lake", tt.to)
					r.wantHeld("")
					return
				}
				r.want("lake", tt.from)
				r.wantHeld("service lake: ")
				r.wantHeld(tt.held)
				if !strings.Contains(r.logged(), "removals held until they are confirmed") {
					t.Error("not logged")
				}
				time.Sleep(confirmed)
				r.wantHeld("")
				if tt.to == 0 {
					r.want("lake", -1)
				} else {
					r.want("lake", tt.to)
				}
				if r.Stats().Held != 1 {
					t.Errorf("stats %+v", r.Stats())
				}
			})
		})
	}
}

// Small removals in many services add up.
func TestGuardCountsTheMeshWithinAWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		for i := range 10 {
			fake.set(fmt.Sprintf("s%d", i), many(2)...)
		}
		r := start(t, fake, Demand{MeshOnly: true})
		for i := range 4 {
			fake.set(fmt.Sprintf("s%d", i), many(1)...)
			r.published()
		}
		for i, want := range []int{1, 1, 1, 2} { // three are 15 %, four are more
			r.want(fmt.Sprintf("s%d", i), want)
		}
		r.wantHeld("service s3: 1 of 2 instances gone: 4 of 20 instances of the mesh within 1m0s")
		time.Sleep(time.Minute)
		r.want("s3", 1)
		fake.set("s4", many(1)...) // the window is over
		r.want("s4", 1)
	})
}

// An agent that restarts takes its services out and puts them back.
func TestGuardAgentRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(1)...)
		r := start(t, fake, Demand{MeshOnly: true})
		n := r.published()
		fake.set("lake")
		time.Sleep(5 * time.Second)
		fake.set("lake", many(1)...)
		time.Sleep(time.Minute)
		r.want("lake", 1)
		r.wantHeld("")
		if r.published() != n {
			t.Error("readers were woken")
		}
		if !strings.Contains(r.logged(), "how=back") {
			t.Error("the end of the hold was not logged")
		}
	})
}

// While a removal is held, what is added and what falls ill is not.
func TestGuardHoldsOnlyRemovals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(10)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.set("lake", at1("10.0.0.1", status("critical")), at1("10.7.7.7"))
		r.want("lake", 11)
		ill := 0
		for _, i := range r.catalog().Service("lake").Instances {
			if i.Health.String() == "critical" {
				ill++
			}
		}
		if ill != 1 {
			t.Errorf("%d are critical", ill)
		}
		time.Sleep(confirmed)
		r.want("lake", 2)
	})
}

// Replaced instances are no removal: a lost catalog has no new ones.
func TestGuardLetsReplacementsPass(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(4)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.set("lake", at1("10.7.0.1"), at1("10.7.0.2"), at1("10.7.0.3"), at1("10.7.0.4"))
		r.want("lake", 4)
		r.wantHeld("")
		if got := r.catalog().Service("lake").Instances[0].ID; got != "10.7.0.1" {
			t.Errorf("the first is %s", got)
		}
	})
}

// A token that loses its rights on a service reads an empty list under the
// same index, for as long as it has none.
func TestGuardIndexThatDidNotMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(2)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.lock(func() { delete(fake.entries, "lake") })
		time.Sleep(10 * time.Minute)
		r.want("lake", 2)
		r.wantHeld("Consul's index did not move")
		fake.lock(func() { fake.entries["lake"] = many(2) })
		time.Sleep(time.Minute)
		r.wantHeld("")
		r.want("lake", 2)
	})
}

// The same, when the index moves for another reason: Consul says that it
// filtered its answer.
func TestGuardFilteredAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(2)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.fail(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path != "/v1/health/service/lake" {
				return nil, nil
			}
			resp, _ := fake.answer(req)
			resp.Header.Set("X-Consul-Results-Filtered-By-ACLs", "true")
			return resp, nil
		})
		fake.set("lake")
		time.Sleep(10 * time.Minute)
		r.want("lake", 2)
		r.wantHeld("the token may not read all of it")
	})
}

// A token comes to see less: one instance of five, which would be an ordinary removal.
func TestGuardATokenThatSeesLess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(5)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.lock(func() { fake.unseen = map[string]string{"lake": "10.0.0.1"} })
		fake.set("lake", many(5)...) // the index moves
		time.Sleep(10 * time.Minute)
		r.want("lake", 5)
		r.wantHeld("the token may not read all of it any more")
		fake.lock(func() { fake.unseen = nil })
		fake.set("lake", many(5)...)
		time.Sleep(time.Minute)
		r.wantHeld("")
		r.want("lake", 5)
	})
}

// A token that never saw all of a service is a narrow one: what it sees go is gone.
func TestGuardATokenThatNeverSawAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(5)...)
		fake.unseen = map[string]string{"lake": "10.0.0.1"}
		r := start(t, fake, Demand{MeshOnly: true})
		r.want("lake", 4)
		fake.set("lake", many(4)...)
		r.want("lake", 3)
		r.wantHeld("")
	})
}

// A token without any rights left: neither the list nor the services are believed.
func TestGuardTokenLosesItsRights(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(2)...)
		fake.set("dome", many(2)...)
		r := start(t, fake, Demand{MeshOnly: true})
		n := r.published()
		fake.lock(func() {
			fake.noCanary = true
			fake.index += 5
			fake.services, fake.checks = fake.index, fake.index
			for name := range fake.indexes {
				fake.indexes[name] = fake.index
			}
			clear(fake.entries)
			fake.wake()
		})
		time.Sleep(10 * time.Minute)
		if r.published() != n {
			t.Error("readers were woken")
		}
		r.want("lake", 2)
		r.wantWaiting("list of services: not even Consul's own service")
		r.wantHeld("service dome: ")
	})
}

// A server that lost its state is not believed before the agents had the time
// to register again.
func TestGuardWipedServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		for range 50 {
			fake.set("lake", many(3)...)
		}
		fake.set("dome", many(3)...)
		r := start(t, fake, Demand{MeshOnly: true})
		n := r.published()
		fake.wipe()
		r.wantHeld("service lake: 3 of 3 instances gone: Consul's index went back")
		time.Sleep(time.Minute)
		fake.set("lake", many(2)...) // one agent is late
		if r.published() != n {
			t.Error("readers were woken")
		}
		time.Sleep(30 * time.Second)
		fake.set("lake", many(3)...)
		r.want("lake", 3)
		r.want("dome", 3)
		time.Sleep(2 * time.Minute) // dome's agent never comes
		r.want("lake", 3)
		r.want("dome", -1)
		r.wantHeld("")
		fake.set("lake", many(2)...) // ordinary again
		r.want("lake", 2)
	})
}

// A small index overtakes the old one at once; the list's tells the wipe.
func TestGuardWipedServerWhoseIndexOvertakes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(3)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.wipe()
		r.wantHeld("service lake")
		for range 30 {
			fake.set("noise", many(1)...)
		}
		time.Sleep(time.Minute)
		r.want("lake", 3)
		r.wantHeld("agents may register again")
	})
}

// A leader is needed to confirm; without one, nothing goes.
func TestGuardWithoutALeader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(2)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.lock(func() { fake.noLeader = true })
		fake.set("lake")
		time.Sleep(10 * time.Minute)
		r.want("lake", 2)
		r.wantHeld("not confirmed: no leader")
		fake.lock(func() { fake.noLeader = false })
		time.Sleep(time.Minute)
		r.want("lake", -1)
	})
}

// What goes while a removal is being confirmed needs two reads of its own.
func TestGuardKeepsWhatOneReadAloneLacked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(10)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.set("lake", many(3)...)
		time.Sleep(4 * time.Second) // the first read was at 3 s
		fake.set("lake")
		time.Sleep(3 * time.Second) // the second at 6 s
		r.want("lake", 3)
		time.Sleep(confirmed)
		r.want("lake", -1)
	})
}
