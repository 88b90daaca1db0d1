package app

import (
	"fmt"
	"io"
	"net"
	"sync"
)

// TCP is a TCP server on loopback that counts what it saw.
type TCP struct {
	listener net.Listener
	banner   string

	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	accepted int
	received int
	serving  sync.WaitGroup
}

// StartTCP listens on 127.0.0.1:port. The server speaks first if banner is not
// empty, and sends back all that it reads.
func StartTCP(port int, banner string) (*TCP, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, fmt.Errorf("tcp app: %w", err)
	}
	t := &TCP{listener: l, banner: banner, conns: make(map[net.Conn]struct{})}
	t.serving.Go(t.accept)
	return t, nil
}

// Port returns where it listens.
func (t *TCP) Port() int { return t.listener.Addr().(*net.TCPAddr).Port }

// Accepted returns how many connections were accepted.
func (t *TCP) Accepted() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.accepted
}

// Received returns how many bytes arrived.
func (t *TCP) Received() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.received
}

// Die closes the port and every connection.
func (t *TCP) Die() {
	_ = t.listener.Close()
	t.mu.Lock()
	for c := range t.conns {
		_ = c.Close()
	}
	t.mu.Unlock()
	t.serving.Wait()
}

func (t *TCP) accept() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		t.conns[c] = struct{}{}
		t.accepted++
		t.mu.Unlock()
		t.serving.Go(func() { t.serve(c) })
	}
}

func (t *TCP) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		t.mu.Lock()
		delete(t.conns, c)
		t.mu.Unlock()
	}()
	if _, err := io.WriteString(c, t.banner); err != nil {
		return
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		t.mu.Lock()
		t.received += n
		t.mu.Unlock()
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
