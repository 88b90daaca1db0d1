package resource

import (
	"slices"
	"sync/atomic"
)

// History is what a value knows of the steps that led to it: which names each of
// the last ones changed. So a reader of an earlier state finds what differs in
// proportion to the change. Two values that descend from a third are compared
// whole: each knows its own steps alone. The zero value is of no use; see [NewHistory].
type History struct {
	state uint64
	steps []step // oldest first
}

// states numbers the states of all values: no two have the same.
var states atomic.Uint64

// step is one update, or several that stand together: the states before each, oldest
// first, and the names that they put or removed.
type step struct {
	from  []uint64
	names []string
}

const (
	// maxSteps is how many steps are remembered apart. Beyond that two of the
	// older ones become one: a reader far behind is told a few names in vain.
	maxSteps = 32
	// maxNames bounds the names of all steps. A reader further behind than that
	// compares whole values, at about that cost.
	maxNames = 1024
)

// NewHistory returns the history of a value that descends from nothing.
func NewHistory() History { return History{state: states.Add(1)} }

// Then returns the history of a successor that differs in the names.
func (h History) Then(names []string) History {
	steps := h.steps
	if len(steps) == maxSteps {
		steps = shorten(steps)
	}
	steps = append(make([]step, 0, len(steps)+1), steps...)
	return History{state: states.Add(1), steps: append(steps, step{from: []uint64{h.state}, names: names})}
}

// shorten returns one step less: the two neighbors with the fewest names as one,
// or all but the oldest if there are too many names. The newest steps stay
// apart, for most readers are not far behind.
func shorten(steps []step) []step {
	total, least, at := 0, maxNames, 0
	for i, st := range steps {
		total += len(st.names)
		if i < len(steps)/2 {
			if n := len(st.names) + len(steps[i+1].names); n < least {
				least, at = n, i
			}
		}
	}
	if total > maxNames {
		return steps[1:]
	}
	merged := step{from: slices.Concat(steps[at].from, steps[at+1].from), names: slices.Concat(steps[at].names, steps[at+1].names)}
	return slices.Concat(steps[:at], []step{merged}, steps[at+2:])
}

// Since returns the names that may differ between an earlier state and this one;
// a name may come twice. It is false when that is not known, and the two must be
// compared whole.
func (h History) Since(base History) ([]string, bool) {
	if base.state == h.state {
		return nil, true
	}
	first := len(h.steps) - 1
	for first >= 0 && !slices.Contains(h.steps[first].from, base.state) {
		first--
	}
	if first < 0 {
		return nil, false
	}
	steps := h.steps[first:]
	if len(steps) == 1 {
		return steps[0].names, true
	}
	var names []string
	for _, st := range steps {
		names = append(names, st.names...)
	}
	return names, true
}
