package control

import (
	"fmt"
	"testing"
	"time"

	"datapunk.dev/controlplane/replica"
)

// What a lagging replica looks like to another one, and that a busy mesh does not
// look so.
func TestReplicasThatDisagreeAreSeen(t *testing.T) {
	begin := time.Now()
	a := newAgreement()
	// Every second this one serves mine(s) and hears theirs(s) of the other.
	run := func(from, seconds int, mine, theirs func(int) string) (apart time.Duration) {
		for s := from; s < from+seconds; s++ {
			now := begin.Add(time.Duration(s) * time.Second)
			a.observe("r1 "+mine(s), now)
			v := &replica.View{Self: "a", Members: []replica.Member{{Name: "a"}, {Name: "b", Mesh: "r1", Catalog: theirs(s)}}}
			apart = a.compare(v, now)["b"]
		}
		return apart
	}
	fixed := func(text string) func(int) string { return func(int) string { return text } }
	every := func(late int) func(int) string { return func(s int) string { return fmt.Sprint(s - late) } }

	if d := run(0, 60, fixed("c1"), fixed("c1")); d != 0 {
		t.Errorf("they serve the same, and are %s apart", d)
	}
	if d := run(60, 60, every(0), every(3)); d != 0 {
		t.Errorf("the other is 3 s behind in a mesh that changes each second, and they are %s apart", d)
	}
	if d := run(120, 60, every(3), every(0)); d > time.Second {
		t.Errorf("this one is 3 s behind in a mesh that changes each second, and they are %s apart", d)
	}
	if d := run(180, 120, fixed("c2"), fixed("c1")); d < 100*time.Second || d > 120*time.Second {
		t.Errorf("the other stands still for 2 minutes, and they are %s apart", d)
	}
	if d := run(300, 20, fixed("c2"), fixed("c2")); d != 0 {
		t.Errorf("it has caught up, and they are %s apart", d)
	}
	if got := a.compare(&replica.View{Self: "a"}, begin); len(got) != 0 || len(a.others) != 0 {
		t.Errorf("one that is gone is compared: %v", got)
	}
}
