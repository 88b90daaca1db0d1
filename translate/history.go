package translate

// history is what a value knows of the steps that led to it: which names each
// of the last ones changed. So a reader of an earlier state finds what differs
// in proportion to the change.
type history struct {
	id  *lineage
	seq uint64
	log []step // oldest first
}

// lineage ties values that descend from one another; those of two lineages can
// only be compared whole.
type lineage struct{ _ byte }

// step is one update: the names that it put or removed, and the state before it.
type step struct {
	from  uint64
	names []string
}

// maxLog is how many steps are remembered: a reader further behind compares
// whole values.
const maxLog = 32

func newHistory() history { return history{id: &lineage{}} }

// then returns the history of a successor that differs in the names.
func (h history) then(names []string) history {
	log := h.log
	if len(log) == maxLog {
		log = log[1:]
	}
	next := make([]step, len(log), len(log)+1)
	copy(next, log)
	return history{id: h.id, seq: h.seq + 1, log: append(next, step{from: h.seq, names: names})}
}

// since returns the names that may differ between an earlier state and this
// one; a name may come twice. It is false when that is not known.
func (h history) since(base history) ([]string, bool) {
	switch {
	case base.id != h.id || base.seq > h.seq:
		return nil, false
	case base.seq == h.seq:
		return nil, true
	case h.log[0].from > base.seq:
		return nil, false
	}
	steps := h.log[len(h.log)-int(h.seq-base.seq):]
	if len(steps) == 1 {
		return steps[0].names, true
	}
	var names []string
	for _, st := range steps {
		names = append(names, st.names...)
	}
	return names, true
}
