// Package listen bounds what a listening port takes. A connection is idle until
// something on it has shown who it is, and again when nothing of that is left.
// Idle ones are few, of one host fewer, and end after a time; those over that
// wait, unread. All together leave descriptors to the rest of the process.
//
// It knows nothing of what is spoken on a connection: who does says so with
// [Conn.Busy] and [Conn.Idle].
package listen

import (
	"container/list"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Limits are those of a port. All must be set.
type Limits struct {
	// Connections is how many there may be in all.
	Connections int
	// Idle is how many of them may be idle, and IdlePerHost how many of one
	// host: an IPv4 address, or an IPv6 network of 64 bits, of which a machine
	// may have all addresses.
	Idle, IdlePerHost int
	// IdleTime is how long a connection may be idle, and BusyIdleTime the same
	// while others wait. WaitTime is how long it may wait: that costs little, and
	// to begin again costs more.
	IdleTime, BusyIdleTime, WaitTime time.Duration
	// Spare is how many descriptors are held back for connections that come when the
	// process has no other; zero is none.
	Spare int
}

// lookEvery is how often it is looked whose time is over.
const lookEvery = 100 * time.Millisecond

// Listener is a port within its limits.
type Listener struct {
	net.Listener
	limits Limits
	log    *slog.Logger
	ready  chan *Conn
	done   chan struct{} // closed with the listener
	close  func() error
	spares spares

	mu      sync.Mutex
	stats   Stats
	hosts   map[netip.Prefix]*host
	idle    list.List // of *Conn, oldest first
	waiting list.List // of *Conn, oldest first
	turns   list.List // of *host: that have one waiting, and room for it
	looking bool
	shut    bool
}

// Stats are the connections of a port. Idle and Waiting are among those that
// are open.
type Stats struct {
	Open, Idle, Waiting int
	// Since the start: those that were idle, or waited, for too long; that were
	// too many; and the times that the system had none to give.
	IdleClosed, WaitingClosed, Refused, Failures uint64
	// Failed is when the last of the failures was, and Failure why.
	Failed  time.Time
	Failure error
}

// host is where connections come from.
type host struct {
	prefix  netip.Prefix
	idle    int
	waiting []*Conn // the newest is last, and next: it waits for the shortest time
	turn    bool    // it is among the turns
}

// New bounds a listener. What is closed is logged: it should be a logger that
// bears any number of lines.
func New(inner net.Listener, limits Limits, log *slog.Logger) *Listener {
	l := &Listener{Listener: inner, limits: limits, spares: spares{want: limits.Spare}}
	l.start(log)
	return l
}

func (l *Listener) start(log *slog.Logger) {
	l.log = log
	l.ready, l.done = make(chan *Conn, l.limits.Idle), make(chan struct{})
	l.hosts = make(map[netip.Prefix]*host)
	l.spares.fill()
	l.close = sync.OnceValue(func() error {
		close(l.done)
		return l.Listener.Close()
	})
	go l.listen()
}

// Stats returns counters for metrics.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Accept implements [net.Listener].
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *Listener) Close() error {
	err := l.close()
	l.mu.Lock()
	l.shut = true
	var left []*Conn
	for e := l.waiting.Front(); e != nil; e = e.Next() {
		left = append(left, e.Value.(*Conn))
	}
	l.mu.Unlock()
	for {
		select {
		case c := <-l.ready:
			left = append(left, c)
			continue
		default:
		}
		break
	}
	for _, c := range left {
		_ = c.Close()
	}
	return err
}

// listen takes what comes, at once: what waits in the queue of the system would
// hold up those behind it, from other hosts.
func (l *Listener) listen() {
	defer l.spares.close()
	for pause := time.Duration(0); ; {
		inner, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.mu.Lock()
			l.stats.Failures++
			l.stats.Failed, l.stats.Failure = time.Now(), err
			l.mu.Unlock()
			l.log.Error("no connection can be taken", "address", l.Addr().String(), "err", err)
			if outOfDescriptors(err) && l.spares.release() {
				continue
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
				continue
			case <-l.done:
				return
			}
		}
		pause = 0
		c := &Conn{Conn: inner, listener: l, prefix: prefixOf(inner.RemoteAddr()), since: time.Now()}
		if surplus := l.enter(c); surplus != nil {
			_ = surplus.Conn.Close()
			l.log.Warn("a connection was refused: there are too many", "address", l.Addr().String(), "peer", surplus.Conn.RemoteAddr().String())
		}
	}
}

// enter takes a connection in. It returns one that is too many: that has waited
// longest, else the new one.
func (l *Listener) enter(c *Conn) (surplus *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return c // it came while the port was closed
	}
	if l.stats.Open >= l.limits.Connections {
		l.stats.Refused++
		oldest := l.waiting.Front()
		if oldest == nil {
			return c
		}
		surplus = oldest.Value.(*Conn)
		l.leave(surplus)
	}
	h := l.host(c.prefix)
	l.stats.Open++
	l.stats.Waiting++
	c.open, c.waits = true, true
	c.element = l.waiting.PushBack(c)
	h.waiting = append(h.waiting, c)
	l.mayHaveTurn(h, true)
	l.seat()
	l.lookLater()
	return surplus
}

// host returns the host of a prefix; it is made if there is none.
func (l *Listener) host(prefix netip.Prefix) *host {
	h := l.hosts[prefix]
	if h == nil {
		h = &host{prefix: prefix}
		l.hosts[prefix] = h
	}
	return h
}

// mayHaveTurn notes that a host has one waiting, if there is room for it. One
// that comes new is first: who has waited for long may have given up, and a
// handshake with nobody costs as much as any. One that had its turn is last. The
// caller holds mu, as for all that follows.
func (l *Listener) mayHaveTurn(h *host, first bool) {
	if h.turn || len(h.waiting) == 0 || h.idle >= l.limits.IdlePerHost {
		return
	}
	h.turn = true
	if first {
		l.turns.PushFront(h)
	} else {
		l.turns.PushBack(h)
	}
}

// seat lets those in that wait, of each host in turn, while there is room.
func (l *Listener) seat() {
	for !l.shut && l.stats.Idle < l.limits.Idle && l.turns.Len() > 0 {
		h := l.turns.Remove(l.turns.Front()).(*host)
		h.turn = false
		if len(h.waiting) == 0 || h.idle >= l.limits.IdlePerHost {
			continue
		}
		c := h.waiting[len(h.waiting)-1]
		l.stopWaiting(c)
		l.rest(c)
		l.mayHaveTurn(h, false)
		select {
		case l.ready <- c:
		default: // nobody accepts
			l.leave(c)
			_ = c.Conn.Close()
		}
	}
}

// rest notes that a connection is idle.
func (l *Listener) rest(c *Conn) {
	h := l.host(c.prefix)
	c.since = time.Now()
	c.element = l.idle.PushBack(c)
	h.idle++
	l.stats.Idle++
}

// stopResting notes that a connection is no longer idle.
func (l *Listener) stopResting(c *Conn) {
	l.idle.Remove(c.element)
	c.element = nil
	l.stats.Idle--
	h := l.hosts[c.prefix]
	h.idle--
	l.mayHaveTurn(h, false)
	l.forget(h)
}

func (l *Listener) stopWaiting(c *Conn) {
	l.waiting.Remove(c.element)
	c.element, c.waits = nil, false
	l.stats.Waiting--
	h := l.hosts[c.prefix]
	for i := len(h.waiting) - 1; i >= 0; i-- { // most often the last
		if h.waiting[i] == c {
			h.waiting = slices.Delete(h.waiting, i, i+1)
			break
		}
	}
}

func (l *Listener) forget(h *host) {
	if h.idle == 0 && len(h.waiting) == 0 {
		delete(l.hosts, h.prefix)
	}
}

// leave notes that a connection is gone.
func (l *Listener) leave(c *Conn) {
	if !c.open {
		return
	}
	c.open = false
	l.stats.Open--
	switch {
	case c.waits:
		l.stopWaiting(c)
		l.forget(l.hosts[c.prefix])
	case c.busy == 0:
		l.stopResting(c)
	}
}

func (l *Listener) lookLater() {
	if !l.looking && !l.shut && l.idle.Len()+l.waiting.Len() > 0 {
		l.looking = true
		time.AfterFunc(lookEvery, l.look)
	}
}

// look closes those whose time is over, and lets others in for them.
func (l *Listener) look() {
	l.mu.Lock()
	l.looking = false
	now := time.Now()
	var idle, waited []*Conn
	for e := l.waiting.Front(); e != nil && now.Sub(e.Value.(*Conn).since) >= l.limits.WaitTime; e = l.waiting.Front() {
		c := e.Value.(*Conn)
		l.leave(c)
		waited = append(waited, c)
	}
	for {
		e := l.idle.Front()
		if e == nil {
			break
		}
		c := e.Value.(*Conn)
		age := now.Sub(c.since)
		if age < l.limits.IdleTime && (l.waiting.Len() == 0 || age < l.limits.BusyIdleTime) {
			break
		}
		l.leave(c)
		idle = append(idle, c)
		l.seat()
	}
	l.stats.IdleClosed += uint64(len(idle))
	l.stats.WaitingClosed += uint64(len(waited))
	l.lookLater()
	l.mu.Unlock()
	for _, c := range idle {
		_ = c.Conn.Close()
		l.log.Info("a connection without an authenticated call was closed", "address", l.Addr().String(),
			"peer", c.Conn.RemoteAddr().String(), "idle", now.Sub(c.since).Round(time.Second))
	}
	for _, c := range waited {
		_ = c.Conn.Close()
		l.log.Warn("a connection was closed that waited for others to authenticate", "address", l.Addr().String(), "peer", c.Conn.RemoteAddr().String())
	}
}

// Conn is a connection of a [Listener].
type Conn struct {
	net.Conn
	listener *Listener
	prefix   netip.Prefix

	// The rest is guarded by the listener's mu.
	open    bool
	waits   bool          // it was not accepted yet
	busy    int           // what it carries that has shown who it is
	refused int           // calls in a row that have not shown who they are
	since   time.Time     // when it began to wait, or to be idle
	element *list.Element // among those that are idle, or wait
}

// Busy says that the connection carries one thing more that has shown who it
// is, until [Conn.Idle].
func (c *Conn) Busy() {
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	c.refused = 0
	if c.busy++; c.busy == 1 && c.open {
		l.stopResting(c)
		l.seat()
	}
}

// Idle says that one of those has ended.
func (c *Conn) Idle() {
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.busy--; c.busy == 0 && c.open {
		l.rest(c)
		l.lookLater()
	}
}

// maxRefusals is how many calls in a row a connection may have refused: each
// costs the check of a token, and a client that has none to show spares itself
// the handshake of a new connection, which is what holds others back.
const maxRefusals = 16

// Refused says that a call on the connection has not shown who it is. Too many
// in a row end it, unless it carries others.
func (c *Conn) Refused() {
	l := c.listener
	l.mu.Lock()
	c.refused++
	over := c.refused >= maxRefusals && c.busy == 0
	l.mu.Unlock()
	if over {
		_ = c.Close()
	}
}

// Close implements [net.Conn].
func (c *Conn) Close() error {
	l := c.listener
	l.mu.Lock()
	l.leave(c)
	l.seat()
	l.mu.Unlock()
	err := c.Conn.Close()
	if l.limits.Spare > 0 && !l.closed() {
		l.spares.fill()
	}
	return err
}

func (l *Listener) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// RemoteAddr implements [net.Conn]. From the address [Of] finds the connection
// again, through whatever is wrapped around it.
func (c *Conn) RemoteAddr() net.Addr { return peer{c.Conn.RemoteAddr(), c} }

type peer struct {
	net.Addr
	conn *Conn
}

// Of returns the connection that a remote address was taken from, or nil if a
// [Listener] had no part in it.
func Of(remote net.Addr) *Conn {
	p, _ := remote.(peer)
	return p.conn
}

// HostOf returns what counts as one host: an IPv4 address, an IPv6 network of 64
// bits, or this machine, whichever way it comes: a proxy on the same machine is
// on ::1 today and on 127.0.0.1 when it comes back.
func HostOf(remote net.Addr) string {
	if p, ok := remote.(peer); ok {
		remote = p.Addr
	}
	tcp, ok := remote.(*net.TCPAddr)
	if !ok || tcp.IP.Equal(net.IPv4(127, 0, 0, 1)) || tcp.IP.Equal(net.IPv6loopback) {
		return "this machine"
	}
	return prefixOf(tcp).Addr().String()
}

// prefixOf returns the network of a host, for the limits; the zero value is a
// Unix socket.
func prefixOf(remote net.Addr) netip.Prefix {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{} // a Unix socket: this machine
	}
	addr := tcp.AddrPort().Addr().Unmap()
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.WithZone("").Prefix(bits)
	return p
}
