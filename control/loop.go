package control

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
)

// Loop turns inputs into snapshots. Inputs may come from any goroutine and
// never block: while a snapshot is being made newer inputs replace older ones.
// Each knows what its last steps changed, so nothing is lost, and nothing waits
// for a timer.
type Loop struct {
	log       *slog.Logger
	translate func(last *translate.Snapshot, in translate.Input) *translate.Snapshot
	publish   func(most *translate.Snapshot, served xds.Snapshot)
	stages    stages       // only Run uses it
	budget    budget       // likewise
	waves     waves        // likewise
	shared    func() bool  // whether it is known what the replicas share; nil: there is one replica
	ofCatalog *convergence // nil: nobody asks
	ofMesh    *convergence // likewise
	said      time.Time    // when the log last had a panic; likewise

	wake  chan struct{}
	turns chan struct{} // taken from in each turn that somebody waits for

	mu      sync.Mutex
	pending translate.Input
	fresh   bool         // something in pending was not taken yet
	edited  time.Time    // from when on the mesh in pending is to be in force; zero: that is not known
	past    *policy.Mesh // goes to all proxies at once; nil: none does that was not taken
	nacks   []nack       // while an edit is tried
	waiting time.Time    // since when something in pending was not taken
	status  Status
}

// Status is what the loop last did.
type Status struct {
	Mesh      *policy.Mesh        // in force, for most proxies at least; nil before the first
	Snapshot  *translate.Snapshot // published; nil before the first
	Published time.Time
	Builds    uint64
	BuildTime time.Duration // of all builds together
	Panics    uint64
	Failure   *Failure // why the newest input is not in force; nil: it is
	Excess    *Excess  // why not all of the newest input is in force, though it could be made; nil: it is
	Waves     *Waves   // the newest mesh file, while only some proxies have it or it was taken back; nil: all have it
	// Behind is since when there is an input that is not in force, but for a mesh file of
	// which Waves tells; zero: all is.
	Behind time.Time
}

// NewLoop returns a loop that calls publish with each new snapshot, and with what is served
// then: the same, but for proxies on which an edit is tried. The channel of acked is closed
// once all connected proxies have answered what is published.
func NewLoop(log *slog.Logger, publish func(most *translate.Snapshot, served xds.Snapshot), acked func(context.Context) <-chan struct{}) *Loop {
	return &Loop{
		log:       log,
		translate: translate.Translate,
		publish:   publish,
		stages:    stages{log: log, acked: acked},
		budget:    budget{meant: never, take: never},
		wake:      make(chan struct{}, 1),
		turns:     make(chan struct{}),
		pending:   translate.Input{Fleet: resource.NewFleet()},
	}
}

// ObserveConvergence has it measured how long changes of the catalog and edits of the
// mesh file take until the last proxy that they concern has acknowledged them. The
// channel of acked is closed when those have that the last snapshot concerns; nil: it
// concerns none. It is called before [Loop.Run].
func (l *Loop) ObserveConvergence(acked func(context.Context) <-chan struct{}, ofCatalog, ofMesh func(time.Duration)) {
	l.ofCatalog = &convergence{acked: acked, observe: ofCatalog, every: convergenceEvery}
	l.ofMesh = &convergence{acked: acked, observe: ofMesh}
}

// share has the stages of mTLS be those that the replicas agree on, and no snapshot be
// made before they and what else the replicas share are known. It is called before
// [Loop.Run].
func (l *Loop) share(s *sharedStages, known func() bool) {
	l.stages.shared, l.shared = s, func() bool { return s.ready() && known() }
}

func never(string) bool { return false }

// askGrowth has it asked whether somebody has said that growth is meant which is held, and
// the word taken. It is called before [Loop.Run].
func (l *Loop) askGrowth(meant, take func(id string) bool) {
	l.budget.meant, l.budget.take = meant, take
}

// SetCatalog gives the loop a newer catalog.
func (l *Loop) SetCatalog(c *watch.Catalog) {
	l.set(func(in *translate.Input) { in.Catalog = c })
}

// SetMesh gives the loop a newer mesh file.
func (l *Loop) SetMesh(m *policy.Mesh) { l.SetEdit(m, time.Time{}) }

// start gives the loop the mesh file to begin with, which is in force whatever comes after
// it before anything is served. It is called before [Loop.Run].
func (l *Loop) start(m *policy.Mesh) {
	l.waves.all = m
	l.SetMesh(m)
}

// SetEdit is SetMesh with the time from which on the file is to be in force.
func (l *Loop) SetEdit(m *policy.Mesh, since time.Time) {
	l.set(func(in *translate.Input) { in.Mesh, l.edited = m, since })
}

// SetFleet gives the loop the profiles of the proxies that are connected now.
func (l *Loop) SetFleet(f *resource.Fleet) { l.set(func(in *translate.Input) { in.Fleet = f }) }

// SetRoots gives the loop the trust bundle, in PEM.
func (l *Loop) SetRoots(pem []byte) { l.set(func(in *translate.Input) { in.Roots = pem }) }

func (l *Loop) set(change func(*translate.Input)) {
	l.mu.Lock()
	change(&l.pending)
	if l.fresh = true; l.waiting.IsZero() {
		l.waiting = time.Now()
	}
	l.mu.Unlock()
	l.look()
}

// look has the loop look whether there is something to do.
func (l *Loop) look() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Status returns what the loop last did.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	if s.Behind.IsZero() {
		s.Behind = l.waiting
	}
	return s
}

// Turns returns nil once the loop has come to look for something to do, or the
// error of ctx when that ends before.
func (l *Loop) Turns(ctx context.Context) error {
	select {
	case l.turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publishAgain is when a publication that panicked is tried again, if nothing
// else has brought another one about.
const publishAgain = time.Second

// Run makes snapshots until ctx ends. It makes none before there are a mesh
// and a first full catalog: an empty answer to an Envoy is a deletion.
func (l *Loop) Run(ctx context.Context) error {
	var last *translate.Snapshot
	for {
		again := false // the input that there was is to be tried again
		waved := false // more proxies, or fewer, may be to have an edit
		select {
		case <-ctx.Done():
			return nil
		case <-l.turns:
			continue
		case <-l.wake:
		case ok := <-l.stages.over:
			l.stages.ended(ok)
		case <-l.budget.timer:
			again = l.budget.dueAgain()
		case o := <-l.waves.over:
			l.waves.ended(o)
		case <-l.waves.tick:
			waved = l.waves.ticked()
		}
		in, edited, nacks, fresh, ready := l.take()
		if !ready {
			continue
		}
		start := time.Now()
		waved = l.waves.look(in.Fleet, nacks, start) || waved
		newest := in
		in.Mesh = l.waves.most(in.Mesh, l.stages.stage() == translate.Settled)
		stepped := l.stages.advance(ctx, in.Mesh.MTLS.Enabled)
		if !stepped && !fresh && !again && !waved {
			continue
		}
		in.Stage = l.stages.stage()
		next, made := last, false
		var failure *Failure
		if stepped || fresh || again || last == nil || !sameInput(last.Input, in) {
			next, failure = l.within(last, in)
			if made = next != nil; !made {
				next = last
			}
		}
		if next == nil {
			continue
		}
		served := l.beside(next, made, newest)
		l.wave()
		if served == nil {
			continue
		}
		took := time.Since(start)
		if !l.handOn(last, next, served) {
			l.waves.lost()
			last = nil // whoever has which view: the next snapshot names them all
			time.AfterFunc(publishAgain, func() { l.set(func(*translate.Input) {}) })
			continue
		}
		l.waves.published(ctx, served)
		if !made {
			continue
		}
		if last == nil || last.Input.Catalog != next.Input.Catalog {
			l.ofCatalog.published(ctx, next.Input.Catalog.Learned())
		}
		if last != nil && last.Input.Mesh != next.Input.Mesh {
			l.ofMesh.published(ctx, edited)
		}
		l.budget.published(last, next, time.Now())
		moved := last == nil || last.Input.Mesh != next.Input.Mesh
		last = next
		l.stages.published(next.Input.Stage)

		l.mu.Lock()
		l.status.Mesh, l.status.Snapshot, l.status.Published = next.Input.Mesh, next, time.Now()
		if failure == nil && l.status.Excess == nil {
			l.status.Behind = time.Time{}
		}
		l.status.Builds++
		l.status.BuildTime += took
		l.mu.Unlock()
		if l.waves.told != nil && moved {
			l.waves.told()
		}
	}
}

// wave notes how far the newest mesh file has come.
func (l *Loop) wave() {
	is := l.waves.status()
	l.mu.Lock()
	before := l.status.Waves
	l.status.Waves = is
	l.mu.Unlock()
	if same := before == is || before != nil && is != nil && *before == *is; !same && l.waves.told != nil {
		l.waves.told()
	}
}

// take returns the newest input; it is not fresh if all of it was taken before,
// by a wake that came earlier, and not ready if a part was never given. Edited is from
// when on its mesh file is to be in force, and nacks is what was refused since the last.
func (l *Loop) take() (in translate.Input, edited time.Time, nacks []nack, fresh, ready bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh, l.fresh = l.fresh, false
	nacks, l.nacks = l.nacks, nil
	if l.past != nil {
		l.waves.past, l.past = l.past, nil
	}
	in = l.pending
	if ready = in.Mesh != nil && in.Catalog != nil && (l.shared == nil || l.shared()); ready {
		if l.status.Behind.IsZero() {
			l.status.Behind = l.waiting
		}
		l.waiting = time.Time{}
	}
	return in, l.edited, nacks, fresh, ready
}

// report logs what people should know of a snapshot, when it is news.
func (l *Loop) report(last, next *translate.Snapshot) {
	if last == nil {
		last = &translate.Snapshot{}
	}
	for _, note := range news(last.Notes, next.Notes, func(n string) string { return n }) {
		l.log.Warn(note)
	}
	type key struct {
		of          resource.Type
		name, cause string
	}
	for _, h := range news(last.Held, next.Held, func(h translate.Held) key { return key{h.Type, h.Name, h.Cause} }) {
		source := ""
		if len(h.Keys) > 0 {
			source = next.Input.Mesh.Source(h.Keys[0]).String()
		}
		l.log.Error("a resource fails its check: the last good one stays", "type", h.Type.URL(), "name", h.Name, "cause", h.Cause, "source", source)
	}
}

// news are the items of next whose like is not in last. A snapshot that found
// nothing new has its predecessor's list: then nothing is compared.
func news[T any, K comparable](last, next []T, key func(T) K) []T {
	if len(next) == 0 || (len(last) == len(next) && &last[0] == &next[0]) {
		return nil
	}
	known := make(map[K]struct{}, len(last))
	for _, item := range last {
		known[key(item)] = struct{}{}
	}
	var fresh []T
	for _, item := range next {
		if _, ok := known[key(item)]; !ok {
			fresh = append(fresh, item)
		}
	}
	return fresh
}
