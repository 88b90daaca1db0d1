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
	// OnMesh is given each new mesh. Its error means that this process cannot
	// go on with it, and is OnMesh's own to report.
	OnMesh func(*Mesh) error
	// OnError is told why the files do not load, once for each state of
	// them. The last good mesh stays in force.
	OnError func(error)
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
	watched map[string]bool // directories
	names   map[string]bool // what in them leads to the files
}

// NewWatcher returns a Watcher of the files; nothing happens before Run.
func NewWatcher(paths []string, opts Options, w WatcherOptions) *Watcher {
	if w.Logger == nil {
		w.Logger = slog.New(slog.DiscardHandler)
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
	quiet := time.After(0) // for what changed between the first load and now
	var since time.Time    // when the files began not to rest
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
		case <-quiet:
		case <-polls.C:
		}
		quiet = nil
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

// load reads the files and says what came of it, unless it is what came of it
// last time.
func (w *Watcher) load(asked bool) {
	files, err := readFiles(w.paths)
	state := revision(files)
	if err != nil {
		state = err.Error()
	}
	again := asked && w.failed // whoever asks wants to hear why not
	if state == w.seen && !again {
		return
	}
	w.seen = state
	var m *Mesh
	if err == nil {
		m, err = Parse(files, w.opts)
	}
	if err != nil {
		w.failed = true
		w.OnError(err)
		return
	}
	w.failed = w.OnMesh(m) != nil
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
