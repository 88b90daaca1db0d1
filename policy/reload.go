package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long the files must be left alone before they are read:
	// an editor's save and a symlink swap are several events.
	settle = 200 * time.Millisecond
	// maxSettle bounds that when they never rest.
	maxSettle = 2 * time.Second
	// poll is how often the files are read unasked, for file systems that
	// tell nobody of a change.
	poll = 30 * time.Second
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
	// Check says why this process can never go on with a mesh, before it is
	// judged; nil if it goes on with any.
	Check func(*Mesh) error
	// OnMesh is given each new mesh. Its error means that this process cannot
	// go on with it, and is OnMesh's own to report.
	OnMesh func(*Mesh) error
	// OnError is told why the files do not load, once for each state of
	// them. The last good mesh stays in force.
	OnError func(error)
	// OnHold is told of an edit that has to wait, see [Judge], again when
	// somebody asks, and with nil if it is gone before it was taken. May be nil.
	OnHold func(*Hold)
	// Meant reports whether somebody has said of the revision that it is
	// meant: then it does not wait. May be nil.
	Meant func(revision string) bool
	// Rest is how long an edit that has to wait must rest; [Rest] if zero.
	Rest time.Duration
}

// Watcher loads mesh files again when they change. It watches the directories
// that hold them, and those that their symlinks lead to: an editor that saves
// by rename, and a mounted ConfigMap whose ..data link is swapped, leave the
// old file untouched.
type Watcher struct {
	paths []string
	opts  Options
	WatcherOptions

	seen    string          // what was last tried: the revision of the files, or why they cannot be read
	failed  bool            // seen does not load, or OnMesh would not have it
	held    *Hold           // of what was last tried; nil: it does not wait
	next    *Mesh           // what is held
	watched map[string]bool // directories
	names   map[string]bool // what in them leads to the files
}

// NewWatcher returns a Watcher of the files; nothing happens before Run.
func NewWatcher(paths []string, opts Options, w WatcherOptions) *Watcher {
	if w.Logger == nil {
		w.Logger = slog.New(slog.DiscardHandler)
	}
	if w.Rest == 0 {
		w.Rest = Rest
	}
	watcher := &Watcher{paths: paths, opts: opts, WatcherOptions: w, watched: make(map[string]bool)}
	if w.Current != nil {
		watcher.seen = w.Current.Revision
	}
	return watcher
}

// Run watches until ctx ends, and returns nil then. Without change
// notification (the machine may be out of inotify watches) it polls.
func (w *Watcher) Run(ctx context.Context) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.Logger.Warn("no notification of file changes: the mesh file is polled", "interval", poll, "err", err)
		w.run(ctx, nil)
		return nil
	}
	w.run(ctx, notify)
	if err := notify.Close(); err != nil {
		w.Logger.Debug("closing the notification of file changes", "err", err)
	}
	return nil
}

// run watches until ctx ends; notify may be nil.
func (w *Watcher) run(ctx context.Context, notify *fsnotify.Watcher) {
	var events <-chan fsnotify.Event
	var failures <-chan error
	if notify != nil {
		events, failures = notify.Events, notify.Errors
	}
	w.follow(notify)
	polls := time.NewTicker(poll)
	defer polls.Stop()
	quiet := time.After(0)     // for what changed between the first load and now
	var meant <-chan time.Time // while an edit is held
	var since time.Time        // when the files began not to rest
	asked := false
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if !w.concerns(e) {
				continue
			}
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			quiet = time.After(min(settle, maxSettle-now.Sub(since)))
			continue
		case err := <-failures:
			w.Logger.Warn("watching the mesh file", "err", err)
		case _, ok := <-w.Reload:
			if !ok {
				w.Reload = nil
				continue
			}
			w.Logger.Info("reading the mesh file again, as asked")
			asked = true
		case <-meant:
			if meant = time.After(meantPoll); !w.meant(w.held) {
				continue
			}
		case <-quiet:
		case <-polls.C:
		}
		quiet, meant = nil, nil
		w.follow(notify)
		now := time.Now()
		if since.IsZero() {
			since = now
		}
		if w.restless(now) && now.Sub(since) < maxSettle {
			quiet = time.After(settle)
			continue
		}
		w.load(asked)
		asked, since = false, time.Time{}
		if w.held == nil {
			continue
		}
		meant = time.After(meantPoll)
		if !w.held.Until.IsZero() {
			quiet = time.After(time.Until(w.held.Until))
		}
	}
}

// restless reports whether a file was written a moment ago. Half a file may
// well be one that loads, without the policies that stand at its end; so a
// signal or a poll that comes while it is written must not read it.
func (w *Watcher) restless(now time.Time) bool {
	return slices.ContainsFunc(w.paths, func(path string) bool {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		age := now.Sub(info.ModTime())
		return age >= 0 && age < settle
	})
}

// concerns reports whether an event may be about the files: the directories
// have others in them, and may be busy.
func (w *Watcher) concerns(e fsnotify.Event) bool {
	if w.watched[e.Name] && e.Op&(fsnotify.Remove|fsnotify.Rename) != 0 {
		delete(w.watched, e.Name) // the kernel's watch is gone with it
		return true
	}
	return w.names[e.Name]
}

// follow watches the directories that the files are in now.
func (w *Watcher) follow(notify *fsnotify.Watcher) {
	if notify == nil {
		return
	}
	dirs := make(map[string]bool)
	w.names = make(map[string]bool)
	for _, path := range w.paths {
		if err := trace(path, dirs, w.names); err != nil {
			w.Logger.Debug("the mesh file cannot be followed to its end", "file", path, "err", err)
		}
	}
	for dir := range dirs {
		if w.watched[dir] {
			continue
		}
		if err := notify.Add(dir); err != nil {
			w.Logger.Warn("no notification of changes in a directory: it is polled", "directory", dir, "interval", poll, "err", err)
			continue
		}
		w.watched[dir] = true
	}
	for dir := range w.watched {
		if !dirs[dir] {
			delete(w.watched, dir)
			if err := notify.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
				w.Logger.Debug("a directory is watched no more", "directory", dir, "err", err)
			}
		}
	}
}

// maxLinks bounds a chain of symlinks, as the kernel does.
const maxLinks = 40

// trace walks from a file's name to what it is. It adds the file and each
// symlink on the way to names, and the directories that hold them to dirs.
func trace(path string, dirs, names map[string]bool) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	at, links, pending := "/", 0, segments(path)
	for len(pending) > 0 {
		next := filepath.Join(at, pending[0])
		pending = pending[1:]
		target, err := os.Readlink(next)
		if err == nil || len(pending) == 0 {
			dirs[at], names[next] = true, true
		}
		if err != nil { // no symlink, or nothing there
			at = next
			continue
		}
		if links++; links > maxLinks {
			return fmt.Errorf("%s: more than %d symlinks", path, maxLinks)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		pending = append(segments(target), pending...)
	}
	return nil
}

func segments(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
