package file

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a file must have been left alone before it is read:
	// an editor truncates and then writes.
	settle = 50 * time.Millisecond
	// unsettled bounds the wait for a directory that is never quiet.
	unsettled = time.Second
	// poll finds what the kernel does not tell: another file system under the
	// path, a target of a symlink elsewhere.
	poll = 2 * time.Second
)

// Follow calls changed at once, and again whenever any of the files may have
// changed, until ctx ends. It watches the files' directories, so that a rename
// over a file, a swapped symlink and a file that comes and goes are all seen,
// and looks every two seconds besides. Only one call runs at a time.
func Follow(ctx context.Context, log *slog.Logger, paths []string, changed func()) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("no file notifications: polling", "err", err)
		watcher = &fsnotify.Watcher{} // its channels are nil: nothing ever comes
	} else {
		defer func() { _ = watcher.Close() }()
		watchDirectories(watcher, log, paths)
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	seen := stats(paths)
	changed()
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-watcher.Errors:
			// An overflow, most likely: look now.
			log.Warn("file notifications failed: looking at the files instead", "err", err)
		case <-tick.C:
			// Whoever writes it may be in the middle, and half a catalog is one.
			if !same(seen, stats(paths)) && !quiet(ctx, watcher.Events) {
				return
			}
		case <-watcher.Events:
			if !quiet(ctx, watcher.Events) {
				return
			}
		}
		if now := stats(paths); !same(seen, now) {
			seen = now
			if err == nil {
				watchDirectories(watcher, log, paths) // a symlink may point elsewhere now
			}
			changed()
		}
	}
}

// watchDirectories watches where the files are, and where they link to.
func watchDirectories(watcher *fsnotify.Watcher, log *slog.Logger, paths []string) {
	for _, path := range paths {
		dirs := []string{filepath.Dir(path)}
		if target, err := filepath.EvalSymlinks(path); err == nil && filepath.Dir(target) != dirs[0] {
			dirs = append(dirs, filepath.Dir(target))
		}
		for _, dir := range dirs {
			if err := watcher.Add(dir); err != nil {
				log.Warn("no notifications for a directory: polling", "directory", dir, "err", err)
			}
		}
	}
}

// quiet waits until no event has come for the settle time. It is false when
// ctx ended.
func quiet(ctx context.Context, events <-chan fsnotify.Event) bool {
	limit := time.NewTimer(unsettled)
	defer limit.Stop()
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			return true
		case <-timer.C:
			return true
		case <-events:
			timer.Reset(settle)
		}
	}
}

func stats(paths []string) []fs.FileInfo {
	infos := make([]fs.FileInfo, len(paths))
	for i, path := range paths {
		infos[i], _ = os.Stat(path) // nil: not there, or not readable
	}
	return infos
}

func same(a, b []fs.FileInfo) bool {
	for i := range a {
		switch {
		case a[i] == nil && b[i] == nil:
		case a[i] == nil || b[i] == nil:
			return false
		case !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size():
			return false
		}
	}
	return true
}
