package consul

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// ErrMoved is a request that was given up, because another of the addresses is asked
// from now on: whoever made it makes it again.
var ErrMoved = errors.New("another of Consul's addresses is asked now")

// moveAfter is how many requests in a row that do not block may fail at an address
// that takes connections, before another is asked.
const moveAfter = 2

// servers are the addresses of one datacenter, of which one is asked at a time: what two
// servers say at one moment may differ, and neither would be a step of the other.
type servers struct {
	all []server

	mu       sync.Mutex
	now      int
	ctx      context.Context // of the requests to it
	leave    context.CancelFunc
	failures int       // in a row, of requests that do not block
	heard    time.Time // when it last answered anything
}

// server is one address, with connections of its own.
type server struct {
	address   string
	transport http.RoundTripper
}

func newServers(all []server) *servers {
	s := &servers{all: all}
	s.ctx, s.leave = context.WithCancel(context.Background())
	return s
}

// present returns the server to ask, and a context that ends when another is to be asked.
func (s *servers) present() (server, context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[s.now], s.ctx
}

// moveOn has the next server asked, unless that has happened: from is the one that was
// asked. What is under way is given up, also where there is no other one.
func (s *servers) moveOn(from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[s.now].address == from {
		s.moveOnLocked()
	}
}

func (s *servers) moveOnLocked() {
	s.now = (s.now + 1) % len(s.all)
	s.failures, s.heard = 0, time.Time{}
	s.leave()
	s.ctx, s.leave = context.WithCancel(context.Background())
}

// note takes in what became of a request. Of several servers the next is asked when
// this one takes no connection, or answers nothing of what does not block: a blocking
// query may be cut off by whatever stands in between.
func (s *servers) note(at string, blocking bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[s.now].address != at {
		return
	}
	var status *StatusError
	var failure *transportFailure
	answered := err == nil || errors.As(err, &status)
	if answered {
		s.heard = time.Now()
	}
	switch {
	case len(s.all) == 1, !answered && !errors.As(err, &failure):
	case answered && (status == nil || !status.noLeader()):
		if !blocking {
			s.failures = 0
		}
	case notReached(err):
		s.moveOnLocked()
	case !blocking:
		if s.failures++; s.failures >= moveAfter {
			s.moveOnLocked()
		}
	}
}

// notReached reports whether no connection came to be.
func notReached(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial"
}

// close closes the connections to all.
func (s *servers) close() {
	for _, one := range s.all {
		(&http.Client{Transport: one.transport}).CloseIdleConnections()
	}
}

// MoveOn has the next of the addresses asked in the place of from, and gives up what is
// under way there. Where there is one address alone it is asked anew.
func (c *Client) MoveOn(from string) { c.servers.moveOn(from) }

// Alternatives is how many other addresses there are to ask.
func (c *Client) Alternatives() int { return len(c.servers.all) - 1 }

// Heard is when the address that is asked now last answered anything.
func (c *Client) Heard() time.Time {
	c.servers.mu.Lock()
	defer c.servers.mu.Unlock()
	return c.servers.heard
}

// at returns the base of the requests to a server.
func (c *Client) at(address string) url.URL { return url.URL{Scheme: c.scheme, Host: address} }
