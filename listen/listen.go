// Package listen bounds what a listening port takes. A connection is idle until
// something on it has shown who it is, and again when nothing of that is left:
// idle ones are few, of one host fewer, and end after a time. All connections
// together leave descriptors to the rest of the process.
//
// It knows nothing of what is spoken on a connection: who does says so with
// [Conn.Busy] and [Conn.Idle].
package listen

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits are those of a port. All but Grace must be set.
type Limits struct {
	// Connections is how many there may be in all.
	Connections int
	// Idle is how many of them may be idle, and IdlePerHost how many of one
	// host: an IPv4 address, or an IPv6 network of 64 bits, of which a machine
	// may have all addresses.
	Idle, IdlePerHost int
	// IdleTime is how long a connection may be idle.
	IdleTime time.Duration
	// Grace is how long a new connection is not closed for the sake of a newer
	// one of its host: a handshake takes time when many come at once.
	Grace time.Duration
}

// Listener is a port within its limits. What is over them is closed.
type Listener struct {
	net.Listener
	limits Limits
	log    *slog.Logger

	mu    sync.Mutex
	stats Stats
	hosts map[netip.Prefix]*host
}

// Stats are the connections of a port.
type Stats struct {
	Open, Idle int
	// Closed counts, since the start, those that were idle for too long, that
	// made place for a newer one, and that found none.
	IdleClosed, Displaced, Refused uint64
	// Failures counts the times that the system had no connection to give.
	Failures uint64
}

// host is where connections come from. It has those that are idle, oldest
// first.
type host struct {
	prefix       netip.Prefix
	oldest, last *Conn
	idle         int
}

// New bounds a listener. What is closed is logged: it should be a logger that
// bears any number of lines.
func New(l net.Listener, limits Limits, log *slog.Logger) *Listener {
	return &Listener{Listener: l, limits: limits, log: log, hosts: make(map[netip.Prefix]*host)}
}

// Stats returns counters for metrics.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Accept implements [net.Listener].
func (l *Listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				l.mu.Lock()
				l.stats.Failures++
				l.mu.Unlock()
				l.log.Error("no connection can be taken", "address", l.Addr().String(), "err", err)
			}
			return nil, err
		}
		c := &Conn{Conn: inner, listener: l, prefix: prefixOf(inner.RemoteAddr())}
		displaced, ok := l.enter(c)
		if displaced != nil {
			_ = displaced.Close()
			l.log.Warn("an idle connection made place for a newer one", "address", l.Addr().String(), "peer", displaced.Conn.RemoteAddr().String())
		}
		if ok {
			return c, nil
		}
		_ = inner.Close()
		l.log.Warn("a connection was refused: there are too many", "address", l.Addr().String(), "peer", inner.RemoteAddr().String())
	}
}

// enter takes a connection in. One that it displaces is to be closed.
func (l *Listener) enter(c *Conn) (displaced *Conn, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.hosts[c.prefix]
	switch {
	case own != nil && own.idle >= l.limits.IdlePerHost:
		if time.Since(own.oldest.since) >= l.limits.Grace {
			displaced = own.oldest
		}
	case l.stats.Idle >= l.limits.Idle || l.stats.Open >= l.limits.Connections:
		// Whoever has most is where the trouble comes from.
		most := l.greediest()
		if most != nil && (most != own && (own == nil || most.idle > 2*own.idle) || time.Since(most.oldest.since) >= l.limits.Grace) {
			displaced = most.oldest
		}
	default:
		l.take(c)
		return nil, true
	}
	if displaced == nil {
		l.stats.Refused++
		return nil, false
	}
	l.stats.Displaced++
	l.leave(displaced)
	l.take(c)
	return displaced, true
}

func (l *Listener) greediest() (most *host) {
	for _, h := range l.hosts {
		if most == nil || h.idle > most.idle {
			most = h
		}
	}
	return most
}

func (l *Listener) take(c *Conn) {
	l.stats.Open++
	c.open = true
	l.rest(c)
}

// rest notes that a connection is idle. The caller holds mu, as for what
// follows.
func (l *Listener) rest(c *Conn) {
	h := l.hosts[c.prefix]
	if h == nil {
		h = &host{prefix: c.prefix}
		l.hosts[c.prefix] = h
	}
	c.since = time.Now()
	if c.before = h.last; h.last == nil {
		h.oldest = c
	} else {
		h.last.after = c
	}
	h.last = c
	h.idle++
	l.stats.Idle++
	if c.timer == nil {
		c.timer = time.AfterFunc(l.limits.IdleTime, c.expire)
	} else {
		c.timer.Reset(l.limits.IdleTime)
	}
}

// rouse notes that a connection is no longer idle.
func (l *Listener) rouse(c *Conn) {
	c.timer.Stop()
	h := l.hosts[c.prefix]
	if c.before == nil {
		h.oldest = c.after
	} else {
		c.before.after = c.after
	}
	if c.after == nil {
		h.last = c.before
	} else {
		c.after.before = c.before
	}
	c.before, c.after = nil, nil
	l.stats.Idle--
	if h.idle--; h.idle == 0 {
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
	if c.busy == 0 {
		l.rouse(c)
	}
}

// Conn is a connection of a [Listener].
type Conn struct {
	net.Conn
	listener *Listener
	prefix   netip.Prefix

	// The rest is guarded by the listener's mu.
	open          bool
	busy          int // what it carries that has shown who it is
	since         time.Time
	timer         *time.Timer
	before, after *Conn // among the idle ones of its host
}

// Busy says that the connection carries one thing more that has shown who it
// is, until [Conn.Idle].
func (c *Conn) Busy() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.busy++; c.busy == 1 && c.open {
		c.listener.rouse(c)
	}
}

// Idle says that one of those has ended.
func (c *Conn) Idle() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.busy--; c.busy == 0 && c.open {
		c.listener.rest(c)
	}
}

// Close implements [net.Conn].
func (c *Conn) Close() error {
	c.listener.mu.Lock()
	c.listener.leave(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// expire closes a connection that was idle for too long.
func (c *Conn) expire() {
	l := c.listener
	l.mu.Lock()
	if !c.open || c.busy > 0 || time.Since(c.since) < l.limits.IdleTime {
		l.mu.Unlock()
		return
	}
	l.stats.IdleClosed++
	l.leave(c)
	l.mu.Unlock()
	_ = c.Conn.Close()
	l.log.Info("a connection without an authenticated call was closed", "address", l.Addr().String(),
		"peer", c.Conn.RemoteAddr().String(), "after", l.limits.IdleTime)
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

// prefixOf returns what counts as one host.
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
