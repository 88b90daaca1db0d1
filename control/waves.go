package control

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/xds"
)

// An edit of the mesh file may be one that loads, and that Envoy refuses, or dies of. So
// where the file asks for it, an edit goes to one of the proxies that it concerns, the
// canary, then to more, and to all when nothing has happened to those. What the others
// have follows the catalog meanwhile as ever: there are two snapshots then, one made of
// the last file and one of the new, and a [split] of both is what is served.
const (
	// wavePatience is how long proxies have to answer an edit. An Envoy that is sent
	// clusters warms them for up to 15 s, and listeners after them.
	wavePatience = time.Minute
	// waveGone is how long a proxy that has the edit may be gone. One that goes twice has
	// not lost its connection: it dies.
	waveGone = 5 * time.Second
	// waveFleet is how long after its start the control plane tries no edit: its fleet is
	// still coming back, and may not have those whom the edit concerns.
	waveFleet = 30 * time.Second
	// waveLeader is how long it is waited for a leader that says nothing of an edit: each
	// replica has a mesh file of its own, and not all are written at once.
	waveLeader = 30 * time.Second
	// waveLook is how often it is looked who is gone, and whether somebody has said that
	// an edit is meant.
	waveLook = time.Second
)

// waveSizes are how many of n proxies have an edit, wave by wave, before all have it: one,
// a twentieth, a quarter.
func waveSizes(n int) []int {
	var sizes []int
	for _, size := range []int{1, (n + 19) / 20, (n + 3) / 4} {
		if size < n && (len(sizes) == 0 || size > sizes[len(sizes)-1]) {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// Waves is an edit that some proxies have, or that was taken back from them.
type Waves struct {
	Revision string
	Since    time.Time
	Has, Of  int    // proxies that have it, and that it concerns; 0, 0: it waits for the fleet, or its turn
	Why      string // it was taken back; empty: it was not
	Service  string // of the proxy that was the reason; empty: none was
	By       string // the replica that has taken it back, and this one after it; empty: this one
	Source   string // the place in the mesh file that made what was refused, if it is known
}

// String says it in one line.
func (w *Waves) String() string {
	if w.Why != "" {
		return fmt.Sprintf("the last mesh file, for revision %s was taken back: %s: until the file changes, or controlplane accept --revision %s", w.Revision, w.Why, w.Revision)
	}
	if w.Of == 0 {
		return fmt.Sprintf("the last mesh file: revision %s waits until the fleet is back after the start, and until the replica that leads has it", w.Revision)
	}
	return fmt.Sprintf("the last mesh file for most proxies: %d of %d have revision %s so far", w.Has, w.Of, w.Revision)
}

// waves takes edits to the fleet bit by bit. Only [Loop.Run] uses it, but for what
// tryEdits has set.
type waves struct {
	log     *slog.Logger
	acked   func(context.Context, func(node string, p resource.Profile) bool) <-chan struct{} // nil: an edit goes to all at once
	proxies func() []xds.ProxyStatus
	leaves  func(resource.Profile) bool // it has said so
	meant   func(revision string) bool
	told    func() // that there is something else to see of it
	// others is [editOfOthers]; nil: this replica is alone.
	others func(revision string, seen time.Duration) (turn bool, by, why string)

	begun  time.Time
	all    *policy.Mesh // that every proxy has; nil: none has any
	past   *policy.Mesh // goes to all at once
	seen   *policy.Mesh // the newest that was looked at
	since  time.Time    // when it was first
	trial  *trial       // nil: none
	back   *Waves       // of the newest mesh file, which was taken back; nil: it was not
	trials int
	served *split // nil: nothing, or it is not known what

	tick <-chan time.Time // while the newest file is not in force
	over <-chan outcome   // of the wave that is under way
	drop func()           // has nobody wait for it any more
}

// trial is an edit on its way.
type trial struct {
	mesh  *policy.Mesh
	since time.Time
	scope string              // see [split]
	last  *translate.Snapshot // made of it
	order []resource.Profile  // whom it concerns
	next  int                 // in order: those before it were members
	sizes []int               // of the waves to come, and of the one under way
	// members have it.
	members map[resource.Profile]*member
	due     bool // a wave is to begin

	fleet  *resource.Fleet // in which they were last looked for
	looked time.Time       // when that was
}

// member is a proxy that has the edit.
type member struct {
	gone  time.Time // since when it is; zero: it is here
	times int       // that it went
}

// outcome is how a wave has ended.
type outcome struct {
	why     string // the edit is to be taken back; empty: it is not
	by      string // the replica that has done so; empty: this one
	service string
	source  string
}

// nack is a response that a proxy has refused.
type nack struct {
	profile resource.Profile
	node    string
	of      *xds.Nack
}

// maxNacks bounds those that the loop has not looked at yet.
const maxNacks = 100

// tryEdits has edits whose file asks for it tried on some proxies first. It is called before
// [Loop.Run].
func (l *Loop) tryEdits(w waves) {
	w.log = l.log
	l.waves = w
}

// SetPast is SetEdit for a mesh file that goes to all proxies at once.
func (l *Loop) SetPast(m *policy.Mesh, since time.Time) {
	l.set(func(in *translate.Input) { in.Mesh, l.edited, l.past = m, since, m })
}

// Nacked tells the loop that a proxy has refused something. It does not wait.
func (l *Loop) Nacked(node string, p resource.Profile, n *xds.Nack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.Waves == nil || len(l.nacks) >= maxNacks {
		return
	}
	l.nacks = append(l.nacks, nack{p, node, n})
	l.look()
}

// goesInWaves reports whether the step from one mesh file to another does. What two proxies
// must agree on has steps of its own.
func goesInWaves(from, to *policy.Mesh) bool {
	return to.Edits.Waves && to.Revision != from.Revision && to.MTLS == from.MTLS
}

// most returns the mesh file that most proxies are to have: the newest, or the one before
// it while that is tried or was taken back.
func (w *waves) most(newest *policy.Mesh, settled bool) *policy.Mesh {
	fresh := newest != w.seen
	if fresh {
		w.seen, w.since, w.back = newest, time.Now(), nil
	}
	switch {
	case w.acked == nil, w.all == nil, newest == w.all, newest == w.past, !goesInWaves(w.all, newest):
	case fresh && w.meant(newest.Revision):
		w.past = newest
	default:
		if w.trial != nil && (w.trial.mesh != newest || !settled) {
			w.end()
		}
		if w.tick == nil {
			w.tick = time.After(waveLook)
		}
		return w.all
	}
	w.end()
	w.tick, w.back = nil, nil
	return newest
}

// ticked looks at what no input tells of, and reports whether there is something to do.
func (w *waves) ticked() bool {
	w.tick = time.After(waveLook)
	if w.seen != nil && w.meant(w.seen.Revision) {
		w.past = w.seen
		return true
	}
	return w.back == nil
}

// ended is told how a wave has.
func (w *waves) ended(o outcome) {
	w.over = nil
	t := w.trial
	if o.why != "" {
		w.takeBack(t.mesh, o)
		return
	}
	if t.sizes = t.sizes[1:]; len(t.sizes) > 0 {
		t.due, t.fleet = true, nil
		return
	}
	w.log.Info("an edit of the mesh file goes to all proxies", "revision", t.mesh.Revision, "had", len(t.members))
	w.past = t.mesh
	w.end()
}

// takeBack has everybody have the last mesh file.
func (w *waves) takeBack(m *policy.Mesh, o outcome) {
	w.back = &Waves{Revision: m.Revision, Since: time.Now(), Why: o.why, Service: o.service, Source: o.source, By: o.by}
	if t := w.trial; t != nil {
		w.back.Has, w.back.Of = len(t.members), len(t.order)
	}
	w.log.Error("an edit of the mesh file is taken back: the last one stays in force", "revision", m.Revision, "why", o.why,
		"service", o.service, "source", o.source, "had", w.back.Has, "of", w.back.Of)
	w.end()
}

// end ends the trial that is under way, if one is.
func (w *waves) end() {
	w.stopWaiting()
	w.trial = nil
}

func (w *waves) stopWaiting() {
	if w.drop != nil {
		w.drop()
	}
	w.over, w.drop = nil, nil
}

// look takes the edit back if something has happened to those who have it, and gives it to
// others in the place of those that leave. It reports whether it did.
func (w *waves) look(fleet *resource.Fleet, nacks []nack, now time.Time) (moved bool) {
	if w.others != nil && w.tick != nil && w.back == nil && w.seen != w.past {
		if _, by, why := w.others(w.seen.Revision, now.Sub(w.since)); by != "" {
			w.takeBack(w.seen, outcome{why: why, by: by})
			return true
		}
	}
	t := w.trial
	if t == nil {
		return false
	}
	for _, n := range nacks {
		if t.members[n.profile] == nil || !w.served.differs(n.profile, n.of.Type, n.of.Resource) {
			continue
		}
		w.takeBack(t.mesh, refusal(n.node, n.profile, n.of.Type, n.of.Resource, n.of.Message, n.of.Source))
		return true
	}
	if fleet == t.fleet && now.Sub(t.looked) < waveLook {
		return false // there may be a thousand other changes a second, and thousands of members
	}
	t.fleet, t.looked = fleet, now
	for p, m := range t.members {
		_, here := fleet.Get(p.Key())
		switch {
		case w.leaves(p):
			delete(t.members, p)
			moved = true
		case here:
			m.gone = time.Time{}
		case m.gone.IsZero():
			m.gone = now
			m.times++
		}
		if m.times > 1 || !m.gone.IsZero() && now.Sub(m.gone) >= waveGone {
			w.takeBack(t.mesh, outcome{why: fmt.Sprintf("a proxy of %s that has it is gone", p.Service), service: p.Service})
			return true
		}
	}
	for ; len(t.members) < t.sizes[0] && t.next < len(t.order); t.next++ {
		if p := t.order[t.next]; !w.leaves(p) {
			if _, here := fleet.Get(p.Key()); here {
				t.members[p] = &member{}
				t.due, moved = true, true
			}
		}
	}
	if len(t.members) == 0 { // those whom it concerned have left: it begins anew
		w.end()
		moved = true
	}
	return moved
}

func refusal(node string, p resource.Profile, kind, name, message, source string) outcome {
	return outcome{why: fmt.Sprintf("%s refuses %s %s: %s", node, kind, name, shorten(message)), service: p.Service, source: source}
}

// differs reports whether a resource of a proxy is another one by the edit.
func (s *split) differs(p resource.Profile, kind, name string) bool {
	t, ok := resource.TypeNamed(kind)
	if !ok || name == "" || s == nil || s.tried == nil || !s.has[p] {
		return false
	}
	of := func(v *resource.View, scope *resource.Scope) *resource.Resource {
		if v == nil || scope == nil {
			return nil
		}
		if r := v.Own.Get(t, name); r != nil {
			return r
		}
		return scope.Sets.Get(t, name)
	}
	now, was := s.tried.View(p), s.all.View(p)
	if now == nil || was == nil {
		return now != was
	}
	a, b := of(now, s.tried.Scope(now.Scope)), of(was, s.all.Scope(was.Scope))
	if a == nil || b == nil {
		return a != b
	}
	return a.Version != b.Version
}

// beside returns what is served when most proxies have next; nil: it is served already.
// made is whether next is newer than what they have, and in is the newest input.
func (l *Loop) beside(next *translate.Snapshot, made bool, in translate.Input) *split {
	w := &l.waves
	tries := w.acked != nil && w.served != nil && w.tick != nil && w.back == nil && next.Input.Stage == translate.Settled && in.Mesh != next.Input.Mesh
	if w.trial != nil && !tries {
		w.end()
	}
	if tries {
		// What is held of the catalog is held for those who have the edit too.
		in, of := next.Input, in.Mesh
		in.Mesh = of
		if w.trial == nil {
			tries = l.beginTrial(next, in)
		} else if tried, cause, _ := l.attempt(w.trial.last, in); tried != nil {
			w.trial.last = tried
		} else {
			w.takeBack(of, outcome{why: cause})
			tries = false
		}
	}
	if !tries {
		if w.served != nil && w.served.tried != nil {
			return (&split{all: next}).after(w.served)
		}
		if !made {
			return nil
		}
		return whole(next)
	}
	t := w.trial
	s := &split{all: next, tried: t.last, has: w.served.has, scope: t.scope}
	if t.due {
		s.has = make(map[resource.Profile]bool, len(t.members))
		for p := range t.members {
			s.has[p] = true
		}
	}
	if s = s.after(w.served); !made && !t.due && len(s.scopes)+len(s.views) == 0 {
		return nil
	}
	return s
}

// beginTrial begins to try the mesh file of an input beside the snapshot that all proxies
// have. It is false where it does not, or not yet.
func (l *Loop) beginTrial(all *translate.Snapshot, in translate.Input) bool {
	w, now := &l.waves, time.Now()
	if now.Sub(w.begun) < waveFleet {
		return false
	}
	if w.others != nil {
		if turn, _, _ := w.others(in.Mesh.Revision, now.Sub(w.since)); !turn {
			return false
		}
	}
	tried, cause, _ := l.attempt(all, in)
	if tried == nil {
		w.takeBack(in.Mesh, outcome{why: cause})
		return false
	}
	concerned := concerns(tried, in.Mesh.Revision)
	if len(concerned) < 2 || l.budget.judge(all, tried, now) != nil { // there is nobody to spare, or it is held for its size
		w.past = in.Mesh
		l.set(func(*translate.Input) {}) // take it
		return false
	}
	w.trials++
	w.trial = &trial{
		mesh: in.Mesh, since: now, scope: fmt.Sprintf("\x00edit %d\x00", w.trials), last: tried, order: concerned, sizes: waveSizes(len(concerned)),
		members: make(map[resource.Profile]*member), due: true,
	}
	w.log.Info("an edit of the mesh file goes to the proxies in waves", "revision", in.Mesh.Revision, "concerned", len(concerned))
	l.report(all, tried)
	w.look(in.Fleet, nil, now)
	return w.trial != nil
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

// published is told what is served, and has the wave that begins by it waited for.
func (w *waves) published(ctx context.Context, s *split) {
	w.served, w.all = s, s.all.Input.Mesh
	if w.trial == nil || !w.trial.due {
		return
	}
	w.trial.due = false
	w.stopWaiting()
	over := make(chan outcome, 1)
	ctx, w.drop = context.WithCancel(ctx)
	w.over = over
	bake := w.trial.mesh.Edits.Bake
	go func() {
		if o := w.wait(ctx, s, bake); ctx.Err() == nil {
			over <- o
		}
	}()
}

// lost is told that a publication has failed: nobody knows what is served.
func (w *waves) lost() {
	w.end()
	w.served = nil
}

// wait waits until those who have the edit have answered it, and have lived with it.
func (w *waves) wait(ctx context.Context, s *split, bake time.Duration) outcome {
	patient, cancel := context.WithTimeout(ctx, wavePatience)
	defer cancel()
	if !within(patient, w.acked(patient, func(_ string, p resource.Profile) bool { return s.has[p] })) {
		return outcome{why: fmt.Sprintf("a proxy that has it does not answer for %s", wavePatience)}
	}
	within(ctx, time.After(bake))
	if ctx.Err() != nil {
		return outcome{}
	}
	// What a proxy has refused before it is not sent again, and it says nothing then.
	for _, is := range w.proxies() {
		if s.has[is.Profile] {
			if o, refuses := s.refused(is); refuses {
				return o
			}
		}
	}
	return outcome{}
}

// refused returns what a proxy has refused of the edit, or others have.
func (s *split) refused(is xds.ProxyStatus) (outcome, bool) {
	for kind, of := range is.Types {
		if n := of.LastNack; of.State == xds.Rejected && n != nil && s.differs(is.Profile, kind, n.Resource) {
			return refusal(is.Node, is.Profile, kind, n.Resource, n.Message, n.Source), true
		}
		for _, q := range of.Quarantined {
			if s.differs(is.Profile, kind, q.Name) {
				return refusal("a quorum of proxies", is.Profile, kind, q.Name, q.Message, q.Source), true
			}
		}
	}
	return outcome{}, false
}

// status is what people see of it; nil: the newest mesh file is in force.
func (w *waves) status() *Waves {
	switch {
	case w.back != nil:
		return w.back
	case w.trial != nil:
		return &Waves{Revision: w.trial.mesh.Revision, Since: w.trial.since, Has: len(w.trial.members), Of: len(w.trial.order)}
	case w.tick != nil && w.seen != nil:
		return &Waves{Revision: w.seen.Revision}
	}
	return nil
}
