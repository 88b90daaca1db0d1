package tool

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// The range that ports are taken from: below the one that Linux gives to
// outgoing connections (32768), so that no client can sit on one of ours.
const (
	firstPort = 20000
	lastPort  = 32700
)

// Ports hands out TCP ports that nothing uses on any address of this machine,
// and that no other Ports, here or in another process, hands out until Close.
type Ports struct {
	mu    sync.Mutex
	holds []net.Listener
}

// Take returns the next port.
func (p *Ports) Take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 500 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		// A name in the kernel's abstract socket namespace says that the port is
		// taken, and goes with the process, while the port itself stays free.
		hold, err := net.Listen("unix", fmt.Sprintf("@controlplane-tool-port-%d", port))
		if err != nil {
			continue
		}
		if l, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			_ = l.Close()
			p.holds = append(p.holds, hold)
			return port, nil
		}
		_ = hold.Close()
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, lastPort)
}

// TakeN returns n ports.
func (p *Ports) TakeN(n int) ([]int, error) {
	out := make([]int, n)
	for i := range out {
		var err error
		if out[i], err = p.Take(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Close gives the ports back.
func (p *Ports) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.holds {
		_ = h.Close()
	}
	p.holds = nil
}
