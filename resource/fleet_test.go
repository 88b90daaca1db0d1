package resource

import (
	"fmt"
	"testing"
)

// What differs between two fleets is found whether the one descends from the
// other by few steps, by more than it remembers, or not at all.
func TestWhatDiffersBetweenTwoFleets(t *testing.T) {
	member := func(i int) Profile { return Profile{Service: fmt.Sprintf("s%d", i), AppPort: 8080} }
	start := NewFleet(member(0), member(1))
	if start.Update([]Profile{member(1)}, []Profile{member(2)}) != start {
		t.Error("a fleet in which nobody came or left is another one")
	}
	for _, steps := range []int{1, 5, maxSteps, maxSteps + 1, 3 * maxSteps} {
		f := start
		for i := range steps {
			f = f.Update([]Profile{member(i + 2)}, nil)
		}
		f = f.Update(nil, []Profile{member(0)})
		for what, got := range map[string][]string{
			"descended": f.ChangedSince(start), "made anew": NewFleet(profilesOf(f)...).ChangedSince(start), "the first": f.ChangedSince(nil),
		} {
			changed := make(map[string]bool)
			for _, key := range got {
				changed[key] = true
			}
			for i := range steps + 2 {
				now, before := i > 0, i < 2 && what != "the first"
				if now != before && !changed[member(i).Key()] {
					t.Errorf("%s, %d steps: s%d is not said to differ", what, steps, i)
				}
			}
		}
	}
	few := start.Update([]Profile{member(2)}, nil)
	if got := few.ChangedSince(start); len(got) != 1 {
		t.Errorf("one step changed %d profiles", len(got))
	}
}

func profilesOf(f *Fleet) (all []Profile) {
	for p := range f.Profiles() {
		all = append(all, p)
	}
	return all
}
