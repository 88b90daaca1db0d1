package control

import (
	"fmt"
	"runtime/debug"
	"time"

	"datapunk.dev/controlplane/translate"
)

// sayPanicAgain is how often the log has it that an input still panics: a
// catalog may change a thousand times a second.
const sayPanicAgain = 10 * time.Second

// Failure is why the newest input is not in force, or not all of it.
type Failure struct {
	Cause string // what the panic said
	// Kept is the part of the input that is the last snapshot's; empty: all of
	// it is.
	Kept string
}

// String says it in one line.
func (f *Failure) String() string {
	if f.Kept == "" {
		return "the last snapshot: " + f.Cause
	}
	return "the " + f.Kept + " of the last snapshot: " + f.Cause
}

// translated makes the next snapshot. A panic must not end the process, which
// serves what it has made so far, nor hold up what did not cause it: so if the
// whole input panics, it is tried with one part of it as it was last. The
// snapshot is nil if none could be made; the next input is tried anew.
func (l *Loop) translated(last *translate.Snapshot, in translate.Input) (*translate.Snapshot, *Failure) {
	next, cause, stack := l.attempt(last, in)
	if next != nil {
		l.recovered()
		return next, nil
	}
	f := &Failure{Cause: cause}
	if last != nil {
		next, f.Kept = l.without(last, in)
	}
	l.failed(f, stack)
	return next, f
}

// without tries the input with one part as it was in the last snapshot, and
// returns which.
func (l *Loop) without(last *translate.Snapshot, in translate.Input) (next *translate.Snapshot, kept string) {
	was := last.Input
	mesh, catalog, fleet := in, in, in
	mesh.Mesh, mesh.Stage = was.Mesh, was.Stage
	catalog.Catalog = was.Catalog
	fleet.Fleet = was.Fleet
	for _, part := range []struct {
		name    string
		in      translate.Input
		changed bool
	}{
		{"mesh file", mesh, in.Mesh != was.Mesh || in.Stage != was.Stage},
		{"catalog", catalog, in.Catalog != was.Catalog},
		{"fleet", fleet, in.Fleet != was.Fleet},
	} {
		if !part.changed {
			continue
		}
		if next, _, _ := l.attempt(last, part.in); next != nil {
			return next, part.name
		}
	}
	return nil, ""
}

// attempt translates, and returns nil and why if that panics. What was made on
// the way is dropped: all that it shares with last is immutable.
func (l *Loop) attempt(last *translate.Snapshot, in translate.Input) (next *translate.Snapshot, cause string, stack []byte) {
	defer func() {
		if r := recover(); r != nil {
			next, cause, stack = nil, fmt.Sprintf("panic in making the snapshot: %v", r), debug.Stack()
			l.panicked()
		}
	}()
	return l.translate(last, in), "", nil
}

// handOn publishes a snapshot and reports what is news in it. It is false if
// that panicked, so that nobody knows who has it.
func (l *Loop) handOn(last, next *translate.Snapshot, served *split) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			ok = false
			l.panicked()
			l.failed(&Failure{Cause: fmt.Sprintf("panic in publishing the snapshot: %v", r)}, debug.Stack())
		}
	}()
	l.publish(next, served)
	l.report(last, next)
	return true
}

func (l *Loop) panicked() {
	l.mu.Lock()
	l.status.Panics++
	l.mu.Unlock()
}

// failed says what failed, if it is news or a while ago that it was said.
func (l *Loop) failed(f *Failure, stack []byte) {
	now := time.Now()
	l.mu.Lock()
	before := l.status.Failure
	l.status.Failure = f
	l.mu.Unlock()
	if before != nil && *before == *f && now.Sub(l.said) < sayPanicAgain {
		return
	}
	l.said = now
	l.log.Error("an input panics: what did not cause it goes on, and the next one is tried", "err", f.Cause, "serving", f.String(), "stack", string(stack))
}

func (l *Loop) recovered() {
	l.mu.Lock()
	before := l.status.Failure
	l.status.Failure = nil
	l.mu.Unlock()
	if before != nil {
		l.log.Info("snapshots are made of the newest input again")
	}
}
