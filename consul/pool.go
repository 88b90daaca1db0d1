package consul

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// pool is the connections to an HTTPS API. Every request that waits for a
// connection makes an [http.Transport] open one, so that a thousand of them at
// once, at the start or after an outage, leave it with more than they need.
// This one opens a connection when the others are full, and one at a time.
type pool struct {
	transport *http.Transport // it dials
	address   string

	mu      sync.Mutex
	conns   []*http.ClientConn
	dialing *dialing // nil: none is under way
	closed  bool
}

// dialing is a connection that is being opened.
type dialing struct {
	done chan struct{}
	err  error // once done is closed
}

// untold is how many requests a client may send by HTTP/2 until the server has
// said how many it takes.
const untold = 100

// settings is how long a new connection waits for the server to say that, which
// is the first that a server says. A limit of just as many is not noticed, and
// then it waits the whole time.
const settings = 500 * time.Millisecond

// RoundTrip sends a request on a connection that has room for it.
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	conn, err := p.reserve(req.Context())
	if err != nil {
		return nil, err
	}
	return conn.RoundTrip(req)
}

// reserve returns a connection that has room for one request, and holds it.
func (p *pool) reserve(ctx context.Context) (*http.ClientConn, error) {
	for {
		p.mu.Lock()
		for _, conn := range p.conns {
			if conn.Err() == nil && conn.Reserve() == nil {
				p.mu.Unlock()
				return conn, nil
			}
		}
		d := p.dialing
		if d == nil {
			d = &dialing{done: make(chan struct{})}
			p.dialing = d
			// The request may end before others have the use of it.
			go p.dial(context.WithoutCancel(ctx), d)
		}
		p.mu.Unlock()
		select {
		case <-d.done:
			if d.err != nil {
				return nil, d.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dial opens a connection. The transport bounds the time that it may take.
func (p *pool) dial(ctx context.Context, d *dialing) {
	conn, err := p.connect(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed && err == nil {
		err = net.ErrClosed
		_ = conn.Close()
	}
	if d.err = err; err == nil {
		p.conns = append(p.conns, conn)
	}
	p.dialing = nil
	close(d.done)
}

// errClosedAtOnce is most often TLS 1.3: there the handshake is over, for a
// client, before the server has looked at the client's certificate.
var errClosedAtOnce = errors.New("the connection was closed as soon as it was open: Consul may want another client certificate")

// connect opens a connection that takes requests.
func (p *pool) connect(ctx context.Context) (*http.ClientConn, error) {
	conn, err := p.transport.NewClientConn(ctx, "https", p.address)
	if err != nil {
		return nil, err
	}
	awaitSettings(conn)
	// The hook may be called by one that holds the lock.
	conn.SetStateHook(func(*http.ClientConn) { go p.tidy() })
	if conn.Err() != nil || conn.Available() == 0 {
		_ = conn.Close()
		return nil, errClosedAtOnce
	}
	return conn, nil
}

func awaitSettings(conn *http.ClientConn) {
	if conn.Available() != untold {
		return // HTTP/1.1, or told already
	}
	told := make(chan struct{})
	tell := sync.OnceFunc(func() { close(told) })
	conn.SetStateHook(func(*http.ClientConn) { tell() })
	select {
	case <-told:
	case <-time.After(settings):
	}
}

// tidy drops connections that have failed, and those by HTTP/2 that have nothing
// to do while another has room.
func (p *pool) tidy() {
	p.mu.Lock()
	var drop []*http.ClientConn
	for _, conn := range p.conns {
		idle := conn.InFlight() == 0 && conn.Available() > 1
		if conn.Err() != nil || idle && slices.ContainsFunc(p.conns, func(other *http.ClientConn) bool {
			return other != conn && other.Err() == nil && other.Available() > 0 && !slices.Contains(drop, other)
		}) {
			drop = append(drop, conn)
		}
	}
	p.conns = slices.DeleteFunc(p.conns, func(conn *http.ClientConn) bool { return slices.Contains(drop, conn) })
	p.mu.Unlock()
	for _, conn := range drop {
		_ = conn.Close()
	}
}

// CloseIdleConnections closes all: [http.Client.CloseIdleConnections] is called
// when the last request has ended.
func (p *pool) CloseIdleConnections() {
	p.mu.Lock()
	conns := p.conns
	p.conns, p.closed = nil, true
	p.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
	}
}
