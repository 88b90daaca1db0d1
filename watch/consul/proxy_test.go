package consul_test

import (
	"net"
	"sync"
	"testing"
	"time"
)

// proxy is a TCP proxy in front of an agent that misbehaves when told to.
type proxy struct {
	addr string // host:port

	target   string
	listener net.Listener

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	delay  time.Duration
	frozen chan struct{} // closed: nothing is held
	closed bool
	wg     sync.WaitGroup
}

// newProxy forwards to target until the test ends.
func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	close(open)
	p := &proxy{addr: l.Addr().String(), target: target, listener: l, conns: make(map[net.Conn]struct{}), frozen: open}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.thaw()
		_ = l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.drop()
		p.wg.Wait()
	})
	return p
}

// late makes each piece of data that comes from the target late.
func (p *proxy) late(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// drop closes every connection.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// freeze holds all data that comes from the target, on open connections, until
// thaw.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

// thaw ends a freeze.
func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.frozen:
	default:
		close(p.frozen)
	}
}

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		p.mu.Lock()
		p.conns[in], p.conns[out] = struct{}{}, struct{}{}
		if p.closed {
			_, _ = in.Close(), out.Close()
		}
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(out, in, false) })
		p.wg.Go(func() { p.copy(in, out, true) })
	}
}

func (p *proxy) copy(dst, src net.Conn, late bool) {
	defer func() {
		_, _ = dst.Close(), src.Close()
		p.mu.Lock()
		delete(p.conns, dst)
		delete(p.conns, src)
		p.mu.Unlock()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		delay, frozen := p.delay, p.frozen
		p.mu.Unlock()
		if late {
			time.Sleep(delay)
			<-frozen
		}
		if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}
