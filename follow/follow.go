// Package follow says when files have changed, however that was done, and have
// come to rest. It opens none of them: what they say, and whether it is good, is
// the business of whoever reads them.
package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Timing is how long files are waited for.
type Timing struct {
	// Settle is how long files must be left alone before they are read: who
	// writes one truncates it first.
	Settle time.Duration
	// MaxSettle bounds the wait for files that never rest.
	MaxSettle time.Duration
	// Poll is how often they are read unasked, for file systems that tell nobody
	// of a change.
	Poll time.Duration
}

// Why says why files are to be read.
type Why uint8

const (
	// Changed is that they may have changed, or a poll.
	Changed Why = iota
	// Asked is that somebody wants them read.
	Asked
	// Due is that the time has come that the last read named.
	Due
)

// Files calls read, from this goroutine, until ctx ends: at first, whenever the
// files may have changed, and for whatever comes from ask (SIGHUP, as a rule),
// but not while they are being written. What read returns is in what time it is
// to be called again even if nothing happens to them; zero: there is no need.
//
// It watches the directories that hold the files, and those that their symlinks
// lead to: an editor that saves by rename, and a mounted ConfigMap whose ..data
// link is swapped, leave the old file untouched. Without notification (the
// machine may be out of inotify watches) it polls.
func Files(ctx context.Context, log *slog.Logger, paths []string, t Timing, ask <-chan os.Signal, read func(Why) time.Duration) {
	f := &follower{log: log, paths: paths, timing: t, ask: ask, read: read, watched: make(map[string]bool), polled: make(map[string]bool)}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("no notification of file changes: they are polled", "files", paths, "interval", t.Poll, "err", err)
		f.run(ctx, nil)
		return
	}
	f.run(ctx, notify)
	if err := notify.Close(); err != nil {
		log.Debug("closing the notification of file changes", "err", err)
	}
}

type follower struct {
	log    *slog.Logger
	paths  []string
	timing Timing
	ask    <-chan os.Signal
	read   func(Why) time.Duration

	watched map[string]bool // directories
	polled  map[string]bool // directories that cannot be watched
	names   map[string]bool // what in them leads to the files
}

// run follows until ctx ends; notify may be nil.
func (f *follower) run(ctx context.Context, notify *fsnotify.Watcher) {
	var events <-chan fsnotify.Event
	var failures <-chan error
	if notify != nil {
		events, failures = notify.Events, notify.Errors
	}
	f.watch(notify)
	polls := time.NewTicker(f.timing.Poll)
	defer polls.Stop()
	quiet := time.After(0)   // for the first read
	var due <-chan time.Time // of the time that the last read named
	var since time.Time      // when the files began not to rest
	asked := false
	for {
		why := Changed
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if !f.concerns(e) {
				continue
			}
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			quiet = time.After(min(f.timing.Settle, f.timing.MaxSettle-now.Sub(since)))
			continue
		case err := <-failures:
			// An overflow, most likely: look now.
			f.log.Warn("notification of file changes", "err", err)
		case _, ok := <-f.ask:
			if !ok {
				f.ask = nil
				continue
			}
			asked = true
		case <-due:
			if due = nil; quiet != nil {
				continue // they are read in a moment anyway
			}
			why = Due
		case <-quiet:
		case <-polls.C:
		}
		quiet = nil
		f.watch(notify)
		now := time.Now()
		if since.IsZero() {
			since = now
		}
		if f.restless(now) && now.Sub(since) < f.timing.MaxSettle {
			quiet = time.After(f.timing.Settle)
			continue
		}
		if asked {
			why = Asked
		}
		again := f.read(why)
		asked, since, due = false, time.Time{}, nil
		if again > 0 {
			due = time.After(again)
		}
	}
}

// restless reports whether a file was written a moment ago. Half a file may
// well be one that loads, without what stands at its end; so a signal or a poll
// that comes while it is written must not read it.
func (f *follower) restless(now time.Time) bool {
	return slices.ContainsFunc(f.paths, func(path string) bool {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		age := now.Sub(info.ModTime())
		return age >= 0 && age < f.timing.Settle
	})
}

// concerns reports whether an event may be about the files: the directories
// have others in them, and may be busy.
func (f *follower) concerns(e fsnotify.Event) bool {
	if f.watched[e.Name] && e.Op&(fsnotify.Remove|fsnotify.Rename) != 0 {
		delete(f.watched, e.Name) // the kernel's watch is gone with it
		return true
	}
	return f.names[e.Name]
}

// watch watches the directories that the files are in now.
func (f *follower) watch(notify *fsnotify.Watcher) {
	if notify == nil {
		return
	}
	dirs := make(map[string]bool)
	f.names = make(map[string]bool)
	for _, path := range f.paths {
		if err := trace(path, dirs, f.names); err != nil {
			f.log.Debug("a file cannot be followed to its end", "file", path, "err", err)
		}
	}
	for dir := range dirs {
		if f.watched[dir] {
			continue
		}
		if err := notify.Add(dir); err != nil {
			if !f.polled[dir] {
				f.polled[dir] = true
				f.log.Warn("no notification of changes in a directory: it is polled", "directory", dir, "interval", f.timing.Poll, "err", err)
			}
			continue
		}
		f.watched[dir] = true
		delete(f.polled, dir)
	}
	maps.DeleteFunc(f.polled, func(dir string, _ bool) bool { return !dirs[dir] })
	for dir := range f.watched {
		if !dirs[dir] {
			delete(f.watched, dir)
			if err := notify.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
				f.log.Debug("a directory is watched no more", "directory", dir, "err", err)
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
