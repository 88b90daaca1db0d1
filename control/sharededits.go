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
	return &replica.Edit{Revision: w.Revision}
}

// editOfOthers says whether it is this replica's turn to try a mesh file that it has seen so
// long ago: the leader is the first, so that of the whole fleet one proxy has an edit
// first. By is another one that has taken it back, and why.
func editOfOthers(v *replica.View, revision string, seen time.Duration) (turn bool, by, why string) {
	if v == nil || v.Trouble != "" {
		return true, "", ""
	}
	for _, m := range v.Others() {
		if m.Edit != nil && m.Edit.Revision == revision && m.Edit.TakenBack != "" {
			return false, m.Name, fmt.Sprintf("replica %s has taken it back: %s", m.Name, m.Edit.TakenBack)
		}
	}
	leader := v.Member(v.Leader)
	switch {
	case v.Leads || leader == nil || leader.Mesh == revision:
		return true, "", ""
	case leader.Edit != nil && leader.Edit.Revision == revision:
		return false, "", ""
	}
	return seen >= waveLeader, "", ""
}
