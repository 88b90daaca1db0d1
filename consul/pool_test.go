package consul

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// holder is a server that holds every request until it is told to let go.
type holder struct {
	*httptest.Server
	held   atomic.Int64
	conns  atomic.Int64 // open
	opened atomic.Int64
	letGo  chan struct{}
}

func newHolder(t *testing.T, streams int, opts ...func(*httptest.Server)) *holder {
	h := &holder{letGo: make(chan struct{})}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		h.held.Add(1)
		defer h.held.Add(-1)
		select {
		case <-h.letGo:
		case <-r.Context().Done():
		}
	}))
	h.EnableHTTP2 = streams > 0
	h.Config.ErrorLog = log.New(io.Discard, "", 0) // refusals are what some tests are about
	h.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	h.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			h.conns.Add(1)
			h.opened.Add(1)
		case http.StateClosed:
			h.conns.Add(-1)
		}
	}
	for _, opt := range opts {
		opt(h.Server)
	}
	h.StartTLS()
	t.Cleanup(h.Close)
	return h
}

func (h *holder) pool(t *testing.T) *pool {
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	p := &pool{
		address: h.Listener.Addr().String(),
		transport: &http.Transport{
			ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots}, TLSHandshakeTimeout: 5 * time.Second,
		},
	}
	t.Cleanup(p.CloseIdleConnections)
	return p
}

// get makes one request, and returns when it is answered.
func (h *holder) get(ctx context.Context, p *pool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := p.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// ask makes requests that are held, and returns how to end them.
func (h *holder) ask(t *testing.T, p *pool, n int) (end func()) {
	t.Helper()
	before := h.held.Load()
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range n {
		asking.Go(func() {
			if err := h.get(ctx, p); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	eventually(t, fmt.Sprintf("%d more requests are held", n), func() bool { return h.held.Load() == before+int64(n) })
	return func() { cancel(); asking.Wait() }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

func TestRequestsShareAsFewConnectionsAsTheServerAllows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ streams, requests, conns int }{
		{250, 1000, 4}, // Consul's limit
		{250, 1001, 5},
		{40, 100, 3}, // fewer than a client may send unasked
		{0, 12, 12},  // HTTP/1.1
	} {
		t.Run(fmt.Sprintf("%d by %d", c.requests, c.streams), func(t *testing.T) {
			t.Parallel()
			h := newHolder(t, c.streams)
			end := h.ask(t, h.pool(t), c.requests)
			if n := h.conns.Load(); n != int64(c.conns) {
				t.Errorf("%d connections, want %d", n, c.conns)
			}
			end()
		})
	}
}

func TestConnectionThatHasFailedIsReplaced(t *testing.T) {
	t.Parallel()
	h := newHolder(t, 250)
	p := h.pool(t)
	failed := make(chan error, 1)
	go func() { failed <- h.get(t.Context(), p) }()
	eventually(t, "the request is held", func() bool { return h.held.Load() == 1 })
	h.CloseClientConnections()
	if err := <-failed; err == nil {
		t.Error("the request on the broken connection did not fail")
	}
	eventually(t, "the server has noticed", func() bool { return h.held.Load() == 0 })
	end := h.ask(t, p, 1)
	if n := h.opened.Load(); n != 2 {
		t.Errorf("%d connections were opened, want 2", n)
	}
	end()
}

func TestConnectionWithNothingToDoIsClosed(t *testing.T) {
	t.Parallel()
	h := newHolder(t, 250)
	p := h.pool(t)
	stay := h.ask(t, p, 200)
	leave := h.ask(t, p, 100)
	if n := h.conns.Load(); n != 2 {
		t.Fatalf("%d connections, want 2", n)
	}
	leave() // those who came last have the second to themselves
	eventually(t, "one connection is left", func() bool { return h.conns.Load() == 1 })
	stay()
}

func TestFailureToConnectFailsAllThatWait(t *testing.T) {
	t.Parallel()
	h := newHolder(t, 250)
	p := h.pool(t)
	p.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	for range 3 {
		if h.get(t.Context(), p) == nil {
			t.Error("a stranger's certificate was taken")
		}
	}
}

// In TLS 1.3 a client has a connection before the server has refused it.
func TestServerThatClosesEachConnectionIsNotDialledWithoutEnd(t *testing.T) {
	t.Parallel()
	for _, streams := range []int{250, 0} {
		h := newHolder(t, streams, func(s *httptest.Server) { s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert} })
		p := h.pool(t)
		const n = 20
		for range n {
			if h.get(t.Context(), p) == nil {
				t.Fatal("a request without a certificate was answered")
			}
		}
		if opened := h.opened.Load(); opened > 3*n { // one that looks alive for a moment is found dead by the request
			t.Errorf("%d connections for %d requests", opened, n)
		}
		p.tidy()
		p.mu.Lock()
		if n := len(p.conns); n > 0 {
			t.Errorf("%d dead connections are kept", n)
		}
		p.mu.Unlock()
	}
}
