package sidecar

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// Ports are where an Envoy listens.
type Ports struct {
	Mesh     uint16 `json:"mesh"`     // for its peers
	Outbound uint16 `json:"outbound"` // for the application's calls, on loopback
	Metrics  uint16 `json:"metrics"`  // for Prometheus
}

// Where ports are looked for that nobody names. They are below those from
// which Linux takes ports for outgoing connections.
var (
	meshPorts     = portRange{20000, 20999}
	outboundPorts = portRange{15001, 15099}
	metricsPorts  = portRange{9102, 9199}
)

type portRange struct{ first, last uint16 }

// claims are the ports that this sidecar has claimed. An Envoy that is down for
// a moment does not listen, so that a port is free does not mean that it is
// nobody's: each sidecar holds an abstract Unix socket named for each of its
// ports, which like those belongs to the network namespace, and which ends with
// the process however that ends.
type claims struct{ held []net.Listener }

func (c *claims) close() {
	for _, l := range c.held {
		_ = l.Close()
	}
}

// errClaimed is a port of another sidecar.
var errClaimed = errors.New("another sidecar has it")

// claim takes a port of an address, if it is free and no other sidecar's.
func (c *claims) claim(address string, port uint16) error {
	mark, err := net.Listen("unix", "@controlplane-sidecar/"+strconv.Itoa(int(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return errClaimed
	}
	if err != nil {
		return err
	}
	probe, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(int(port))))
	if err != nil {
		_ = mark.Close()
		return err
	}
	_ = probe.Close()
	c.held = append(c.held, mark)
	return nil
}

// choose claims the port that was asked for, else the one that was kept from
// the last time, else the first free one of a range. It reports whether that is
// another one than was kept.
func (c *claims) choose(what, address string, asked, kept uint16, among portRange) (port uint16, moved error, err error) {
	if asked != 0 {
		if err := c.claim(address, asked); err != nil {
			return 0, nil, fmt.Errorf("the %s port %d of %s cannot be taken: %w", what, asked, address, err)
		}
		return asked, nil, nil
	}
	if kept != 0 {
		if moved = c.claim(address, kept); moved == nil {
			return kept, nil, nil
		}
	}
	last := errors.New("none was tried")
	for port := among.first; port <= among.last; port++ {
		if last = c.claim(address, port); last == nil {
			return port, moved, nil
		}
	}
	return 0, nil, fmt.Errorf("no %s port from %d to %d of %s is free (%w): name one", what, among.first, among.last, address, last)
}
