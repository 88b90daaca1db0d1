package resource

import (
	"fmt"
	"slices"
	"testing"
)

func res(name, version string) *Resource { return &Resource{Name: name, Version: version} }

func names(s *Set) []string {
	var all []string
	for r := range s.All() {
		all = append(all, r.Name+"="+r.Version)
	}
	return all
}

func TestSetKeepsItsPredecessors(t *testing.T) {
	first := NewSet(res("b", "1"), res("a", "1"))
	second := first.Update([]*Resource{res("c", "1"), res("a", "2")}, []string{"b", "unknown"})
	if got, want := names(first), []string{"a=1", "b=1"}; !slices.Equal(got, want) {
		t.Errorf("the first set became %v, want %v", got, want)
	}
	if got, want := names(second), []string{"a=2", "c=1"}; !slices.Equal(got, want) {
		t.Errorf("the second set is %v, want %v", got, want)
	}
	if second.Len() != 2 || second.Get("a").Version != "2" || second.Get("b") != nil {
		t.Errorf("the second set has %d resources, a is %+v, b is %+v", second.Len(), second.Get("a"), second.Get("b"))
	}
	changed, known := second.ChangedSince(first)
	if slices.Sort(changed); !known || !slices.Equal(changed, []string{"a", "b", "c"}) {
		t.Errorf("changed %v (known %t), want a, b and c", changed, known)
	}
}

func TestSetIsItselfWhereNothingChanges(t *testing.T) {
	s := NewSet(res("a", "1"))
	if s.Update([]*Resource{res("a", "1")}, []string{"b"}) != s {
		t.Error("the same resource made another set")
	}
	if changed, known := s.ChangedSince(s); !known || len(changed) > 0 {
		t.Errorf("changed since itself: %v (known %t)", changed, known)
	}
}

// What a resource came from is for people; no stream has to be told of it.
func TestSetTakesNewOriginsInSilence(t *testing.T) {
	s := NewSet(res("a", "1"))
	moved := s.Update([]*Resource{{Name: "a", Version: "1", Keys: []string{"services.a"}}}, nil)
	if moved == s || len(moved.Get("a").Keys) != 1 {
		t.Fatal("the new keys are lost")
	}
	if changed, known := moved.ChangedSince(s); !known || len(changed) > 0 {
		t.Errorf("changed %v (known %t), want nothing", changed, known)
	}
	next := moved.Update([]*Resource{res("b", "1")}, nil)
	if changed, known := next.ChangedSince(s); !known || !slices.Equal(changed, []string{"b"}) {
		t.Errorf("changed %v (known %t), want b", changed, known)
	}
}

func TestSetRemembersSoManySteps(t *testing.T) {
	first := NewSet()
	sets := []*Set{first}
	for i := range maxSteps + maxNames + 5 {
		sets = append(sets, sets[i].Update([]*Resource{res(fmt.Sprint(i), "1")}, nil))
	}
	last := sets[len(sets)-1]
	for i, s := range sets {
		changed, known := last.ChangedSince(s)
		behind := len(sets) - 1 - i
		if behind < maxNames/2 && !known {
			t.Errorf("%d steps behind: the changes are not known", behind)
		}
		if len(changed) > maxNames+maxSteps {
			t.Errorf("%d steps behind: %d names", behind, len(changed))
		}
		if known && behind < maxSteps/2 && len(changed) != behind {
			t.Errorf("%d steps behind: %d names", behind, len(changed))
		}
		for j := i; known && j < len(sets)-1; j++ {
			if !slices.Contains(changed, fmt.Sprint(j)) {
				t.Fatalf("%d steps behind: %d is not among the changed", behind, j)
			}
		}
	}
	if _, known := first.ChangedSince(last); known {
		t.Error("an older set knows what changed since a newer one")
	}
}

func TestSetsOfOtherDescentAreComparedWhole(t *testing.T) {
	s := NewSet(res("a", "1"))
	other := NewSet(res("a", "1"), res("b", "1"))
	if got, want := names(other), []string{"a=1", "b=1"}; !slices.Equal(got, want) {
		t.Errorf("with b it is %v, want %v", got, want)
	}
	if _, known := other.ChangedSince(s); known {
		t.Error("a set of another descent is said to be comparable")
	}
	if _, known := s.ChangedSince(nil); known {
		t.Error("no set at all is said to be comparable")
	}
}

func TestSetBecomes(t *testing.T) {
	s := NewSet(res("a", "1"), res("b", "1"))
	next := s.Become([]*Resource{res("b", "1"), res("c", "1")})
	if got, want := names(next), []string{"b=1", "c=1"}; !slices.Equal(got, want) {
		t.Errorf("it became %v, want %v", got, want)
	}
	if changed, known := next.ChangedSince(s); !known || len(changed) != 2 {
		t.Errorf("changed %v (known %t), want a and c", changed, known)
	}
	if next.Become([]*Resource{res("c", "1"), res("b", "1")}) != next {
		t.Error("becoming what it is made another set")
	}
}

// Two that descend from a third have each steps that the other does not know.
func TestSetsThatHaveBranchedAreComparedWhole(t *testing.T) {
	first := NewSet(res("a", "1"))
	one, other := first.Update([]*Resource{res("b", "1")}, nil), first.Update([]*Resource{res("c", "1")}, nil)
	for range 2 * maxSteps {
		other = other.Update([]*Resource{res("d", fmt.Sprint(other.history.state))}, nil)
		for base, of := range map[*Set]*Set{one: other, other: one} {
			if changed, known := of.ChangedSince(base); known {
				t.Fatalf("%v is said to differ from %v by %v alone", names(of), names(base), changed)
			}
		}
		if changed, known := other.ChangedSince(first); !known || !slices.Contains(changed, "c") || !slices.Contains(changed, "d") {
			t.Fatalf("since the one that both descend from: %v (known %t)", changed, known)
		}
	}
}

func TestSetKnowsItsSize(t *testing.T) {
	of := func(name, version, body string) *Resource {
		return &Resource{Name: name, Version: version, Body: []byte(body)}
	}
	s := NewSet(of("a", "1", "12345"), of("a", "2", "123"), of("bb", "1", "1"))
	for _, step := range []struct {
		put    []*Resource
		remove []string
		want   int
	}{
		{nil, nil, 4 + 3},
		{[]*Resource{of("a", "3", "1234567")}, nil, 8 + 3},
		{[]*Resource{of("a", "3", "1234567"), of("c", "1", "")}, []string{"bb", "unknown"}, 8 + 1},
		{nil, []string{"a", "c"}, 0},
	} {
		if s = s.Update(step.put, step.remove); s.Bytes() != step.want {
			t.Errorf("%v has %d bytes, want %d", names(s), s.Bytes(), step.want)
		}
	}
}
