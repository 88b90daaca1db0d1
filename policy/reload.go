package policy

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"datapunk.dev/controlplane/follow"
)

// WatcherOptions are what a [Watcher] needs beside the files. The callbacks
// are called from one goroutine, one at a time.
type WatcherOptions struct {
	Logger *slog.Logger
	// Reload makes the watcher read the files now: SIGHUP, as a rule.
	Reload <-chan os.Signal
	// Current is the mesh in force, loaded from the same files. Nil if none
	// has been: the first good one is then handed to OnMesh at once.
	Current *Mesh
	// InForce is the mesh that is in force where that is not the last one that OnMesh took:
	// edits are judged by it. It returns nil where it is; may be nil.
	InForce func() *Mesh
	// Check says why this process can never go on with a mesh, before it is
	// judged; nil if it goes on with any.
	Check func(*Mesh) error
	// OnMesh is given each new mesh, and from when it is to be in force: when its
	// files were written, or when it need not wait any more. Its error means that this
	// process cannot go on with it, and is OnMesh's own to report.
	OnMesh func(m *Mesh, since time.Time) error
	// OnError is told why the files do not load, once for each state of
	// them. The last good mesh stays in force.
	OnError func(error)
	// OnHold is told of an edit that has to wait, see [Judge], again when
	// somebody asks, and with nil if it is gone before it was taken. May be nil.
	OnHold func(*Hold)
	// Removes says what an edit takes out of the mesh that the files do not say by
	// themselves, for [Judge]. May be nil.
	Removes func(last, next *Mesh) []string
	// OnAsked is told when the files were read because Reload asked, whatever came
	// of it. May be nil.
	OnAsked func()
	// Meant reports whether somebody has said of the revision that it is
	// meant: then it does not wait. May be nil.
	Meant func(revision string) bool
	// Rest is how long an edit that has to wait must rest; [Rest] if zero.
	Rest time.Duration
}

// Watcher loads mesh files again when they change, see [follow.Files], and hands
// on those that are good.
type Watcher struct {
	paths []string
	opts  Options
	WatcherOptions

	seen   string    // what was last tried: the revision of the files, or why they cannot be read
	failed bool      // seen does not load, or OnMesh would not have it
	held   *Hold     // of what was last tried; nil: it does not wait
	next   *Mesh     // what is held
	size   int       // of what was last read
	trims  time.Time // until when memory is given back
}

// NewWatcher returns a Watcher of the files; nothing happens before Run.
func NewWatcher(paths []string, opts Options, w WatcherOptions) *Watcher {
	if w.Logger == nil {
		w.Logger = slog.New(slog.DiscardHandler)
	}
	if w.Rest == 0 {
		w.Rest = Rest
	}
	watcher := &Watcher{paths: paths, opts: opts, WatcherOptions: w}
	if w.Current != nil {
		watcher.seen = w.Current.Revision
		watcher.read(w.Current.Files)
	}
	return watcher
}

const (
	// maxSettle is how long files that do not rest are waited for.
	maxSettle = 2 * time.Second
	// readTime is how long it takes at most, as a rule, to read and judge them.
	readTime = time.Second
)

// Run watches until ctx ends, and returns nil then.
func (w *Watcher) Run(ctx context.Context) error {
	// People edit them, and an editor's save is several events.
	timing := follow.Timing{Settle: 200 * time.Millisecond, MaxSettle: maxSettle, Poll: 30 * time.Second}
	follow.Files(ctx, w.Logger, w.paths, timing, w.Reload, w.look)
	return nil
}

// look reads the files, unless it is only to see whether what is held is meant
// by now. It returns when to look again.
func (w *Watcher) look(why follow.Why) time.Duration {
	asked := why == follow.Asked
	if asked {
		w.Logger.Info("reading the mesh file again, as asked")
	}
	if why != follow.Due || w.meant(w.held) || w.held.over() {
		w.load(asked)
	}
	if asked && w.OnAsked != nil {
		w.OnAsked()
	}
	if why != follow.Due && time.Now().Before(w.trims) {
		debug.FreeOSMemory()
	}
	switch {
	case w.held == nil:
		return 0
	case w.held.Until.IsZero():
		return meantPoll
	}
	return max(min(meantPoll, time.Until(w.held.Until)), time.Millisecond)
}

// over reports whether the edit has waited for long enough.
func (h *Hold) over() bool { return !h.Until.IsZero() && !time.Now().Before(h.Until) }

// large is from which size on it is worth giving back the memory that reading took: the
// runtime keeps it for minutes otherwise, and a collection may be long in coming.
const large = 1 << 20

// trimFor is for how long after that it is given back, with each look at the files: what
// was in force before is needed for a while.
const trimFor = 70 * time.Second

// read notes that files were read, after others.
func (w *Watcher) read(files []File) {
	before := w.size
	w.size = 0
	for _, f := range files {
		w.size += len(f.Data)
	}
	if max(before, w.size) >= large {
		w.trims = time.Now().Add(trimFor)
	}
}
