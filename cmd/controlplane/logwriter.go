package main

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxQueued bounds the log lines that wait for their reader, in bytes.
	maxQueued = 1 << 20
	// flushTime bounds how long the end of the process waits for the log.
	flushTime = time.Second
)

// logWriter writes lines to where the log goes from a goroutine of its own. A
// write to it never waits: a pipe that nobody reads, or a disk that hangs, must
// not stop the control plane. What does not fit is left out and counted, and a
// line says how many were as soon as lines flow again.
type logWriter struct {
	to      io.Writer
	leftOut func(n uint64) []byte // the line that says so
	dropped atomic.Uint64         // since the start

	wake chan struct{}
	done chan struct{} // closed when the goroutine has ended
	torn bool          // the last line written is not whole; only run uses it

	mu     sync.Mutex
	queue  []byte
	gap    uint64 // lines left out since the queue was taken
	closed bool
}

// newLogWriter returns a writer to w; leftOut makes the line that says how many
// were left out. Close ends its goroutine.
func newLogWriter(w io.Writer, leftOut func(n uint64) []byte) *logWriter {
	l := &logWriter{to: w, leftOut: leftOut, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go l.run()
	return l
}

// Write implements io.Writer. A call is a line, or several that belong
// together; it is taken whole or left out.
func (l *logWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	// After the first that did not fit none is taken, so that the gap is in
	// one place.
	if l.closed || l.gap > 0 || len(l.queue)+len(line) > maxQueued {
		l.gap++
		l.dropped.Add(1)
	} else {
		l.queue = append(l.queue, line...)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // it is awake
	}
	return len(line), nil
}

// Dropped returns how many lines were left out since the start.
func (l *logWriter) Dropped() uint64 { return l.dropped.Load() }

// Close writes what waits, for a bounded time, and takes nothing any more.
func (l *logWriter) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	select {
	case <-l.done:
	case <-time.After(flushTime):
	}
}

// run writes until the writer is closed and all is written.
func (l *logWriter) run() {
	defer close(l.done)
	var spare []byte
	var unsaid uint64 // lines that are missing before the next one
	for range l.wake {
		for {
			l.mu.Lock()
			lines, gap, closed := l.queue, l.gap, l.closed
			l.queue, l.gap = spare[:0], 0
			l.mu.Unlock()
			if len(lines) == 0 && gap == 0 {
				if closed {
					return
				}
				spare = lines // the other one is the queue now
				break
			}
			unsaid = l.say(unsaid)
			lost := l.put(lines)
			l.dropped.Add(lost)
			unsaid = l.say(unsaid + lost + gap)
			if spare = lines; cap(spare) > maxQueued/8 {
				spare = nil // a burst is over
			}
		}
	}
}

// put writes lines, and returns how many could not be written.
func (l *logWriter) put(lines []byte) (lost uint64) {
	if l.torn {
		if _, err := l.to.Write([]byte("\n")); err != nil {
			return uint64(bytes.Count(lines, []byte("\n")))
		}
		l.torn = false
	}
	n, err := l.to.Write(lines)
	if err == nil || n >= len(lines) {
		return 0
	}
	l.torn = n > 0 && lines[n-1] != '\n'
	return uint64(bytes.Count(lines[n:], []byte("\n")))
}

// say tells of lines that are missing, and returns of how many it could not.
func (l *logWriter) say(n uint64) uint64 {
	if n == 0 {
		return 0
	}
	if l.put(l.leftOut(n)) > 0 {
		return n
	}
	return 0
}
