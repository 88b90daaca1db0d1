package listen

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// port is a listener whose clients come from where the test says, in a bubble
// of testing/synctest.
type port struct {
	*Listener
	t     *testing.T
	taken chan *Conn
}

type incoming chan net.Conn

func (i incoming) Accept() (net.Conn, error) {
	c, ok := <-i
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (i incoming) Close() error { close(i); return nil }
func (incoming) Addr() net.Addr { return &net.TCPAddr{} }

// from is a connection from an address.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

// client is one end of a connection; the other is conn, nil if it was not
// accepted yet.
type client struct {
	net.Conn
	conn *Conn
}

// gone reports whether the server has closed the connection.
func (c client) gone() bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := c.Read(make([]byte, 1))
	netErr, ok := err.(net.Error) //nolint:errorlint // as the pipe returns it
	return !ok || !netErr.Timeout()
}

var limits = Limits{Connections: 8, Idle: 6, IdlePerHost: 3, IdleTime: 10 * time.Second, BusyIdleTime: 4 * time.Second, WaitTime: 20 * time.Second}

func portTest(t *testing.T, limits Limits, f func(t *testing.T, p port)) {
	synctest.Test(t, func(t *testing.T) {
		p := port{New(make(incoming), limits, slog.New(slog.DiscardHandler)), t, make(chan *Conn, 100)}
		go func() {
			for {
				c, err := p.Accept()
				if err != nil {
					return
				}
				p.taken <- c.(*Conn)
			}
		}()
		f(t, p)
		_ = p.Close()
		synctest.Wait()
	})
}

// dial connects from an IP.
func (p port) dial(ip string) client {
	p.t.Helper()
	ours, theirs := net.Pipe()
	in := p.Listener.Listener.(incoming)
	in <- from{theirs, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 4711))}
	return client{ours, p.accepted()}
}

// accepted returns the next connection that was accepted, or nil.
func (p port) accepted() *Conn {
	synctest.Wait()
	select {
	case c := <-p.taken:
		p.t.Cleanup(func() { _ = c.Close() })
		return c
	default:
		return nil
	}
}

// want fails the test if other connections are open, or idle.
func (p port) want(open, idle int) {
	p.t.Helper()
	if s := p.Stats(); s.Open != open || s.Idle != idle {
		p.t.Errorf("%d open, %d idle, want %d, %d", s.Open, s.Idle, open, idle)
	}
}

func TestAConnectionMustShowWhoItIsInTime(t *testing.T) {
	portTest(t, limits, func(t *testing.T, p port) {
		silent, good := p.dial("10.0.0.1"), p.dial("10.0.0.1")
		time.Sleep(9 * time.Second)
		good.conn.Busy()
		p.want(2, 1)
		time.Sleep(2 * time.Second)
		if !silent.gone() || good.gone() {
			t.Error("the silent one goes on, or the good one does not")
		}
		p.want(1, 0)
		// It has two calls, and is idle after the last one.
		good.conn.Busy()
		good.conn.Idle()
		time.Sleep(time.Hour)
		if good.gone() {
			t.Error("a connection with a call was closed")
		}
		good.conn.Idle()
		time.Sleep(9 * time.Second)
		if good.gone() {
			t.Error("closed too early")
		}
		time.Sleep(2 * time.Second)
		if !good.gone() {
			t.Error("idle for ever")
		}
		p.want(0, 0)
		if s := p.Stats(); s.IdleClosed != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// Those of one host that are over its limit wait. While they do the others have
// less time; then the newest comes in, whose client is the likeliest to be there
// still.
func TestTheIdleOfOneHost(t *testing.T) {
	portTest(t, limits, func(t *testing.T, p port) {
		var held []client
		for range 3 {
			held = append(held, p.dial("10.0.0.1"))
		}
		held[0].conn.Busy() // is none of the idle
		held = append(held, p.dial("10.0.0.1"))
		older, newer := p.dial("10.0.0.1"), p.dial("10.0.0.1")
		if older.conn != nil || newer.conn != nil || newer.gone() {
			t.Error("more than three are served, or they do not wait")
		}
		if c := p.dial("10.0.0.2"); c.conn == nil {
			t.Error("another host must wait for it")
		} else {
			c.conn.Busy()
		}
		p.want(7, 3)
		held[1].conn.Busy() // leaves its place to the newest
		if newer.conn = p.accepted(); newer.conn == nil {
			t.Fatal("the newest should come in")
		}
		time.Sleep(limits.BusyIdleTime - lookEvery)
		p.want(7, 3)
		time.Sleep(2 * lookEvery)
		if older.conn = p.accepted(); older.conn == nil || !held[2].gone() {
			t.Error("the one that was idle for longest should make place")
		}
		for _, c := range []client{held[0], held[1], held[3], older, newer} {
			if c.gone() {
				t.Error("one was closed for nobody")
			}
		}
	})
}

func TestWhatWaitsForTooLong(t *testing.T) {
	impatient := limits
	impatient.WaitTime = 2 * time.Second
	portTest(t, impatient, func(t *testing.T, p port) {
		for range 3 {
			p.dial("10.0.0.1")
		}
		waits := p.dial("10.0.0.1")
		time.Sleep(impatient.WaitTime - lookEvery)
		if waits.gone() {
			t.Error("closed too early")
		}
		time.Sleep(2 * lookEvery)
		if s := p.Stats(); !waits.gone() || s.WaitingClosed != 1 {
			t.Errorf("it waits for ever: %+v", s)
		}
		p.want(3, 3)
	})
}

// When the idle of all hosts are too many each host has its turn, a new one
// first: one that has many waiting takes no place from another.
func TestOneHostDoesNotTakeThePlacesOfOthers(t *testing.T) {
	roomy := limits
	roomy.Connections = 100
	portTest(t, roomy, func(t *testing.T, p port) {
		var idle []client
		for i := range 6 {
			idle = append(idle, p.dial(fmt.Sprint("10.0.1.", i/3)))
		}
		for range 3 {
			p.dial("10.0.0.1")
		}
		for i := range 2 {
			p.dial(fmt.Sprint("10.0.0.", 2+i))
		}
		p.want(11, 6)
		var turns []string
		for _, c := range idle {
			c.conn.Busy() // leaves its place
			if next := p.accepted(); next != nil {
				turns = append(turns, hostOf(client{conn: next}))
			}
		}
		if want := []string{"10.0.0.3", "10.0.0.2", "10.0.0.1", "10.0.0.1", "10.0.0.1"}; !slices.Equal(turns, want) {
			t.Errorf("turns of %v, want %v", turns, want)
		}
	})
}

func hostOf(c client) string {
	host, _, _ := net.SplitHostPort(c.conn.RemoteAddr().String())
	return host
}

// A client that shows nothing again and again begins anew with a handshake, for
// which it has to wait like others; calls that are admitted count from zero.
func TestRefusedCallsEndAConnection(t *testing.T) {
	portTest(t, limits, func(_ *testing.T, p port) {
		c, busy, good := p.dial("10.0.0.1"), p.dial("10.0.0.2"), p.dial("10.0.0.3")
		busy.conn.Busy()
		for range maxRefusals {
			c.conn.Refused()
			busy.conn.Refused()
		}
		for i := range 2 * maxRefusals {
			good.conn.Refused()
			if i%8 == 0 {
				good.conn.Busy()
				good.conn.Idle()
			}
		}
		if !c.gone() || busy.gone() || good.gone() {
			t.Errorf("closed: %v, want it; with another call: %v; now and then refused: %v", c.gone(), busy.gone(), good.gone())
		}
	})
}

// What is at work is never closed for the sake of another.
func TestConnectionsInAll(t *testing.T) {
	portTest(t, limits, func(t *testing.T, p port) {
		var busy []client
		for i := range 8 {
			c := p.dial(fmt.Sprint("10.0.0.", i))
			c.conn.Busy()
			busy = append(busy, c)
		}
		time.Sleep(time.Hour)
		if c := p.dial("10.0.0.9"); c.conn != nil || !c.gone() {
			t.Error("a ninth one came in")
		}
		for _, c := range busy {
			if c.gone() {
				t.Error("one at work was closed")
			}
		}
		busy[0].conn.Idle()
		_ = busy[0].conn.Close()
		_ = busy[0].conn.Close() // as gRPC may
		p.want(7, 0)
		if c := p.dial("10.0.0.9"); c.conn == nil {
			t.Error("there is a place")
		}
		if s := p.Stats(); s.Refused != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Of those that wait, the one that has waited longest goes for a new one.
func TestWaitingInAll(t *testing.T) {
	portTest(t, limits, func(t *testing.T, p port) {
		var held []client
		for range 8 {
			held = append(held, p.dial("10.0.0.1"))
		}
		if c := p.dial("10.0.0.2"); c.conn == nil || !held[3].gone() || held[4].gone() {
			t.Error("the first of those that wait should go")
		}
	})
}

// A machine may have all addresses of an IPv6 network of 64 bits.
func TestWhatOneHostIs(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"10.0.0.1", "10.0.0.2", false},
		{"10.0.0.1", "::ffff:10.0.0.1", true},
		{"fd00::1", "fd00::2:1", true},
		{"fd00::1", "fd00:0:0:1::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
	} {
		prefix := func(ip string) netip.Prefix {
			return prefixOf(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 1)))
		}
		if same := prefix(tt.a) == prefix(tt.b); same != tt.same {
			t.Errorf("%s and %s: %t", tt.a, tt.b, same)
		}
	}
}

// Through TLS too a server finds the connection by the address that it is told.
func TestOf(t *testing.T) {
	portTest(t, limits, func(t *testing.T, p port) {
		c := p.dial("10.0.0.1")
		if Of(tls.Server(c.conn, &tls.Config{MinVersion: tls.VersionTLS13}).RemoteAddr()) != c.conn {
			t.Error("not found")
		}
		if c.conn.RemoteAddr().String() != "10.0.0.1:4711" {
			t.Error(c.conn.RemoteAddr())
		}
		if Of(&net.TCPAddr{}) != nil || Of(nil) != nil {
			t.Error("found a connection of another listener")
		}
	})
}

func TestDescriptors(t *testing.T) {
	if n, err := Descriptors(); err != nil || n < 16 {
		t.Error(n, err)
	}
}

// starved is a port of a process that has no descriptor left but those that are held back.
type starved struct {
	incoming
	spares *spares
}

func (s *starved) Accept() (net.Conn, error) {
	s.spares.mu.Lock()
	held := len(s.spares.files)
	s.spares.mu.Unlock()
	if held > 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return s.incoming.Accept()
}

// A process without a descriptor left takes one more connection on the port that holds
// some back, says why it could not, and holds back new ones when it has them again.
func TestDescriptorsAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := limits
		limits.Spare = 1
		port := &starved{incoming: make(incoming)}
		l := &Listener{Listener: port, spares: spares{want: 1}, limits: limits}
		port.spares = &l.spares
		l.spares.fill()
		l.start(slog.New(slog.DiscardHandler))
		synctest.Wait()
		near, far := net.Pipe()
		defer func() { _ = near.Close() }()
		port.incoming <- from{far, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if s := l.Stats(); s.Failures == 0 || s.Failure == nil || !strings.Contains(s.Failure.Error(), "too many open files") || s.Failed.IsZero() {
			t.Errorf("%+v", s)
		}
		_ = c.Close()
		if n := len(l.spares.files); n != 1 {
			t.Errorf("%d are held back", n)
		}
		_ = l.Close()
		synctest.Wait()
		if n := len(l.spares.files); n != 0 {
			t.Errorf("%d are held back by a port that is closed", n)
		}
	})
}
