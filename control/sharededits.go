package control

import (
	"fmt"
	"time"

	"datapunk.dev/controlplane/replica"
)

// editForPeers is what this replica says to the others of an edit that is not in force;
// nil: there is none. What another one has taken back is for that one to say.
func editForPeers(w *Waves) *replica.Edit {
	switch {
	case w == nil || w.By != "":
		return nil
	case w.Why != "":
		return &replica.Edit{Revision: w.Revision, TakenBack: shorten(w.Why)}
	}
	return &replica.Edit{Revision: w.Revision, Idle: w.Idle}
}

// editElsewhere is what the other replicas do with an edit.
type editElsewhere struct {
	turn    bool   // this one may try it
	busy    bool   // another one tries it, or is about to
	by, why string // another one has taken it back, and why; empty: none has
}

// editOfOthers says what the others do with a mesh file that this replica has seen so long
// ago. The leader is the first to try it, so that of the whole fleet one proxy has it
// first; then a leader without a proxy that it concerns leaves it to the others.
func editOfOthers(v *replica.View, revision string, seen time.Duration) (is editElsewhere) {
	if v == nil || v.Trouble != "" {
		return editElsewhere{turn: true}
	}
	for _, m := range v.Others() {
		switch {
		case m.Edit == nil || m.Edit.Revision != revision:
		case m.Edit.TakenBack != "":
			return editElsewhere{by: m.Name, why: fmt.Sprintf("replica %s has taken it back: %s", m.Name, m.Edit.TakenBack)}
		case !m.Edit.Idle:
			is.busy = true
		}
	}
	leader := v.Member(v.Leader)
	switch {
	case v.Leads || leader == nil || leader.Mesh == revision:
		is.turn = true
	case leader.Edit != nil && leader.Edit.Revision == revision:
		is.turn = leader.Edit.Idle
	default:
		is.turn = seen >= waveLeader
	}
	return is
}
