package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"datapunk.dev/controlplane/admin"
	"datapunk.dev/controlplane/listen"
)

const (
	// ownDescriptors are kept for the control plane itself: connections to
	// Consul, of which an agent takes 200, files, and the admin address.
	ownDescriptors = 200 + adminConnections + 56
	// adminConnections is how many the admin address takes, and adminSpare how many
	// descriptors are held for it when there is no other.
	adminConnections, adminSpare = 128, 4
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
func listenBoth(log, clientLog *slog.Logger, s *settings) (xdsPort, adminPort *listen.Listener, err error) {
	descriptors, err := listen.Descriptors()
	if err != nil {
		return nil, nil, fmt.Errorf("how many files may be open: %w", err)
	}
	xdsSocket, err := listenOn(s.XDSAddress)
	if err != nil {
		return nil, nil, fmt.Errorf("--xds-address: %w", err)
	}
	adminSocket, err := listenOn(s.AdminAddress)
	if err != nil {
		_ = xdsSocket.Close()
		return nil, nil, fmt.Errorf("--admin-address: %w", err)
	}
	// What localhost stands for is known by now.
	if !s.AdminTLS && !admin.Local(adminSocket.Addr()) {
		_, _ = xdsSocket.Close(), adminSocket.Close()
		return nil, nil, openAdmin(s.AdminAddress)
	}
	limits := xdsLimits(s.MaxConnections, descriptors)
	if limits.Connections < s.MaxConnections {
		log.Info("the limit of open files (ulimit -n, LimitNOFILE) allows fewer connections to the xDS port than --max-connections",
			"connections", limits.Connections, "max_connections", s.MaxConnections, "open_files", descriptors)
	}
	return listen.New(xdsSocket, limits, clientLog), listen.New(adminSocket, adminLimits(descriptors), clientLog), nil
}

// adminLimits are those of the admin address, in a process that may have so many
// descriptors.
func adminLimits(descriptors int) listen.Limits {
	n := max(2, min(adminConnections, descriptors/4))
	return listen.Limits{
		Connections: n, Idle: n / 2, IdlePerHost: n / 2, IdleTime: adminIdleTime, BusyIdleTime: time.Second, WaitTime: 10 * time.Second, Spare: adminSpare,
	}
}

// failedFor is for how long a port that could take no connection is said to have that
// problem: clients come again within it.
const failedFor = 30 * time.Second

// portProblems says which ports could take no connection of late, and why.
func portProblems(ports map[string]*listen.Listener, now time.Time) []string {
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		if s := ports[name].Stats(); s.Failure != nil && now.Sub(s.Failed) < failedFor {
			problems = append(problems, fmt.Sprintf("the %s port could take no connection at %s: %v", name, s.Failed.UTC().Format(time.TimeOnly), s.Failure))
		}
	}
	return problems
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
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
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

// listenOn listens on HOST:PORT, or on unix:PATH for this user alone.
func listenOn(addr string) (net.Listener, error) {
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
