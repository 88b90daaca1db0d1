package policy

import (
	"os"
	"runtime/debug"
	"time"
)

// meantPoll is how often it is asked whether somebody means what is held.
const meantPoll = 500 * time.Millisecond

// load reads the files and says what came of it, unless it is what came of it
// last time.
func (w *Watcher) load(asked bool) {
	files, err := readRegular(w.paths)
	state := Revision(files)
	if err != nil {
		state = err.Error()
	}
	if w.held != nil && state == w.held.Revision {
		w.reconsider(asked)
		return
	}
	again := asked && w.failed // whoever asks wants to hear why not
	if state == w.seen && !again {
		return
	}
	w.seen = state
	held := w.held != nil
	w.held, w.next = nil, nil
	var m *Mesh
	if err == nil {
		w.read(files)
		m, err = w.parse(files)
	}
	switch {
	case err != nil:
		w.failed = true
		w.OnError(err)
	case held && w.Current != nil && m.Revision == w.Current.Revision:
		w.failed = false
		w.onHold(nil) // the files are again what is in force
	default:
		w.judge(m)
	}
}

// parse is [Parse], with what the process says of the outcome.
func (w *Watcher) parse(files []File) (*Mesh, error) {
	m, err := Parse(files, w.opts)
	if err == nil && w.Check != nil {
		err = w.Check(m)
	}
	return m, err
}

// judge takes a mesh, or holds it.
func (w *Watcher) judge(m *Mesh) {
	last := w.Current
	if w.InForce != nil {
		if is := w.InForce(); is != nil {
			last = is
		}
	}
	var h *Hold
	if last != nil {
		var removes []string
		if w.Removes != nil {
			removes = w.Removes(last, m)
		}
		h = Judge(last, m, removes...)
	}
	if h == nil || w.meant(h) {
		w.take(m)
		return
	}
	if h.Beginning == "" {
		h.Until = time.Now().Add(w.Rest)
	}
	w.held, w.next = h, m
	w.onHold(h)
}

// reconsider looks again at what is held.
func (w *Watcher) reconsider(asked bool) {
	h, now := w.held, time.Now()
	switch {
	case w.meant(h):
		w.take(w.next)
	case h.Until.IsZero():
	case now.Before(h.Until):
	default:
		if left := w.Rest - now.Sub(w.written(now)); left > 0 { // written again, with the same content
			h.Until = now.Add(left)
			break
		}
		w.take(w.next)
		return
	}
	if asked && w.held != nil {
		w.onHold(h)
	}
}

// take hands a mesh on.
func (w *Watcher) take(m *Mesh) {
	w.held, w.next = nil, nil
	if err := w.handOn(m); err != nil {
		w.failed = true
		return
	}
	w.failed, w.Current = false, m
}

// handOn calls OnMesh. A panic in it is told as an error: the mesh in force
// stays, and the next file is tried.
func (w *Watcher) handOn(m *Mesh) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &PanicError{r, debug.Stack()}
			w.OnError(err)
		}
	}()
	return w.OnMesh(m, w.since(time.Now()))
}

// since is from when on what is taken now is to be in force. A file that was renamed
// into place keeps an older time of writing, and one that waited was not to be.
func (w *Watcher) since(now time.Time) time.Time {
	if written := w.written(now); now.Sub(written) <= maxSettle+readTime {
		return written
	}
	return now
}

func (w *Watcher) meant(h *Hold) bool { return w.Meant != nil && w.Meant(h.Revision) }

func (w *Watcher) onHold(h *Hold) {
	if w.OnHold != nil {
		w.OnHold(h)
	}
}

// written is when the last of the files was written. What lies in the future
// says nothing.
func (w *Watcher) written(now time.Time) time.Time {
	var last time.Time
	for _, path := range w.paths {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(last) && !info.ModTime().After(now) {
			last = info.ModTime()
		}
	}
	return last
}
