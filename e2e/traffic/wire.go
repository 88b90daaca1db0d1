package traffic

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// Wire forwards TCP connections to a target, and can be told to be a bad
// network: silent, cut.
type Wire struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	silent  bool
	changed chan struct{}
	closed  bool
	conns   map[net.Conn]struct{}
	running sync.WaitGroup
}

// NewWire listens on a free loopback port.
func NewWire(target string) (*Wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	w := &Wire{listener: l, target: target, changed: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	w.running.Go(w.accept)
	return w, nil
}

// Addr returns where it listens.
func (w *Wire) Addr() string { return w.listener.Addr().String() }

// Silence stops the data both ways and leaves the connections open, new ones
// too: the peer is unplugged.
func (w *Wire) Silence(on bool) { w.set(func() { w.silent = on }) }

// Cut closes every connection.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
}

// Close stops listening and closes every connection.
func (w *Wire) Close() {
	_ = w.listener.Close()
	w.set(func() { w.closed = true })
	w.Cut()
	w.running.Wait()
}

func (w *Wire) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Wire) accept() {
	for {
		c, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		closed := w.closed
		w.mu.Unlock()
		if closed {
			_ = c.Close()
			continue
		}
		w.running.Go(func() { w.forward(c) })
	}
}

func (w *Wire) forward(near net.Conn) {
	w.keep(near)
	defer w.drop(near)
	if !w.pass() {
		return
	}
	far, err := net.DialTimeout("tcp", w.target, 5*time.Second)
	if err != nil {
		return
	}
	w.keep(far)
	defer w.drop(far)
	var both sync.WaitGroup
	both.Go(func() { w.pump(far, near) })
	both.Go(func() { w.pump(near, far) })
	both.Wait()
}

func (w *Wire) pump(to, from net.Conn) {
	// One side that ends ends the other: nothing here needs half-closed ones.
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !w.pass() {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits as long as the wire is silent. It is false once closed.
func (w *Wire) pass() bool {
	for {
		w.mu.Lock()
		silent, closed, changed := w.silent, w.closed, w.changed
		w.mu.Unlock()
		if closed || !silent {
			return !closed
		}
		<-changed
	}
}

func (w *Wire) keep(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = struct{}{}
	if w.closed {
		_ = c.Close()
	}
}

func (w *Wire) drop(c net.Conn) {
	_ = c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}
