package consul

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/watch"
)

// at once is after a read that comes promptly, and before any other.
const atOnce = 2 * promptly

// ids are those of many(n).
func ids(entries []entry) (all []string) {
	for _, e := range entries {
		all = append(all, e.Service.ID)
	}
	return all
}

// apart are instances each on a machine of its own.
func apart(n int) []entry {
	entries := many(n)
	for i := range entries {
		entries[i].Node.Node = "machine-" + entries[i].Service.ID
	}
	return entries
}

// Both witnesses agree: nothing is held, however many went.
func TestAnInstanceWhoseSidecarHasLeftIsGoneAtOnce(t *testing.T) {
	for _, left := range []int{9, 5, 1, 0} {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			fake.set("lake", apart(10)...)
			r := start(t, fake, Demand{MeshOnly: true})
			r.sidecarsAre(watch.Connected, ids(many(10))...)
			r.sidecarsAre(watch.Left, ids(many(10))[left:]...)
			fake.set("lake", apart(left)...)
			if left == 0 {
				left = -1
			}
			r.want("lake", left)
			r.wantHeld("")
			if n := r.Stats().Held; n != 0 {
				t.Errorf("%d were held", n)
			}
		})
	}
}

// An agent that restarts leaves with everything on it, be that one of ten.
func TestAnInstanceIsKeptWhileItsSidecarIsConnected(t *testing.T) {
	for _, tt := range []struct {
		name string
		left int
	}{{"one of ten", 9}, {"most", 2}, {"all", 0}} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				fake := newFake()
				fake.set("lake", apart(10)...)
				r := start(t, fake, Demand{MeshOnly: true})
				r.sidecarsAre(watch.Connected, ids(many(10))...)
				n := r.published()
				fake.set("lake", apart(tt.left)...)
				time.Sleep(9 * time.Second)
				r.wantHeld("their sidecars are connected")
				fake.set("lake", apart(10)...)
				r.wantHeld("")
				if r.published() != n {
					t.Error("readers were woken")
				}
				// And one that never comes back is gone after a while.
				fake.set("lake", apart(tt.left)...)
				time.Sleep(59 * time.Second)
				r.want("lake", 10)
				time.Sleep(10 * time.Second)
				if tt.left == 0 {
					r.want("lake", -1)
				} else {
					r.want("lake", tt.left)
				}
				r.wantHeld("")
			})
		})
	}
}

// The end of the sidecar's stream is the word that was missing.
func TestASidecarThatLeavesEndsTheDoubt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", apart(3)...)
		r := start(t, fake, Demand{MeshOnly: true})
		all := ids(many(3))
		r.sidecarsAre(watch.Connected, all...)
		fake.set("lake", apart(1)...)
		time.Sleep(10 * time.Second)
		r.want("lake", 3)
		r.sidecarsAre(watch.Left, all[1])
		r.want("lake", 2)
		r.wantHeld("1 of 2 instances gone")
		r.sidecarsAre(watch.Left, all[2])
		r.want("lake", 1)
		r.wantHeld("")
		if !strings.Contains(r.logged(), `how="their sidecars have left"`) {
			t.Error("how it ended is not logged")
		}
	})
}

// What is deregistered by itself, its agent and others on that machine staying,
// was meant, whatever its sidecar does: an application may go before it.
func TestAnInstanceThatIsDeregisteredByItselfIsGoneAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(3)...)
		r := start(t, fake, Demand{MeshOnly: true})
		r.sidecarsAre(watch.Connected, ids(many(3))...)
		fake.set("lake", many(2)...)
		time.Sleep(atOnce)
		r.want("lake", 2)
		if strings.Contains(r.logged(), "held") {
			t.Errorf("an ordinary removal is in the log:\n%s", r.logged())
		}
	})
}

// A node that is younger than what was known of it has come back, and registers
// what it has one after the other.
func TestAnAgentThatIsComingBackIsWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(1)...)
		fake.set("dome", at1("10.7.7.7"))
		r := start(t, fake, Demand{MeshOnly: true})
		r.sidecarsAre(watch.Connected, "10.0.0.1", "10.7.7.7")
		fake.set("lake")
		fake.set("dome")
		time.Sleep(9 * time.Second)
		fake.lock(func() { fake.created["n1"] = fake.index + 1 })
		fake.set("dome", at1("10.7.7.7"))
		time.Sleep(5 * time.Second)
		r.want("lake", 1)
		fake.set("lake", many(1)...)
		r.wantHeld("")
	})
}

// Nothing is known of a sidecar: one read of the leader is enough if instances stay.
func TestOneConsistentReadIsEnoughWhereInstancesStay(t *testing.T) {
	for _, to := range []int{4, 1} {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			fake.set("lake", many(10)...)
			r := start(t, fake, Demand{MeshOnly: true})
			fake.set("lake", many(to)...)
			r.want("lake", 10)
			time.Sleep(atOnce)
			r.want("lake", to)
			r.wantHeld("")
		})
	}
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(10)...)
		r := start(t, fake, Demand{MeshOnly: true})
		fake.lock(func() { fake.noLeader = true })
		fake.set("lake", many(4)...)
		time.Sleep(10 * time.Minute)
		r.want("lake", 10)
		r.wantHeld("not confirmed: no leader")
	})
}

// Where Consul itself is not to be believed, no sidecar makes it right.
func TestASidecarThatLeftSaysNothingOfAConsulThatLostItsState(t *testing.T) {
	for name, lose := range map[string]func(*fakeConsul){
		"wiped":                (*fakeConsul).wipe,
		"index that stays":     func(f *fakeConsul) { f.lock(func() { delete(f.entries, "lake") }) },
		"token without rights": func(f *fakeConsul) { f.lock(func() { f.noCanary = true; clear(f.entries); f.wake() }) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				fake := newFake()
				for range 20 {
					fake.set("lake", many(3)...)
				}
				r := start(t, fake, Demand{MeshOnly: true})
				r.sidecarsAre(watch.Left, ids(many(3))...)
				lose(fake)
				time.Sleep(100 * time.Second)
				r.want("lake", 3)
				r.sidecarsAre(watch.Left, ids(many(3))...)
				r.want("lake", 3)
				r.wantHeld("service lake")
			})
		})
	}
}

// Another Consul has none of the services, and an index that is higher. Whoever is
// connected is kept for longer than it takes to see the mistake.
func TestAnotherConsulIsDoubtedWhileTheFleetIsThere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", apart(3)...)
		fake.set("dome", apart(1)...)
		r := start(t, fake, Demand{MeshOnly: true})
		r.sidecarsAre(watch.Connected, ids(many(3))...)
		fake.lock(func() {
			fake.index += 1000
			for name := range fake.indexes {
				fake.indexes[name] = fake.index
			}
			clear(fake.entries)
			fake.wake()
		})
		time.Sleep(50 * time.Second)
		r.want("lake", 3)
		r.want("dome", 1)
	})
}

// Who drained an instance may take it away.
func TestADrainedInstanceIsNotDoubted(t *testing.T) {
	for name, drain := range map[string]func(*entry){
		"maintenance": func(e *entry) { e.Checks = []check{{CheckID: "_service_maintenance:x", Status: "critical"}} },
		"weight 0":    func(e *entry) { e.Service.Weights.Passing = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				fake := newFake()
				drained := apart(3)
				drain(&drained[2])
				fake.set("lake", drained...)
				fake.set("dome", many(100)...)
				r := start(t, fake, Demand{MeshOnly: true})
				r.sidecarsAre(watch.Connected, ids(many(3))...)
				fake.set("lake", apart(2)...)
				r.want("lake", 2)
				r.wantHeld("")
			})
		})
	}
}

// The entry is there, and listens elsewhere: that is no removal to ask a sidecar about.
func TestAnInstanceThatMovesToAnotherPortIsNotDoubted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", apart(1)...)
		r := start(t, fake, Demand{MeshOnly: true})
		r.sidecarsAre(watch.Connected, ids(many(1))...)
		moved := apart(1)
		moved[0].Service.Meta = map[string]string{watch.MetaMeshPort: "15007"}
		fake.set("lake", moved...)
		r.want("lake", 1)
		if got := r.catalog().Service("lake").Instances[0].MeshPort; got != 15007 {
			t.Errorf("it is dialed at %d", got)
		}
	})
}

// An entry that is another service's now is gone, though the index of the one that
// it was does not move. With Consul's streaming backend what blocks is told; with
// the other one nobody is.
func TestAnInstanceThatGetsAnotherNameLeavesTheOldService(t *testing.T) {
	for _, streaming := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			fake.set("lake", many(2)...)
			r := start(t, fake, Demand{MeshOnly: true})
			r.sidecarsAre(watch.Connected, ids(many(2))...)
			all := ids(many(2))
			fake.rename(all[1], "lake", "pond", streaming)
			time.Sleep(2 * atOnce)
			r.want("pond", 1)
			r.want("lake", 1)
			fake.rename(all[0], "lake", "pond", streaming)
			time.Sleep(2 * atOnce)
			r.want("lake", -1)
			r.want("pond", 2)
			r.wantHeld("")
			synctest.Wait()
		})
	}
}

// Consul compares names without their case, and answers for each with the entries
// of all.
func TestAnEntryCountsUnderItsOwnNameAlone(t *testing.T) {
	named := func(name string) func(*entry) { return func(e *entry) { e.Service.Service = name } }
	bubble(t, func(t *testing.T) {
		fake := newFake()
		lake := []entry{at1("10.0.0.1", named("lake")), at1("10.0.0.2", named("lake"))}
		both := append(slices.Clone(lake), at1("10.0.0.3", named("Lake")))
		fake.set("lake", both...)
		fake.set("Lake", both...)
		r := start(t, fake, Demand{MeshOnly: true})
		r.want("lake", 2)
		r.want("Lake", 1)
		// The wrong spelling goes; what is asked for it goes on to be answered.
		fake.lock(func() {
			fake.index++
			for _, name := range []string{"lake", "Lake"} {
				fake.entries[name], fake.indexes[name] = lake, fake.index
			}
			fake.wake()
		})
		time.Sleep(confirmed)
		r.want("lake", 2)
		r.want("Lake", -1)
	})
}
