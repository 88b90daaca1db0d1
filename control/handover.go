package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/memory"
)

// A source that takes over may be a Consul that was wiped or restored while nobody
// looked, one that is being filled, or the wrong one. It has no past of its own that
// its own guard could compare with, so its first catalogs are judged by those of its
// predecessor: of the source of before, or of the disk after a restart. The sidecars
// are the second witness, as they are for a source that runs.
//
//	sidecar     the new source does not have the instance
//	connected   it is kept, for as long as that is so
//	has left    it is gone
//	any         it is kept while the source could not read the service yet
//	any         it is gone while the source has it and the mesh file leaves it out: its
//	            health or its tags are others now
//	unseen      it is gone if it is one of few. The last of its service, or one of
//	            over 30 % of it, is kept for [reconnectFor]; where over 30 % of the
//	            mesh are missing, for the age that a kept catalog may have, or until an
//	            operator says that it is meant

const (
	// lookAtSources is how often it is looked for what only time decides.
	lookAtSources = 100 * time.Millisecond
	// patience is for how long a source may have its first catalog on its way before
	// the one of the disk is served: it is newer, and proxies need not see both.
	patience = 2 * time.Second
	// reconnectFor is when proxies that live have found this replica or another one
	// after a start, unless the mesh file says otherwise: Envoy tries at least each 30 s.
	reconnectFor = 2 * time.Minute
)

// handover judges what a source that took over lacks.
type handover struct {
	log    *slog.Logger
	whole  *watch.Catalog // of the predecessor: what an edit leaves out, another may bring back
	before *watch.Catalog // the part of it that is selected
	since  time.Time
	until  time.Time // the end of what is kept of a mesh of which much is missing

	reconnect time.Duration // for how long what is little is kept
	// unread says of which services the source has read nothing yet, or nothing of a
	// datacenter: what it lacks of them is kept, whatever it is.
	unread func(service, datacenter string) bool
	// unselected says that the source has an instance which the mesh file leaves out: it is
	// not missed, nor when it goes after that.
	unselected func(service, datacenter string, at watch.Place) bool
	// follows says whose instances the source is to have: what is of another
	// datacenter, somebody has taken out of the mesh file.
	follows func(datacenter string) bool

	// left are those whose sidecars have left: that is known for a minute only.
	left map[lost]struct{}
	// leftOut are those that were unselected, until they are there again.
	leftOut map[lost]struct{}

	out      *watch.Catalog // what was settled last
	said     string         // what is kept and why, for operators
	removals []watch.Removal
	accepted string // the ID of what somebody has accepted
	refused  bool   // somebody wants it kept
	services int    // of which something is kept
}

// succeed has a source judged by what was in force before.
func (c *Catalogs) succeed(s *source) {
	now := time.Now()
	kept := c.kept
	c.kept, c.handover = nil, nil
	if s.target.file != "" {
		return // a file is what somebody wrote down
	}
	h := newHandover(c.log, now, now.Add(c.maxAge))
	if p, ok := s.reader.(consulSource); ok {
		h.unread, h.unselected, h.follows = p.Unread, p.Unselected, s.target.has
	}
	if c.reconnect > 0 {
		h.reconnect = c.reconnect
	}
	switch {
	case c.active != nil:
		h.whole = c.names.Source()
		if r, ok := c.active.reader.(*recalled); ok {
			h.whole, h.until = r.kept.Catalog, r.kept.Known.Add(c.maxAge)
		}
	case kept != nil && now.Sub(kept.Known) < c.maxAge:
		h.whole, h.until = kept.Catalog, kept.Known.Add(c.maxAge)
	default:
		return
	}
	h.choose(c.selection)
	if c.maxAge == 0 {
		h.until = now.Add(h.reconnect) // nothing is kept on disk either
	}
	c.handover = h
}

// choose takes what the mesh file selects: what it leaves out is not missed.
func (h *handover) choose(of watch.Selection) { h.before = h.whole.Select(of) }

// settle returns the catalog with what it lacks and is not believed to be gone; the
// catalog itself if that is nothing.
func (h *handover) settle(given *watch.Catalog, sidecar func(string, *watch.Instance) watch.Presence, meant func(string) bool, now time.Time) *watch.Catalog {
	var missing []lack
	had, gone := 0, 0
	for s := range h.before.Services() {
		l := h.lacks(s, given.Service(s.Name), sidecar)
		had += l.had
		if len(l.instances) > 0 {
			missing = append(missing, l)
			had -= l.unread
			gone += len(l.instances) - l.unread
		}
	}
	muchOfMesh := much(had, gone) && now.Before(h.until)
	var put []*watch.Service
	var names []string
	kept, connected := 0, 0
	for n := range missing {
		l := &missing[n]
		if !h.refused && !muchOfMesh && (!much(l.had-l.unread, len(l.instances)-l.unread) || now.Sub(h.since) >= h.reconnect) {
			l.instances = slices.DeleteFunc(l.instances, func(i *watch.Instance) bool {
				return !h.unread(l.name, i.Datacenter) && sidecar(l.name, i) != watch.Connected
			})
		}
		if len(l.instances) == 0 {
			continue
		}
		for _, i := range l.instances {
			if sidecar(l.name, i) == watch.Connected {
				connected++
			}
		}
		kept += len(l.instances)
		names = append(names, fmt.Sprintf("%d of %s", len(l.instances), l.name))
		put = append(put, l.with(given.Service(l.name)))
	}
	if kept == 0 {
		h.removals = nil
		return given
	}
	revision := revisionOf(put)
	if revision == h.accepted || meant(revision) {
		h.log.Warn("what the new source of the catalog does not have is taken out: it is said to be meant", "instances", kept)
		return given
	}
	if h.out == nil {
		h.out = watch.NewCatalog()
		h.log.Warn("the new source of the catalog lacks what was there before: it is kept", "instances", kept, "of", had, "services", len(put), "connected", connected)
	}
	said := fmt.Sprintf("%d of %d instances that were there before this source took over, which does not have them (%s); %d have their sidecars connected: "+
		"kept until they are back or their sidecars leave", kept, had, shorten(strings.Join(names, ", ")), connected)
	if end := h.end(muchOfMesh); kept > connected && now.Before(end) {
		said += fmt.Sprintf(", the others until %s", end.UTC().Format(time.RFC3339))
	}
	h.said = said + fmt.Sprintf(", or at once by `controlplane accept --revision %s`", revision)
	h.services = len(put)
	h.removals = h.held(missing, sidecar, revision, muchOfMesh)
	// Whole: what descends from the source's catalogs would not descend from this one.
	all := make(map[string]*watch.Service, given.Len())
	for s := range given.Services() {
		all[s.Name] = s
	}
	for _, s := range put {
		all[s.Name] = s
	}
	var services []*watch.Service
	for _, s := range all {
		services = append(services, s)
	}
	var remove []string
	for s := range h.out.Services() {
		if all[s.Name] == nil {
			remove = append(remove, s.Name)
		}
	}
	h.out = h.out.Update(services, remove)
	if h.out.Learned() != given.Learned() {
		h.out = h.out.LearnedAt(given.Learned())
	}
	return h.out
}

// held is what is kept, as people decide on it: all together.
func (h *handover) held(missing []lack, sidecar func(string, *watch.Instance) watch.Presence, revision string, muchOfMesh bool) []watch.Removal {
	var all []watch.Removal
	for _, l := range missing {
		if len(l.instances) == 0 {
			continue
		}
		r := watch.Removal{
			ID: revision, Service: l.name, Had: l.had, Since: h.since, Refused: h.refused,
			Why: "the source that took over does not have them",
		}
		for _, i := range l.instances {
			r.Instances = append(r.Instances, watch.Removed{ID: i.ID, Address: i.Dialed().String(), Sidecar: sidecar(l.name, i)})
		}
		if !h.refused && !slices.ContainsFunc(r.Instances, func(i watch.Removed) bool { return i.Sidecar == watch.Connected }) {
			r.Until = h.end(muchOfMesh)
		}
		all = append(all, r)
	}
	return all
}

func (h *handover) end(muchOfMesh bool) time.Time {
	if muchOfMesh {
		return h.until
	}
	return h.since.Add(h.reconnect)
}

// much reports whether so many of all are gone that it may be a mistake: all, or two
// or more that are over 30 %.
func much(had, gone int) bool {
	return gone > 0 && gone == had || gone >= 2 && 10*gone > 3*had
}

// lack is what a source does not have of a service.
type lack struct {
	name      string
	had       int
	instances []*watch.Instance
	// unread are how many of those are where the source has read nothing yet: that
	// says nothing of how much is missing.
	unread int
}

// lost is an instance of the predecessor.
type lost struct {
	service string
	at      watch.Place
}

func newHandover(log *slog.Logger, since, until time.Time) *handover {
	return &handover{
		log: log, since: since, until: until, reconnect: reconnectFor,
		left: make(map[lost]struct{}), leftOut: make(map[lost]struct{}),
		unread:     func(string, string) bool { return false },
		unselected: func(string, string, watch.Place) bool { return false },
		follows:    func(string) bool { return true },
	}
}

func (h *handover) lacks(before, now *watch.Service, sidecar func(string, *watch.Instance) watch.Presence) lack {
	l := lack{name: before.Name}
	there := make(map[watch.Place]struct{})
	if now != nil {
		for _, i := range now.Instances {
			there[i.Dialed()] = struct{}{}
		}
	}
	for _, i := range before.Instances {
		if !h.follows(i.Datacenter) {
			continue
		}
		one := lost{before.Name, i.Dialed()}
		if _, ok := there[one.at]; ok {
			l.had++
			delete(h.leftOut, one)
			continue
		}
		if h.unselected(before.Name, i.Datacenter, one.at) {
			h.leftOut[one] = struct{}{}
		}
		if _, ok := h.leftOut[one]; ok {
			continue
		}
		l.had++
		switch sidecar(before.Name, i) {
		case watch.Left:
			h.left[one] = struct{}{}
		case watch.Connected:
			delete(h.left, one)
		}
		if _, ok := h.left[one]; !ok {
			l.instances = append(l.instances, i)
			if h.unread(before.Name, i.Datacenter) {
				l.unread++
			}
		}
	}
	return l
}

// with returns the service with what it lacks.
func (l *lack) with(now *watch.Service) *watch.Service {
	both := &watch.Service{Name: l.name}
	if now != nil {
		both.Excluded = now.Excluded
		both.Instances = slices.Clone(now.Instances)
	}
	both.Instances = watch.Distinct(append(both.Instances, l.instances...))
	return both
}

// revisionOf is a hash of what is kept of which service, for an operator's word on it.
func revisionOf(kept []*watch.Service) string {
	sum := sha256.New()
	for _, s := range kept {
		_, _ = io.WriteString(sum, s.Name+"\n") // a hash takes all
		for _, i := range s.Instances {
			_, _ = io.WriteString(sum, i.Dialed().String()+"\n")
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}

// look does what only time decides: the disk's catalog is served when its source has
// nothing to say, and what is kept of a predecessor is judged anew.
func (c *Catalogs) look(now time.Time, running time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active == nil && c.kept != nil && c.next != nil && (running >= patience || c.next.Status().Errors > 0) {
		c.recall(now)
	}
	if c.handover != nil && now.Sub(c.settled) >= time.Second {
		c.settle(now)
	}
	if c.memory != nil && now.Sub(c.vouched) >= vouchEvery {
		c.vouchLocked(now)
	}
}

// recall puts the catalog of the disk in force.
func (c *Catalogs) recall(now time.Time) {
	r := &recalled{kept: c.kept, path: c.memory.Path()}
	s := &source{reader: r, ctx: context.Background(), stop: func() {}, target: target{file: r.path}}
	c.log.Warn("the source of the catalog says nothing: the catalog of the disk is served", "path", r.path,
		"known", c.kept.Known.UTC().Format(time.RFC3339), "services", c.kept.Catalog.Len())
	c.active, c.given, c.kept = s, c.kept.Catalog.Select(c.selection), nil
	c.hand(c.names.Take(c.given, true, now))
}

// recalled is the catalog of the disk as a source.
type recalled struct {
	kept *memory.Kept
	path string
}

// Run waits: what is on the disk does not change.
func (r *recalled) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Status says how old the catalog is.
func (r *recalled) Status() watch.Status {
	return watch.Status{
		Ready: true, Mode: "disk", LastSuccess: r.kept.Known,
		Waiting: []string{fmt.Sprintf("the catalog of the disk is served, as it was at %s (%s ago)",
			r.kept.Known.UTC().Format(time.RFC3339), time.Since(r.kept.Known).Round(time.Second))},
	}
}

// Recalled returns how old the catalog in force is if it is that of the disk; 0 else.
func (c *Catalogs) Recalled() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active == nil {
		return 0
	}
	if r, ok := c.active.reader.(*recalled); ok {
		return max(time.Since(r.kept.Known), 1)
	}
	return 0
}

// TooOld says why the catalog in force is too old to call this replica ready; empty:
// it is not.
func (c *Catalogs) TooOld() string {
	if age := c.Recalled(); age > c.maxAge {
		return fmt.Sprintf("the catalog of the disk is %s old, and --max-catalog-age is %s", age.Round(time.Second), c.maxAge)
	}
	return ""
}

// vouchEvery is how often a catalog that does not change is said to be still so.
const vouchEvery = time.Minute

// vouch has the catalog in force kept.
func (c *Catalogs) vouch(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.vouchLocked(now)
}

func (c *Catalogs) vouchLocked(now time.Time) {
	c.vouched = now
	if c.memory == nil || c.active == nil {
		return
	}
	if _, ok := c.active.reader.(*recalled); ok {
		return // it is there, and nobody has said that it is still so
	}
	known := now
	if status := c.active.Status(); len(status.Waiting) > 0 {
		known = status.LastSuccess
	}
	if known.IsZero() {
		return
	}
	c.memory.Keep(c.names.Source(), known)
}

// NotKept says why the catalog in force is not on disk; empty: it is, or need not be.
func (c *Catalogs) NotKept() string {
	if c.memory == nil {
		return ""
	}
	if _, err := c.memory.Failures(); err != nil {
		return err.Error()
	}
	return ""
}

// KeepErrors is how many times a catalog could not be kept.
func (c *Catalogs) KeepErrors() uint64 {
	if c.memory == nil {
		return 0
	}
	n, _ := c.memory.Failures()
	return n
}
