package register

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Check is how the health of an instance is found out that no proxy speaks for.
type Check struct {
	HTTP string // a URL: 2xx is passing, 429 a warning
	TCP  string // HOST:PORT that takes a connection
	GRPC string // HOST:PORT, and a slash and a service if one is asked for: SERVING is passing
	// Interval is between two checks, Timeout how long one may take.
	Interval, Timeout time.Duration
}

// probe is a check that runs.
type probe struct {
	check Check
	stop  context.CancelFunc
}

// check makes one check.
func (c *Check) do(ctx context.Context, client *http.Client) Health {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	switch {
	case c.GRPC != "":
		return c.doGRPC(ctx)
	case c.TCP != "":
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.TCP)
		if err != nil {
			return Critical
		}
		_ = conn.Close()
		return Passing
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.HTTP, http.NoBody)
	if err != nil {
		return Critical
	}
	resp, err := client.Do(req)
	if err != nil {
		return Critical
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return Passing
	case resp.StatusCode == http.StatusTooManyRequests:
		return Warning
	}
	return Critical
}

// doGRPC asks a service by gRPC's health protocol, on a connection of its own.
func (c *Check) doGRPC(ctx context.Context) Health {
	address, service, _ := strings.Cut(c.GRPC, "/")
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return Critical
	}
	defer conn.Close() //nolint:errcheck // nothing is in flight
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return Critical
	}
	return Passing
}

// checkClient keeps no connection: a check is to find out whether one can be had.
func checkClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// setProbes replaces the checks that run.
func (r *Registrar) setProbes(shared []Instance) {
	r.probesMu.Lock()
	defer r.probesMu.Unlock()
	wanted := make(map[string]Check)
	for i := range shared {
		if c := shared[i].Check; c != nil {
			wanted[nodeName(shared[i].ID)] = *c
		}
	}
	for node, p := range r.probes {
		if wanted[node] != p.check {
			p.stop()
			delete(r.probes, node)
		}
	}
	for node, c := range wanted {
		if r.probes[node] != nil {
			continue
		}
		ctx, stop := context.WithCancel(r.probing)
		r.probes[node] = &probe{c, stop}
		r.probers.Go(func() { r.probe(ctx, node, c) })
	}
}

// probe checks an instance for as long as this replica looks after those of the file.
func (r *Registrar) probe(ctx context.Context, node string, c Check) {
	client := checkClient()
	for {
		pause := c.Interval
		r.mu.Lock()
		leads := r.machine.leader
		r.mu.Unlock()
		if leads {
			if h := c.do(ctx, client); ctx.Err() == nil {
				r.tell(func(m *machine, now time.Time) { m.checked(node, h, now) })
			}
		} else {
			pause = min(pause, time.Second)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// checked is told what a check of an instance of the file came to.
func (m *machine) checked(node string, h Health, now time.Time) {
	e, ok := m.fixed.shared[node]
	if !ok || !m.leader || e.health == h {
		return
	}
	e.health = h
	m.fixed.shared[node] = e
	m.keep(e, now)
}
