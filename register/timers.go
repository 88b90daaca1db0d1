package register

import (
	"container/heap"
	"time"
)

// timer is when a record is to be looked at.
type timer struct {
	at    time.Time
	set   bool
	index int
	of    *record
}

// timers are those that are set, the next one first.
type timers []*timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}

// Push implements [heap.Interface].
func (t *timers) Push(x any) {
	tm := x.(*timer)
	tm.index = len(*t)
	*t = append(*t, tm)
}

// Pop implements [heap.Interface].
func (t *timers) Pop() any {
	last := len(*t) - 1
	tm := (*t)[last]
	(*t)[last] = nil
	*t = (*t)[:last]
	return tm
}

func (t *timers) set(tm *timer, of *record, at time.Time) {
	tm.at, tm.of = at, of
	if tm.set {
		heap.Fix(t, tm.index)
		return
	}
	tm.set = true
	heap.Push(t, tm)
}

func (t *timers) stop(tm *timer) {
	if tm.set {
		heap.Remove(t, tm.index)
		tm.set = false
	}
}

// next is when the first is due; zero: none is set.
func (t timers) next() time.Time {
	if len(t) == 0 {
		return time.Time{}
	}
	return t[0].at
}

// pop returns a record whose time has come, nil if there is none.
func (t *timers) pop(now time.Time) *record {
	if len(*t) == 0 || (*t)[0].at.After(now) {
		return nil
	}
	tm := (*t)[0]
	t.stop(tm)
	return tm.of
}
