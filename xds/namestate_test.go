package xds

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// show writes a state as the table in namestate.go does.
func (n *nameState) show() string {
	if n.answer {
		return n.phase.String() + "*"
	}
	return n.phase.String()
}

// What becomes of a name, as the table in namestate.go has it: no other states can
// be reached, and none is at odds with itself.
func TestStatesOfANameAndTheirTransitions(t *testing.T) {
	old, other := cluster("a", "old"), cluster("a", "other")
	rejects := func() *rejection { return &rejection{version: "refused"} }
	events := []struct {
		name  string
		apply func(*nameState)
	}{
		{"needed again", (*nameState).request},
		{"asked for", (*nameState).ask},
		{"rejected with others", func(n *nameState) { n.rejectedWithOthers(old) }},
		{"rejected alone", func(n *nameState) { n.rejectedAlone(old, rejects()) }},
		{"withheld", (*nameState).withhold},
		{"changed", func(n *nameState) { n.serve(); n.forgive() }},
	}
	const want = `
changed:    requested, requested*, suspect, nacked, withheld, changed
requested:  requested, requested*, suspect, nacked, withheld*, requested
requested*: requested*, requested*, suspect, nacked, withheld*, requested*
suspect:    suspect, suspect*, suspect, nacked, withheld*, suspect
suspect*:   suspect*, suspect*, suspect, nacked, withheld*, suspect*
nacked:     nacked, nacked*, nacked, nacked, withheld*, suspect
nacked*:    nacked*, nacked*, nacked, nacked, withheld*, suspect*
reverted:   nacked, nacked*, nacked, nacked, withheld, changed
restoring:  restoring, restoring*, nacked, nacked, withheld, changed
restoring*: restoring*, restoring*, nacked, nacked, withheld*, requested*
withheld:   withheld*, withheld*, suspect, nacked, withheld, changed
withheld*:  withheld*, withheld*, suspect, nacked, withheld*, requested
`
	seen := make(map[string]string)
	var visit func(n nameState)
	visit = func(n nameState) {
		if err := n.check(); err != nil {
			t.Error(err)
		}
		if _, ok := seen[n.show()]; ok {
			return
		}
		seen[n.show()] = ""
		var to []string
		for _, e := range events {
			next := n
			e.apply(&next)
			to = append(to, next.show())
			visit(next)
		}
		seen[n.show()] = strings.Join(to, ", ")
		visit(*n.sentInstead(other))
	}
	for _, n := range []*nameState{
		clientHas(nil), clientHas(old), clientReports("old"), newlyRequested(), newlyAsked(), keepsWithheld(old),
	} {
		visit(*n)
		earlier := *n // it was rejected on an earlier stream
		earlier.serve()
		earlier.rejectedEarlier(old, rejects())
		visit(earlier)
	}
	for line := range strings.Lines(strings.TrimSpace(want)) {
		from, to, _ := strings.Cut(strings.TrimSpace(line), ":")
		if got := seen[from]; got != strings.TrimSpace(to) {
			t.Errorf("%s: to %s", from, got)
		}
		delete(seen, from)
	}
	for state, to := range seen {
		t.Errorf("%s: to %s, and is not in the table", state, to)
	}
}

// What was sent instead of what is served ends an answer, and keeps a rejection.
func TestWhatIsSentInsteadOfWhatIsServed(t *testing.T) {
	old := cluster("a", "old")
	asked := func(n *nameState) *nameState { n.ask(); return n }
	nack := clientHas(nil)
	nack.rejectedAlone(old, &rejection{version: "refused"})
	restore := newlyAsked()
	restore.rejectedEarlier(old, &rejection{version: "refused"})
	var got []string
	for _, n := range []*nameState{asked(clientHas(old)), asked(nack), restore, asked(keepsWithheld(old))} {
		from := n.show()
		next := n.sentInstead(old)
		if next.has != old {
			t.Errorf("%s: the client has %v", from, next.has)
		}
		got = append(got, from+" to "+next.show())
	}
	if want := []string{"requested* to changed", "nacked* to reverted", "restoring* to reverted", "withheld* to withheld"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// check returns what is wrong with a state, nil for one that there may be.
func (n *nameState) check() error {
	rejects := n.phase == nacked || n.phase == reverted || n.phase == restoring
	var wrong error
	switch {
	case n.has != nil && n.version != "":
		wrong = errors.New("the client has two things at once")
	case rejects != (n.rejection != nil):
		wrong = fmt.Errorf("rejection %v", n.rejection)
	case (n.phase == restoring) != (n.restore != nil):
		wrong = fmt.Errorf("to restore: %v", n.restore)
	case n.answer && (n.phase == changed || n.phase == reverted):
		wrong = errors.New("an answer that nobody gives")
	case n.phase == withheld && !n.since.IsZero():
		wrong = errors.New("it waits for a cluster")
	}
	if wrong != nil {
		return fmt.Errorf("%s: %w", n.phase, wrong)
	}
	return nil
}
