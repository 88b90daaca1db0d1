package control

import (
	"bytes"
	"fmt"
	"math/bits"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
)

// A snapshot that has become much larger than what is in force is more often a mistake
// of a source, or of ours, than a mesh that has grown: it is held, as an edit is that
// removes much. What is measured is what one proxy is told, by halves: of its scope,
// which many share, and of its own. Other than the number of proxies it says what an
// Envoy has to hold, and it is known without looking at a resource that has not changed.
//
// The largest mesh that was measured has 10,000 services of ten instances: a cluster for
// each, and 16 MB without mTLS. The bounds are twice as many clusters, and four times as
// much.
const (
	maxProxyBytes    = 64 << 20
	maxProxyClusters = 20_000
	// nearBound is, in percent of a bound, from what on one that was passed, by a word or
	// at the start, is no news when it is passed again: a mesh that is as large as a bound
	// goes over it and back every day.
	nearBound = 90
	// muchGrowth is by how much a half may grow in growthWindow, or to twice its size:
	// about 6,000 services.
	muchGrowth = 8 << 20
	// growthWindow is how long growth in several steps counts as one: Consul's services
	// are read one by one.
	growthWindow = time.Minute
	// askBudget is how often it is looked whether what is held has become good, or meant.
	askBudget = time.Second
)

// size is how much a half of what a proxy is served is.
type size struct {
	bytes, clusters int
}

func sizeOf(sets *resource.Sets) (s size) {
	for _, set := range sets {
		if set != nil {
			s.bytes += set.Bytes()
		}
	}
	if set := sets[resource.Cluster]; set != nil {
		s.clusters = set.Len()
	}
	return s
}

func (s size) String() string {
	return fmt.Sprintf("%.1f MB, %d clusters", float64(s.bytes)/1e6, s.clusters)
}

func (s size) max(o size) size { return size{max(s.bytes, o.bytes), max(s.clusters, o.clusters)} }

// over says why a half that was so large, and has passed bounds before, may not be so
// large now without a word; empty: it may. What is over a bound already is no news.
func (s size) over(was size, before passed) string {
	switch {
	case s.bytes > maxProxyBytes && was.bytes <= maxProxyBytes && !before.bytes:
		return fmt.Sprintf("over %d MiB", maxProxyBytes>>20)
	case s.clusters > maxProxyClusters && was.clusters <= maxProxyClusters && !before.clusters:
		return fmt.Sprintf("over %d clusters", maxProxyClusters)
	case s.bytes > 2*was.bytes && s.bytes-was.bytes > muchGrowth:
		return "over twice as much"
	}
	return ""
}

// large reports whether it is over a bound.
func (s size) large() bool { return s.bytes > maxProxyBytes || s.clusters > maxProxyClusters }

// passed is which bounds something has passed that is in force, and is not far below since.
type passed struct {
	bytes, clusters bool
}

// passes are those of halves, by what tells them apart.
type passes[K comparable] map[K]passed

// note is told how large a half in force is.
func (p passes[K]) note(key K, is size) {
	before := p[key]
	now := passed{
		bytes:    is.bytes > maxProxyBytes || before.bytes && is.bytes >= maxProxyBytes/100*nearBound,
		clusters: is.clusters > maxProxyClusters || before.clusters && is.clusters >= maxProxyClusters/100*nearBound,
	}
	if now == (passed{}) {
		delete(p, key)
	} else {
		p[key] = now
	}
}

// Excess is why a snapshot is held.
type Excess struct {
	// ID is by what an operator says that it is meant. It stands until what is held is
	// larger than the next power of two.
	ID string
	// Kept is what is not the newest in what is served.
	Kept string

	what string                                        // has grown, and how much
	less func(was, is translate.Input) translate.Input // the newest input but for what is kept
}

// String says it in one line.
func (e *Excess) String() string {
	return fmt.Sprintf("the last %s, for what is made of the new is too much: %s: until it is less, or controlplane accept --revision %s", e.Kept, e.what, e.ID)
}

// budget holds snapshots that have become too large. Only [Loop.Run] uses it.
type budget struct {
	meant func(id string) bool // somebody has said so
	take  func(id string) bool // likewise, and the word is used up

	// base is what a scope had when its window began, by key.
	base map[string]baseline

	scopes passes[string]           // by key
	own    passes[resource.Profile] // of what proxies are told for themselves

	held    *Excess          // nil: nothing
	tried   time.Time        // when the newest input was last judged
	skipped bool             // there has been one since that was not
	timer   <-chan time.Time // while something is held
}

type baseline struct {
	size
	since time.Time
}

// was is how large a scope of the last snapshot counts as.
func (b *budget) was(s *resource.Scope, now time.Time) size {
	if at, ok := b.base[s.Key]; ok && now.Sub(at.since) < growthWindow {
		return at.size
	}
	return sizeOf(&s.Sets)
}

// judge returns the largest excess of a snapshot over the last one; nil: there is none.
// A proxy that is new is served what there is, however much.
func (b *budget) judge(last, next *translate.Snapshot, now time.Time) *Excess {
	var key string
	var worst, all size
	var e *Excess
	look := func(who, of string, was, is size, before passed) {
		why := is.over(was, before)
		if why == "" {
			return
		}
		all = all.max(is)
		if e == nil || is.bytes > worst.bytes {
			key, worst = of, is
			e = &Excess{what: fmt.Sprintf("%s would be told %s, and has %s: %s", who, is, was, why)}
		}
	}
	for _, s := range next.ChangedScopes {
		if before := last.Scope(s.Key); before != nil {
			look("each proxy of scope "+s.Key, s.Key, b.was(before, now), sizeOf(&s.Sets), b.scopes[s.Key])
		}
	}
	for _, v := range next.ChangedViews {
		before := last.View(v.Profile)
		if before == nil {
			continue
		}
		look("a proxy of "+v.Profile.Service+" for itself", v.Profile.Key(), sizeOf(&before.Own), sizeOf(&v.Own), b.own[v.Profile])
		if last.Scope(v.Scope) == nil { // a scope that others have had is judged above
			look("a proxy of "+v.Profile.Service, v.Scope, sizeOf(&last.Scope(before.Scope).Sets), sizeOf(&next.Scope(v.Scope).Sets), b.scopes[before.Scope])
		}
	}
	if e != nil {
		e.ID = policy.Revision([]policy.File{{Data: fmt.Appendf(nil, "%s %d %d", key, ceiling(all.bytes), ceiling(all.clusters))}})
	}
	return e
}

// ceiling is the next power of two.
func ceiling(n int) int {
	if n <= 1 {
		return n
	}
	return 1 << bits.Len(uint(n-1))
}

// begin has the window of a scope begin.
func (b *budget) begin(s *resource.Scope, now time.Time) {
	if b.base == nil {
		b.base = make(map[string]baseline)
	}
	b.base[s.Key] = baseline{sizeOf(&s.Sets), now}
}

// published begins the windows of scopes that have changed, and notes which bounds they
// have passed.
func (b *budget) published(last, next *translate.Snapshot, now time.Time) {
	b.pass(last, next)
	if last == nil {
		return
	}
	for _, s := range next.ChangedScopes {
		before := last.Scope(s.Key)
		if at, ok := b.base[s.Key]; before != nil && (!ok || now.Sub(at.since) >= growthWindow) {
			b.begin(before, now)
		}
	}
	for key, at := range b.base {
		if now.Sub(at.since) >= growthWindow {
			delete(b.base, key)
		}
	}
}

// pass notes which bounds are passed in what has come into force: at a start, by a word,
// or by a proxy that was new.
func (b *budget) pass(last, next *translate.Snapshot) {
	if b.scopes == nil {
		b.scopes, b.own = make(passes[string]), make(passes[resource.Profile])
	}
	for _, v := range next.ChangedViews {
		b.own.note(v.Profile, sizeOf(&v.Own))
		if last == nil || last.Scope(v.Scope) != nil {
			continue
		}
		if before := last.View(v.Profile); before != nil && b.scopes[before.Scope] != (passed{}) {
			b.scopes[v.Scope] = b.scopes[before.Scope] // an edit has given its scope another name
		}
	}
	for _, s := range next.ChangedScopes {
		b.scopes.note(s.Key, sizeOf(&s.Sets))
	}
	for key := range b.scopes {
		if next.Scope(key) == nil {
			delete(b.scopes, key)
		}
	}
	for profile := range b.own {
		if next.View(profile) == nil {
			delete(b.own, profile)
		}
	}
}

// within makes the next snapshot of the newest input, or of less where that has become
// too much; nil: what is in force stays. At the start there is nothing else to serve, so
// then it is only said.
func (l *Loop) within(last *translate.Snapshot, in translate.Input) (*translate.Snapshot, *Failure) {
	b, now := &l.budget, time.Now()
	if last != nil && b.held != nil && now.Sub(b.tried) < askBudget {
		b.skipped = true
		next, failure := l.translated(last, b.held.less(last.Input, in))
		if next != nil && b.judge(last, next, now) != nil {
			next = nil
		}
		return next, failure
	}
	next, failure := l.translated(last, in)
	if next == nil {
		return nil, failure
	}
	if last == nil {
		for _, s := range next.ChangedScopes {
			if is := sizeOf(&s.Sets); is.large() {
				l.log.Warn("a proxy is told more than the control plane was measured with", "scope", s.Key, "size", is.String())
			}
		}
		return next, failure
	}
	b.tried, b.skipped = now, false
	e := b.judge(last, next, now)
	if e != nil && b.take(e.ID) {
		l.log.Warn("what has grown much is meant, and comes into force", "id", e.ID, "what", e.what)
		for _, s := range next.ChangedScopes { // what comes next is compared with this
			b.begin(s, now)
		}
		e = nil
	}
	if e == nil {
		l.hold(nil)
		return next, failure
	}
	next = l.lesser(last, next.Input, e)
	l.hold(e)
	return next, failure
}

// lesser makes a snapshot with as little as may be as it was, and notes in e what that
// is. It is nil if there is none, or it would be the last one again.
func (l *Loop) lesser(last *translate.Snapshot, in translate.Input, e *Excess) *translate.Snapshot {
	was := last.Input
	for _, kept := range lessers {
		e.Kept, e.less = kept.what, kept.less
		less := e.less(was, in)
		if sameInput(less, in) {
			continue // it is not what has grown
		}
		next, _, _ := l.attempt(last, less)
		if next == nil || l.budget.judge(last, next, l.budget.tried) != nil {
			continue
		}
		if sameInput(less, was) {
			return nil
		}
		return next
	}
	return nil
}

func sameInput(a, b translate.Input) bool {
	return a.Mesh == b.Mesh && a.Catalog == b.Catalog && a.Fleet == b.Fleet && a.Stage == b.Stage && bytes.Equal(a.Roots, b.Roots)
}

// lessers are what is not taken of the newest input, from little to much.
var lessers = [...]struct {
	what string
	less func(was, is translate.Input) translate.Input
}{
	{"mesh file", keepMesh},
	{"services that are new or have doubled", keepGrowth},
	{"catalog", keepCatalog},
	{"mesh file and catalog", func(was, is translate.Input) translate.Input { return keepCatalog(was, keepMesh(was, is)) }},
}

func keepMesh(was, is translate.Input) translate.Input {
	is.Mesh, is.Stage = was.Mesh, was.Stage
	return is
}

func keepGrowth(was, is translate.Input) translate.Input {
	is.Catalog = withoutGrowth(was.Catalog, is.Catalog)
	return is
}

func keepCatalog(was, is translate.Input) translate.Input {
	is.Catalog = was.Catalog
	return is
}

// manyInstances is how many more a service may have, or twice as many, while growth is held.
const manyInstances = 100

// withoutGrowth is the newest catalog without the services that are new, and with no more
// instances than they had of those that have doubled: an instance that has moved or gone is
// not called while growth waits for a word.
func withoutGrowth(was, is *watch.Catalog) *watch.Catalog {
	var put []*watch.Service
	var gone []string
	for s := range was.Services() {
		now := is.Service(s.Name)
		switch {
		case now == nil:
			gone = append(gone, s.Name)
		case now == s:
		case len(now.Instances) <= 2*len(s.Instances), len(now.Instances)-len(s.Instances) <= manyInstances:
			put = append(put, now)
		default:
			put = append(put, asMany(s, now))
		}
	}
	return was.Update(put, gone)
}

// asMany is a service as it is now, with as many instances as it had: those that it had, and
// others in the place of those that have gone.
func asMany(was, now *watch.Service) *watch.Service {
	type id struct{ datacenter, id string }
	had := make(map[id]bool, len(was.Instances))
	for _, i := range was.Instances {
		had[id{i.Datacenter, i.ID}] = true
	}
	others := len(was.Instances)
	for _, i := range now.Instances {
		if had[id{i.Datacenter, i.ID}] {
			others--
		}
	}
	some := *now
	some.Instances = make([]*watch.Instance, 0, len(was.Instances))
	for _, i := range now.Instances {
		switch {
		case had[id{i.Datacenter, i.ID}]:
		case others > 0:
			others--
		default:
			continue
		}
		some.Instances = append(some.Instances, i)
	}
	return &some
}

// dueAgain reports whether the newest input is to be tried again, though it is no newer.
func (b *budget) dueAgain() bool {
	b.timer = time.After(askBudget)
	return b.skipped || b.meant(b.held.ID) || time.Since(b.tried) >= growthWindow
}

// hold notes what is held, nil for nothing, and says it when it is news.
func (l *Loop) hold(e *Excess) {
	before := l.budget.held
	l.budget.held, l.budget.timer = e, nil
	if e != nil {
		l.budget.timer = time.After(askBudget)
	}
	l.mu.Lock()
	l.status.Excess = e
	l.mu.Unlock()
	switch {
	case e == nil && before != nil:
		l.log.Info("nothing is too much any more: the snapshot is made of the newest input")
	case e != nil && (before == nil || before.ID != e.ID || before.Kept != e.Kept):
		l.log.Error("what would be served has grown too much: it is held", "id", e.ID, "what", e.what, "serving", "the last "+e.Kept)
	}
}
