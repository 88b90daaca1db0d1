package control

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/xds"
)

// An edit of the mesh file may be one that loads, and that Envoy refuses, or dies of. So
// where the file asks for it, an edit goes to one of the proxies that it concerns, the
// canary, then to more, and to all when nothing has happened to those: see [trial]. What
// the others have follows the catalog meanwhile as ever: there are two snapshots then, one
// made of the last file and one of the new, and a [split] of both is what is served.
const (
	// waveFleet is how long a fleet that comes back after a start has to have come to rest:
	// before, it is not known whom an edit concerns. waveFleets is how long that is waited
	// for: where proxies come all the time, or none does, it never is.
	waveFleet  = 30 * time.Second
	waveFleets = 5 * time.Minute
	// waveLeader is how long it is waited for a leader that says nothing of an edit: each
	// replica has a mesh file of its own, and not all are written at once.
	waveLeader = 30 * time.Second
	// waveHear is how long it takes at most to hear of what another replica does.
	waveHear = 5 * time.Second
	// waveLook is how often it is looked who is gone, and whether somebody has said that
	// an edit is meant.
	waveLook = time.Second
)

// Waves is an edit that some proxies have, or that was taken back from them.
type Waves struct {
	Revision string
	Since    time.Time
	Has, Of  int    // proxies that have it, and that it concerns; 0, 0: it waits
	Idle     bool   // it concerns no proxy of this replica, and waits for those of others
	Why      string // it was taken back; empty: it was not
	Service  string // of the proxy that was the reason; empty: none was
	By       string // the replica that has taken it back, and this one after it; empty: this one
	Source   string // the place in the mesh file that made what was refused, if it is known
}

// tried reports whether proxies have it that may show that it is bad.
func (w *Waves) tried() bool { return w != nil && w.Why == "" && w.Of > 0 }

// String says it in one line.
func (w *Waves) String() string {
	if w.Why != "" {
		return fmt.Sprintf("the last mesh file, for revision %s was taken back: %s: until the file changes, or controlplane accept --revision %s", w.Revision, w.because(), w.Revision)
	}
	if w.Of == 0 {
		return fmt.Sprintf("the last mesh file: revision %s waits until the fleet is back after the start, a step of mTLS is over, or other replicas have it", w.Revision)
	}
	return fmt.Sprintf("the last mesh file for most proxies: %d of %d have revision %s so far", w.Has, w.Of, w.Revision)
}

// because is why it was taken back, and where that stands in the mesh file.
func (w *Waves) because() string {
	if w.Source == "" {
		return w.Why
	}
	return w.Source + ": " + w.Why
}

// waves takes edits to the fleet bit by bit. Only [Loop.Run] uses it.
type waves struct {
	// Set by tryEdits.
	acked    func(context.Context, func(node string, p resource.Profile) bool) <-chan struct{} // nil: an edit goes to all at once
	proxies  func() []xds.ProxyStatus
	leaves   func(resource.Profile) bool // it has gone for a reason that is known, or is about to
	released func(resource.Profile) bool // this control plane has ended its stream; it comes back, as a rule
	stopping func() bool                 // this control plane is: its proxies go elsewhere
	meant    func(revision string) bool
	told     func() // that there is something else to see of it
	// others is [editOfOthers]; nil: this replica is alone.
	others func(revision string, seen time.Duration) editElsewhere

	log    *slog.Logger
	all    *policy.Mesh // that every proxy has, or is to have first; nil: that is not known
	past   *policy.Mesh // goes to all at once
	seen   *policy.Mesh // the newest that was looked at
	since  time.Time    // when it was first
	idle   bool         // it concerns no proxy of this replica
	back   *Waves       // it was taken back; nil: it was not
	trial  *trial       // it is on its way; nil: it is not
	trials int
	begin  time.Time // of the next one, at the earliest
	served *split    // nil: nothing, or it is not known what

	first time.Time // when anything was served first
	count int       // proxies of the fleet, when there were most of them
	grown time.Time // when that was
	rests bool      // the fleet has come back since the start

	tick <-chan time.Time // while the newest file is not in force
	over <-chan outcome   // of the wave that is under way
	drop func()           // has nobody wait for it any more
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
		w.seen, w.since, w.back, w.idle, w.begin = newest, time.Now(), nil, false, time.Time{}
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
	w.tick, w.back, w.idle = nil, nil, false
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

// look takes the edit back if something has happened to those who have it, or if another
// replica has, and goes on to the next wave. It reports whether there is something to do.
func (w *waves) look(fleet *resource.Fleet, nacks []nack, now time.Time) bool {
	if n := fleet.Len(); n > w.count { // one that goes and comes back makes it no larger
		w.count, w.grown = n, now
	}
	if w.tick == nil || w.back != nil || w.seen == w.past || w.stopping() {
		return false // nothing is tried, or what happens to the proxies says nothing of it
	}
	if w.others != nil {
		if is := w.others(w.seen.Revision, now.Sub(w.since)); is.by != "" {
			w.takeBack(w.seen, outcome{why: is.why, by: is.by})
			return true
		}
	}
	if w.trial == nil {
		return false
	}
	o, moved := w.trial.look(w, fleet, nacks, now)
	switch {
	case o != nil && o.why != "":
		w.takeBack(w.trial.mesh, *o)
	case o != nil:
		w.log.Info("an edit of the mesh file goes to all proxies", "revision", w.trial.mesh.Revision, "had", len(w.trial.members))
		w.past = w.trial.mesh
		w.end()
	case len(w.trial.members) == 0: // those whom it concerned have left: it begins anew
		w.begin = now.Add(waveLook)
		w.end()
	default:
		return moved
	}
	return true
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

// ended is told how a wave has.
func (w *waves) ended(o outcome) {
	w.over, w.trial.ended = nil, &o
}

// lost is told that a publication has failed: nobody knows what is served.
func (w *waves) lost() {
	if w.trial != nil {
		w.takeBack(w.trial.mesh, outcome{why: "it cannot be published"})
	}
	w.served = nil
}

// mayBegin reports whether an edit may be tried now.
func (w *waves) mayBegin(now time.Time) bool {
	if !w.rests {
		w.rests = w.count > 0 && now.Sub(w.first) >= waveFleet && now.Sub(w.grown) >= waveFleet || now.Sub(w.first) >= waveFleets
	}
	if !w.rests || now.Before(w.begin) || w.stopping() {
		return false
	}
	return w.others == nil || w.others(w.seen.Revision, now.Sub(w.since)).turn
}

// concernsNobody is told of an edit that does here, and reports whether it goes on. Where
// other replicas try it, what it is worth is seen there: proxies of theirs may come here.
func (w *waves) concernsNobody(now time.Time) bool {
	w.idle, w.begin = true, now.Add(waveLook)
	if seen := now.Sub(w.since); w.others != nil && (seen < waveHear || w.others(w.seen.Revision, seen).busy) {
		return false
	}
	w.past = w.seen
	return true
}

// beside returns what is served when most proxies have next; nil: it is served already.
// made is whether next is newer than what they have, and in is the newest input.
func (l *Loop) beside(next *translate.Snapshot, made bool, in translate.Input) *split {
	w, now := &l.waves, time.Now()
	tries := w.acked != nil && w.served != nil && w.tick != nil && w.back == nil && next.Input.Stage == translate.Settled && in.Mesh != next.Input.Mesh
	if w.trial != nil && !tries {
		w.end()
	}
	if tries {
		// What is held of the catalog is held for those who have the edit too.
		edited := next.Input
		edited.Mesh = in.Mesh
		if w.trial == nil {
			tries = w.mayBegin(now) && l.beginTrial(next, edited, now)
		} else if tried, cause, _ := l.attempt(w.trial.last, edited); tried != nil {
			w.trial.last = tried
		} else {
			w.takeBack(in.Mesh, outcome{why: cause})
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

// published is told what is served, and has the wave that begins by it waited for.
func (w *waves) published(ctx context.Context, s *split) {
	if w.served, w.all = s, s.all.Input.Mesh; w.first.IsZero() {
		w.first = time.Now()
	}
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

// status is what people see of it; nil: the newest mesh file is in force.
func (w *waves) status() *Waves {
	switch {
	case w.back != nil:
		return w.back
	case w.trial != nil:
		return &Waves{Revision: w.trial.mesh.Revision, Since: w.trial.since, Has: len(w.trial.members), Of: len(w.trial.order)}
	case w.tick != nil && w.seen != nil:
		return &Waves{Revision: w.seen.Revision, Since: w.since, Idle: w.idle}
	}
	return nil
}
