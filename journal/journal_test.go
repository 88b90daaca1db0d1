package journal

import (
	"fmt"
	"testing"

	"datapunk.dev/controlplane/admin/api"
)

func messages(is api.Events) (all []string) {
	for _, e := range is.Events {
		all = append(all, e.Message)
	}
	return all
}

// Who comes back with the cursor of the last event has what came since, once.
func TestEventsAfterACursor(t *testing.T) {
	j := New()
	for i := range 5 {
		j.Add(api.Event{Message: fmt.Sprint(i), Node: map[bool]string{true: "lake-1"}[i%2 == 0]})
	}
	first, _ := j.Read("", 3)
	if got := fmt.Sprint(messages(first)); got != "[0 1 2]" || first.Missed {
		t.Errorf("first %s, missed %t", got, first.Missed)
	}
	second, changed := j.Read(first.Next, 10)
	if got := fmt.Sprint(messages(second)); got != "[3 4]" || second.Missed {
		t.Errorf("then %s, missed %t", got, second.Missed)
	}
	none, _ := j.Read(second.Next, 10)
	if len(none.Events) != 0 || none.Next != second.Next {
		t.Errorf("and then %+v", none)
	}
	select {
	case <-changed:
		t.Error("something came")
	default:
	}
	j.Add(api.Event{Message: "5"})
	<-changed
	third, _ := j.Read(second.Next, 10)
	if got := fmt.Sprint(messages(third)); got != "[5]" {
		t.Errorf("and then %s", got)
	}
}

// A crowd of proxies takes no room from what operators did, and who was too slow for it
// is told that something is missing.
func TestACrowdOfProxies(t *testing.T) {
	j := New()
	j.Add(api.Event{Message: "an act", Operator: "ada"})
	early, _ := j.Read("", 1)
	for i := range 3 * keepOfProxies {
		j.Add(api.Event{Message: "crowd", Node: fmt.Sprint("p", i)})
	}
	all, _ := j.Read("", 10*keepOfProxies)
	if len(all.Events) != keepOfProxies+1 || all.Events[0].Operator != "ada" {
		t.Errorf("%d events, first %+v", len(all.Events), all.Events[0])
	}
	if late, _ := j.Read(early.Next, 1); !late.Missed {
		t.Error("a slow reader is not told that it has missed something")
	}
	if next, _ := j.Read(all.Next, 1); next.Missed {
		t.Error("one that is up to date is told so")
	}
}

// A cursor of before a restart is known as such, and all that there is follows.
func TestACursorOfAnotherLife(t *testing.T) {
	before, j := New(), New()
	j.life = before.life + "x"
	before.Add(api.Event{Message: "old"})
	j.Add(api.Event{Message: "new"})
	last, _ := before.Read("", 1)
	for _, cursor := range []string{last.Next, "x", "x-1", j.cursor(position{n: 7}), j.life + "-1-2", j.life + "-1-0-9", j.life + "-1-0-0-0"} {
		if is, _ := j.Read(cursor, 10); !is.Missed || fmt.Sprint(messages(is)) != "[new]" {
			t.Errorf("%s: %+v", cursor, is)
		}
	}
}

// Who begins with nothing misses nothing, page by page, though the crowd's first events
// are gone that came between older ones of operators; until some go that it had yet to read.
func TestWhoBeginsMissesNothingOnTheNextPage(t *testing.T) {
	j := New()
	const acts = 10
	for i := range acts {
		j.Add(api.Event{Message: fmt.Sprint("act ", i), Operator: "ada"})
	}
	for i := range 3 * keepOfProxies {
		j.Add(api.Event{Message: fmt.Sprint("crowd ", i), Node: "p"})
	}
	first, _ := j.Read("", 2)
	read := len(first.Events)
	for at := first.Next; ; {
		part, _ := j.Read(at, 100)
		if part.Missed {
			t.Fatalf("the page after %s is said to have missed something", at)
		}
		if len(part.Events) == 0 {
			break
		}
		read += len(part.Events)
		if at = part.Next; at != part.Events[len(part.Events)-1].Cursor {
			t.Fatalf("next is %s, and the last event has %s", at, part.Events[len(part.Events)-1].Cursor)
		}
	}
	if read != acts+keepOfProxies {
		t.Errorf("%d events in all pages", read)
	}

	j.Add(api.Event{Message: "one more", Node: "p"})
	late, _ := j.Read(first.Events[0].Cursor, 1)
	if !late.Missed {
		t.Error("an event of the crowd is gone, and its reader is not told")
	}
	if next, _ := j.Read(late.Next, 1); next.Missed {
		t.Error("it is told twice")
	}
	for range keepOfMesh {
		j.Add(api.Event{Message: "act", Operator: "ada"})
	}
	if next, _ := j.Read(late.Next, 1); !next.Missed {
		t.Error("acts are gone, older than what is gone of the crowd, and it is not told")
	}
}
