package translate

// NewSnapshot returns a snapshot of the given views, all of them changed, that
// was made from no input. Translate does not continue it.
func NewSnapshot(views ...*View) *Snapshot {
	s := &Snapshot{Changed: views, given: make(map[Profile]*View, len(views))}
	for _, v := range views {
		s.given[v.Profile] = v
	}
	return s
}
