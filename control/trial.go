package control

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/xds"
)

const (
	// wavePatience is how long proxies have to answer an edit. An Envoy that is sent
	// clusters warms them for up to 15 s, and listeners after them.
	wavePatience = time.Minute
	// waveGone is how long a proxy that has the edit may be gone. One that goes twice, with
	// less than waveCalm between, has not lost its connection: it dies.
	waveGone = 5 * time.Second
	waveCalm = time.Minute
)

// waveSizes are how many of n proxies have an edit, wave by wave, before all have it: one,
// a twentieth, a quarter.
func waveSizes(n int) []int {
	sizes := []int{1}
	for _, size := range []int{(n + 19) / 20, (n + 3) / 4} {
		if size < n && size > sizes[len(sizes)-1] {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// trial is an edit on its way.
type trial struct {
	mesh  *policy.Mesh
	since time.Time
	scope string              // see [split]
	last  *translate.Snapshot // made of it

	order   []resource.Profile           // whom it concerns
	next    int                          // in order: those before it were members
	sizes   []int                        // of the waves to come, and of the one under way
	members map[resource.Profile]*member // they have it
	fill    bool                         // the wave has not all of its members yet
	due     bool                         // it is to be published, and begins then
	again   bool                         // one of them was away since it began
	ended   *outcome                     // nil: it has not

	fleet  *resource.Fleet // in which they were last looked for
	looked time.Time       // when that was
}

// member is a proxy that has the edit.
type member struct {
	gone  time.Time // since when it is; zero: it is here
	back  time.Time // since when it is here again
	times int       // that it went, one soon after the other
}

// beginTrial begins to try the mesh file of an input beside the snapshot that all proxies
// have. It is false where it does not, or not yet.
func (l *Loop) beginTrial(all *translate.Snapshot, in translate.Input, now time.Time) bool {
	w := &l.waves
	tried, cause, _ := l.attempt(all, in)
	if tried == nil {
		w.takeBack(in.Mesh, outcome{why: cause})
		return false
	}
	if e := l.budget.judge(all, tried, now); e != nil {
		w.takeBack(in.Mesh, outcome{why: "what would be made of it is too much: " + e.what})
		return false
	}
	order := concerns(tried, in.Mesh.Revision)
	if len(order) == 0 {
		if w.concernsNobody(now) {
			l.set(func(*translate.Input) {}) // take it
		}
		return false
	}
	order, well := wellFirst(order, w.proxies())
	w.idle = false
	w.trials++
	w.trial = &trial{
		mesh: in.Mesh, since: now, scope: fmt.Sprintf("\x00edit %d\x00", w.trials), last: tried,
		order: order, sizes: waveSizes(well), members: make(map[resource.Profile]*member), fill: true,
	}
	l.report(all, tried)
	w.look(in.Fleet, nil, now)
	if w.trial == nil {
		return false
	}
	w.log.Info("an edit of the mesh file goes to the proxies in waves", "revision", in.Mesh.Revision, "concerned", len(order))
	return true
}

// concerns are the profiles for which a snapshot differs from its predecessor, in the order
// in which they are to have it: at random, but for one of each service before a second of any.
func concerns(s *translate.Snapshot, seed string) []resource.Profile {
	scopes, views := make(map[string]bool), make(map[resource.Profile]bool)
	for _, scope := range s.ChangedScopes {
		scopes[scope.Key] = true
	}
	for _, v := range s.ChangedViews {
		views[v.Profile] = true
	}
	type place struct {
		profile resource.Profile
		rank    int
		hash    uint64
	}
	var all []place
	for p := range s.Input.Fleet.Profiles() {
		if !views[p] {
			if v := s.View(p); v == nil || !scopes[v.Scope] {
				continue
			}
		}
		all = append(all, place{profile: p, hash: xxhash.Sum64String(seed + p.Key())})
	}
	slices.SortFunc(all, func(a, b place) int { return cmp.Compare(a.hash, b.hash) })
	of := make(map[string]int)
	for i, p := range all {
		all[i].rank = of[p.profile.Service]
		of[p.profile.Service]++
	}
	slices.SortStableFunc(all, func(a, b place) int { return cmp.Compare(a.rank, b.rank) })
	order := make([]resource.Profile, len(all))
	for i, p := range all {
		order[i] = p.profile
	}
	return order
}

// wellFirst puts those behind the others that do not have what they had been sent before:
// what becomes of an edit there says nothing of it. It returns how many the others are, of
// whom there is one at least.
func wellFirst(order []resource.Profile, all []xds.ProxyStatus) ([]resource.Profile, int) {
	ill := make(map[resource.Profile]bool)
	for _, is := range all {
		for _, of := range is.Types {
			if of.State == xds.Rejected || of.State == xds.Pending {
				ill[is.Profile] = true
			}
		}
	}
	slices.SortStableFunc(order, func(a, b resource.Profile) int {
		switch {
		case ill[a] == ill[b]:
			return 0
		case ill[a]:
			return 1
		}
		return -1
	})
	well := len(order)
	if i := slices.IndexFunc(order, func(p resource.Profile) bool { return ill[p] }); i > 0 {
		well = i
	}
	return order, well
}

// look returns what becomes of the edit, nil while that is not known, and whether others
// have it now.
func (t *trial) look(w *waves, fleet *resource.Fleet, nacks []nack, now time.Time) (o *outcome, moved bool) {
	for _, n := range nacks {
		if o := t.refusal(w.served, n); o != nil {
			return o, false
		}
	}
	if t.ended != nil && t.ended.why != "" {
		return t.ended, false
	}
	if fleet == t.fleet && now.Sub(t.looked) < waveLook && t.ended == nil && !t.fill {
		return nil, false // there may be a thousand other changes a second, and thousands of members
	}
	t.fleet, t.looked = fleet, now
	away := false
	for p, m := range t.members {
		_, here := fleet.Get(p.Key())
		switch {
		case w.leaves(p):
			delete(t.members, p)
			moved = true
			continue
		case here && !m.gone.IsZero():
			m.gone, m.back, t.again = time.Time{}, now, true
		case here && now.Sub(m.back) >= waveCalm:
			m.times = 0
		case !here && m.gone.IsZero():
			if m.gone = now; !w.released(p) {
				m.times++
			}
		}
		if m.times > 1 || !m.gone.IsZero() && now.Sub(m.gone) >= waveGone {
			return &outcome{why: fmt.Sprintf("the proxy of %s at %s, which has it, is gone%s", p.Service, at(p), again(m)), service: p.Service}, false
		}
		away = away || !m.gone.IsZero()
	}
	switch {
	case t.ended == nil || away: // of one that is away it is seen soon whether it comes back
	case t.again: // what has come back has to answer, and to live with it, as well
		t.ended, t.again, t.due = nil, false, true
		return nil, true
	default:
		if t.ended, t.sizes = nil, t.sizes[1:]; len(t.sizes) == 0 {
			return &outcome{}, false
		}
		t.fill, t.due = true, true
	}
	if t.fill || len(t.members) == 0 {
		return nil, t.enlist(w, fleet) || moved
	}
	return nil, moved
}

// enlist makes the wave as large as it is to be. It reports whether it found anybody.
func (t *trial) enlist(w *waves, fleet *resource.Fleet) (found bool) {
	t.fill, t.again = false, false
	for ; len(t.members) < t.sizes[0] && t.next < len(t.order); t.next++ {
		p := t.order[t.next]
		if _, here := fleet.Get(p.Key()); here && !w.leaves(p) {
			t.members[p] = &member{}
			t.due, found = true, true
		}
	}
	return found
}

// refusal is what is to become of the edit for a response that a proxy has refused; nil:
// nothing, for it is not one of those that have it, for it refuses something else, or for
// its own machine is at fault.
func (t *trial) refusal(s *split, n nack) *outcome {
	if t.members[n.profile] == nil || n.of.Cause != "" {
		return nil
	}
	names := []string{n.of.Resource}
	if n.of.Resource == "" {
		if !n.of.Final {
			return nil // its parts come one by one
		}
		names = n.of.Resources
	}
	for _, name := range names {
		if s.differs(n.profile, n.of.Type, name) {
			return refused(n.node, n.profile, n.of.Type, name, n.of.Message, n.of.Source)
		}
	}
	return nil
}

func refused(who string, p resource.Profile, kind, name, message, source string) *outcome {
	return &outcome{why: fmt.Sprintf("%s refuses %s %s: %s", who, kind, name, shorten(message)), service: p.Service, source: source}
}

// wait waits until those who have the edit have answered it, and have lived with it.
func (w *waves) wait(ctx context.Context, s *split, bake time.Duration) outcome {
	patient, cancel := context.WithTimeout(ctx, wavePatience)
	defer cancel()
	if !within(patient, w.acked(patient, func(_ string, p resource.Profile) bool { return s.has[p] })) {
		return s.silent(w.proxies())
	}
	if !within(ctx, time.After(bake)) {
		return outcome{}
	}
	// What a proxy has refused before it is not sent again, and it says nothing then.
	for _, is := range w.proxies() {
		if s.has[is.Profile] {
			if o := s.refusedBy(is); o != nil {
				return *o
			}
		}
	}
	return outcome{}
}

// silent says which of those that have the edit has not answered it.
func (s *split) silent(all []xds.ProxyStatus) outcome {
	for _, is := range all {
		for _, of := range is.Types {
			if s.has[is.Profile] && of.State == xds.Pending {
				return outcome{why: fmt.Sprintf("%s, which has it, has not answered it for %s", is.Node, wavePatience), service: is.Service}
			}
		}
	}
	return outcome{why: fmt.Sprintf("a proxy that has it has not answered it for %s", wavePatience)}
}

// at is where a proxy takes the mesh's connections, for people.
func at(p resource.Profile) string {
	return net.JoinHostPort(cmp.Or(p.Address, "an address that it does not say"), strconv.Itoa(int(p.MeshPort)))
}

func again(m *member) string {
	if m.times > 1 {
		return " again"
	}
	return ""
}

// refusedBy returns what a proxy refuses of the edit, or others do; nil: nothing.
func (s *split) refusedBy(is xds.ProxyStatus) *outcome {
	for kind, of := range is.Types {
		for name, version := range of.Refused {
			if s.differs(is.Profile, kind, name) && s.has[is.Profile] && s.versionOf(is.Profile, kind, name) == version {
				message, source := "as it did before", ""
				if n := of.LastNack; n != nil && n.Resource == name {
					message, source = n.Message, n.Source
				}
				return refused(is.Node, is.Profile, kind, name, message, source)
			}
		}
		for _, q := range of.Quarantined {
			if s.differs(is.Profile, kind, q.Name) {
				return refused("a quorum of proxies", is.Profile, kind, q.Name, q.Message, q.Source)
			}
		}
	}
	return nil
}
