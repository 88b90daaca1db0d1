package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"datapunk.dev/controlplane/listen"
)

const (
	// ownDescriptors are kept for the control plane itself: connections to
	// Consul, of which an agent takes 200, files, and the admin address.
	ownDescriptors = 200 + adminConnections + 56
	// adminConnections is how many the admin address takes.
	adminConnections = 128
	// authenticateTime is how long a connection to the xDS port may be without an
	// authenticated call: from the first byte of its handshake, and after the
	// last call. A fleet that comes back at once needs as long.
	authenticateTime = 20 * time.Second
	// maxIdle is how many may be so, and maxIdlePerHost how many of one host: as
	// many handshakes go on at a time, so that each ends in time.
	maxIdle, maxIdlePerHost = 1024, 256
	// handshakes is how many a starved machine can do in a second, and
	// handshakeTime the least that each is given: so a connection is not closed
	// for the sake of others before it could authenticate.
	handshakes    = 50
	handshakeTime = 2 * time.Second
	// waitTime is how long one waits for others to authenticate. Its client has
	// given up by then.
	waitTime = 20 * time.Second
	// adminIdleTime is how long a connection to the admin address waits for its
	// next request.
	adminIdleTime = time.Minute
)

// listenBoth opens the xDS port and the admin address.
func listenBoth(log, clientLog *slog.Logger, s *settings) (xds, admin *listen.Listener, err error) {
	descriptors, err := listen.Descriptors()
	if err != nil {
		return nil, nil, fmt.Errorf("how many files may be open: %w", err)
	}
	xdsSocket, err := listenXDS(s.XDSAddress)
	if err != nil {
		return nil, nil, fmt.Errorf("--xds-address: %w", err)
	}
	adminSocket, err := net.Listen("tcp", s.AdminAddress)
	if err != nil {
		_ = xdsSocket.Close()
		return nil, nil, fmt.Errorf("--admin-address: %w", err)
	}
	limits := xdsLimits(s.MaxConnections, descriptors)
	if limits.Connections < s.MaxConnections {
		log.Info("the limit of open files (ulimit -n, LimitNOFILE) allows fewer connections to the xDS port than --max-connections",
			"connections", limits.Connections, "max_connections", s.MaxConnections, "open_files", descriptors)
	}
	return listen.New(xdsSocket, limits, clientLog), listen.New(adminSocket, listen.Limits{
		Connections: adminConnections, Idle: adminConnections / 2, IdlePerHost: adminConnections / 2, IdleTime: adminIdleTime, BusyIdleTime: time.Second, WaitTime: 10 * time.Second,
	}, clientLog), nil
}

// xdsLimits are those of the xDS port, in a process that may have so many
// descriptors.
func xdsLimits(connections, descriptors int) listen.Limits {
	own := min(ownDescriptors, descriptors/2)
	n := max(1, min(connections, descriptors-own))
	perHost := max(1, min(maxIdlePerHost, n/4))
	return listen.Limits{
		Connections:  n,
		Idle:         max(1, min(maxIdle, n/2)),
		IdlePerHost:  perHost,
		IdleTime:     authenticateTime,
		BusyIdleTime: min(max(handshakeTime, time.Duration(perHost)*time.Second/handshakes), authenticateTime),
		WaitTime:     waitTime,
	}
}

// workOn tells a connection to the admin address that a request has begun, and
// that it was answered.
func workOn(c net.Conn, state http.ConnState) {
	conn, ok := c.(*listen.Conn)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		conn.Busy()
	case http.StateIdle:
		conn.Idle()
	}
}

// listenXDS listens on HOST:PORT, or on unix:PATH for this user alone.
func listenXDS(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return net.Listen("tcp", addr)
	}
	// A socket that nobody listens on is left from a process that was killed.
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen unix %s: another process listens on it", path)
	} else if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}
