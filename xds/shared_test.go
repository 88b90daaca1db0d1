package xds

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// replicas are servers of one fleet that tell each other what they share.
type replicas struct {
	t    *testing.T
	all  map[string]*world
	gone map[string]bool
}

// add starts one more replica, which serves what the world has.
func (r *replicas) add(name string, w *world) *world {
	other := *w
	if len(r.all) > 0 {
		other.server = testServer()
		other.publish()
	}
	r.all[name] = &other
	return &other
}

// agree has each told of all others, until nothing changes any more.
func (r *replicas) agree() {
	r.t.Helper()
	for range 4 {
		said := make(map[string]json.RawMessage)
		for name, w := range r.all {
			if r.gone[name] {
				continue
			}
			text, err := w.server.Shared()
			if err != nil {
				r.t.Fatal(err)
			}
			said[name] = text
		}
		for name, w := range r.all {
			others := make(map[string]json.RawMessage)
			for other, text := range said {
				if other != name {
					others[other] = text
				}
			}
			if err := w.server.Agree(name, others); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

// quarantined is what each has in quarantine.
func (r *replicas) quarantined() string {
	var all []string
	for name, w := range r.all {
		for _, q := range w.server.Quarantines() {
			all = append(all, fmt.Sprintf("%s: %s@%s", name, q.Name, q.Version))
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (r *replicas) want(what, quarantined string) {
	r.t.Helper()
	r.agree()
	if got := r.quarantined(); got != quarantined {
		r.t.Errorf("%s: in quarantine are %q, want %q", what, got, quarantined)
	}
}

// twoReplicas have each a few proxies, and the three of the first refuse a content.
func twoReplicas(t *testing.T, w *world) (r *replicas, one, two *world, theirs []deltaClient) {
	r = &replicas{t: t, all: make(map[string]*world), gone: make(map[string]bool)}
	one, two = r.add("one", w), r.add("two", w)
	refusing := proxies(t, one, 3)
	theirs = make([]deltaClient, 4)
	for i := range theirs {
		c := openDelta(t, two.server)
		c.node.Id = fmt.Sprint("other-", i)
		c.subscribe(cds)
		c.settle()
		theirs[i] = c
	}
	for _, at := range []*world{one, two} {
		at.put(cluster("a", "2")).publish()
	}
	for _, c := range refusing {
		c.settle("cluster a@2")
	}
	return r, one, two, theirs
}

// What the proxies of one replica have refused, none of the others sends.
func TestReplicasAgreeOnWhatIsInQuarantine(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		r, one, two, theirs := twoReplicas(t, w)
		theirs[0].wantSent("cluster a@2", "cluster a@2")
		r.want("three have refused it at the first", "one: cluster a@2, two: cluster a@2")
		for _, c := range theirs[1:] { // it was on its way
			c.settle("cluster a@2")
		}
		fresh := openDelta(t, two.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(cds)
		fresh.expect("cluster a@1 b@1")
		third := r.add("three", two)
		r.want("one that starts", "one: cluster a@2, three: cluster a@2, two: cluster a@2")

		// Other content ends it, wherever it began.
		for _, at := range []*world{one, two, third} {
			at.put(cluster("a", "3")).publish()
		}
		fresh.wantSent("cluster a@3")
		r.want("after other content", "")
	})
}

// A replica that goes takes nothing out of quarantine.
func TestAQuarantineOutlivesTheReplicaThatDecided(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		r, _, _, theirs := twoReplicas(t, w)
		r.agree()
		theirs[0].settle("cluster a@2")
		delete(r.all, "one")
		r.want("the first is gone", "two: cluster a@2")
		time.Sleep(time.Hour)
		r.want("an hour later", "two: cluster a@2")
	})
}

// What a quorum of one replica's proxies run is good, whatever those of another say.
func TestWhatIsProvenAtOneReplicaIsInQuarantineAtNone(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		r, _, _, theirs := twoReplicas(t, w)
		for _, c := range theirs {
			c.wantSent("cluster a@2")
		}
		r.want("the second has proven it", "")
		late := openDelta(t, r.all["one"].server)
		late.node.Id = "late"
		late.subscribe(cds)
		late.expect("cluster a@2 b@1")
	})
}

// What cannot be read is not followed, in part either.
func TestWhatAReplicaSaysInOtherWordsIsNotFollowed(t *testing.T) {
	many := strings.Repeat(`{"type":"cluster","name":"a","version":"1","depends":"0"},`, maxShared+1)
	for _, text := range []string{
		`x`, `{"quarantined":[{"type":"secret","name":"default","version":"1","depends":"0"}]}`,
		`{"quarantined":[{"type":"cluster","name":"a","version":"1","depends":"0"},{"type":"moon","name":"a","version":"1","depends":"0"}]}`,
		`{"quarantined":[{"type":"cluster","name":"a","version":"1","depends":"z"}]}`,
		`{"quarantined":[{"type":"cluster","name":"","version":"1","depends":"0"}]}`,
		`{"proven":[{"type":"cluster","name":"a"}]}`,
		`{"quarantined":[` + strings.TrimSuffix(many, ",") + `]}`,
	} {
		s := testServer()
		if err := s.Agree("one", map[string]json.RawMessage{"two": json.RawMessage(text)}); err == nil || len(s.Quarantines()) != 0 {
			t.Errorf("%.100s: %v, and %v are in quarantine", text, err, s.Quarantines())
		}
	}
}
