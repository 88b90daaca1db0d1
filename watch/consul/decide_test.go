package consul

import (
	"testing"
	"time"

	"datapunk.dev/controlplane/watch"
)

// decide says of the one removal that is held what an operator says.
func (r *run) decide(t *testing.T, accept bool) watch.Removal {
	t.Helper()
	held := r.Removals()
	if len(held) != 1 {
		t.Fatalf("held: %+v", held)
	}
	if found, err := r.Decide(t.Context(), held[0].ID, accept); err != nil || !found {
		t.Fatalf("found %v, %v", found, err)
	}
	return held[0]
}

func TestAnOperatorDecidesOnARemoval(t *testing.T) {
	t.Run("accepted: it is gone at once", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			fake.set("lake", many(3)...)
			fake.set("dome", many(100)...)
			r := start(t, fake, Demand{MeshOnly: true})
			fake.set("lake")
			r.wantHeld("no instance is left")
			held := r.decide(t, true)
			if held.Service != "lake" || held.Had != 3 || len(held.Instances) != 3 || held.Instances[0].Address == "" {
				t.Errorf("shown as %+v", held)
			}
			r.published()
			r.want("lake", -1)
			r.wantHeld("")
			if n := r.Stats().Decided["accepted"]; n != 1 || len(r.Removals()) != 0 {
				t.Errorf("counted %v, held %v", r.Stats().Decided, r.Removals())
			}
		})
	})
	t.Run("refused: it is kept until it is back", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			fake.set("lake", many(3)...)
			fake.set("dome", many(100)...)
			r := start(t, fake, Demand{MeshOnly: true})
			fake.set("lake")
			r.wantHeld("no instance is left")
			r.decide(t, false)
			time.Sleep(time.Hour)
			r.want("lake", 3)
			r.wantHeld("refused by an operator")
			// Another answer does not take it, nor does a sidecar that leaves.
			fake.set("lake", many(1)...)
			time.Sleep(time.Minute)
			r.want("lake", 3)
			r.sidecarsAre(watch.Left, "i1", "i2", "i3")
			r.SidecarsMoved()
			time.Sleep(time.Minute)
			r.want("lake", 3)
			fake.set("lake", many(3)...)
			r.published()
			r.wantHeld("")
			// The word was on that removal: the next one takes its own way.
			fake.set("lake")
			time.Sleep(confirmed)
			r.want("lake", -1)
		})
	})
	t.Run("refused, and accepted after all", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			fake.set("lake", many(3)...)
			fake.set("dome", many(100)...)
			r := start(t, fake, Demand{MeshOnly: true})
			fake.set("lake")
			r.wantHeld("no instance is left")
			r.decide(t, false)
			time.Sleep(time.Minute)
			r.decide(t, true)
			r.published()
			r.want("lake", -1)
		})
	})
	t.Run("one that is not held is not found", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			fake := newFake()
			fake.set("lake", many(3)...)
			r := start(t, fake, Demand{MeshOnly: true})
			if found, err := r.Decide(t.Context(), "0123456789ab", true); found || err != nil {
				t.Errorf("found %v, %v", found, err)
			}
		})
	})
}

// How long a doubt lasts is what the demand says, of a source that runs too.
func TestTheTimesOfADoubtCanBeChanged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fake := newFake()
		fake.set("lake", many(3)...)
		fake.set("dome", many(100)...)
		r := start(t, fake, Demand{MeshOnly: true})
		r.SetDemand(Demand{MeshOnly: true, Guard: Guard{Confirm: 30 * time.Second}})
		time.Sleep(time.Second)
		fake.set("lake")
		time.Sleep(50 * time.Second)
		r.want("lake", 3)
		time.Sleep(20 * time.Second)
		r.want("lake", -1)
	})
}
