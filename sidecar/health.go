package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"datapunk.dev/controlplane/sidecar/api"
)

// The words of [api.HealthReport].
const (
	passing  = "passing"
	critical = "critical"
)

const (
	// reportTime is how long a report may take: checks wait for it.
	reportTime = 3 * time.Second
	// reportAgain bounds the wait after a report that no control plane took.
	reportAgain = 5 * time.Second
	// soonestCheck and soonestReport bound what a control plane may ask for.
	soonestCheck, soonestReport = time.Second, time.Second
)

// appHealth checks an application as the control plane says, and tells it what that
// comes to: at once when it changes, and else in the intervals that it asks for.
// Envoy's HDS makes the checks by HTTP and TCP, and cannot make one by gRPC.
type appHealth struct {
	log    *slog.Logger
	nudge  <-chan struct{} // report now
	check  func(ctx context.Context) error
	report func(ctx context.Context, r *api.HealthReport) (*api.AppCheck, error)

	health   string // empty: nothing was checked
	row      int    // how many checks in a row came to something else
	asked    api.AppCheck
	said     string // with the last report that was answered
	failures int    // of reports in a row
}

// run checks and reports until ctx ends.
func (a *appHealth) run(ctx context.Context) {
	next := time.Now() // report
	var due time.Time  // check; zero: none
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-a.nudge:
			next = time.Now()
		}
		if now := time.Now(); !due.IsZero() && !now.Before(due) {
			a.checkOnce(ctx)
			due = now.Add(a.asked.Interval)
			if a.health != a.said && a.failures == 0 {
				next = now
			}
		}
		if !time.Now().Before(next) && ctx.Err() == nil {
			next = time.Now().Add(a.reportOnce(ctx))
			switch {
			case !a.asked.GRPC:
				due = time.Time{}
			case due.IsZero():
				due = time.Now()
			}
		}
		wait := time.Until(next)
		if !due.IsZero() {
			wait = min(wait, time.Until(due))
		}
		timer.Reset(max(wait, 0))
	}
}

// checkOnce makes one check. The first counts at once.
func (a *appHealth) checkOnce(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, a.asked.Timeout)
	defer cancel()
	err := a.check(within)
	if ctx.Err() != nil {
		return // it was cut short, and says nothing
	}
	got, threshold := passing, a.asked.HealthyThreshold
	if err != nil {
		got, threshold = critical, a.asked.UnhealthyThreshold
	}
	if got == a.health {
		a.row = 0
		return
	}
	if a.row++; a.health != "" && a.row < int(threshold) {
		return
	}
	a.health, a.row = got, 0
	if err != nil {
		a.log.Warn("the application is critical", "err", err)
		return
	}
	a.log.Info("the application is passing")
}

// reportOnce tells the control plane, hears what is to be checked, and returns when
// to report again.
func (a *appHealth) reportOnce(ctx context.Context) time.Duration {
	r := &api.HealthReport{Health: a.health, First: a.failures > 0 || a.said == ""}
	asked, err := a.report(ctx, r)
	if err != nil {
		if ctx.Err() == nil && a.failures == 0 && a.asked.GRPC {
			a.log.Warn("no control plane was told of the health of the application", "err", err)
		}
		a.failures++
		most := reportAgain
		if !a.asked.GRPC {
			most = retryStream // nobody has asked for anything
		}
		return retryAfter(a.failures-1, most)
	}
	a.failures, a.said = 0, r.Health
	if !asked.GRPC {
		a.health, a.said, a.row = "", "", 0
	}
	asked.Interval, asked.Timeout = max(asked.Interval, soonestCheck), max(asked.Timeout, time.Millisecond)
	a.asked = *asked
	return max(asked.Next, soonestReport)
}

// keepHealth has the application checked until ctx ends.
func (p *Proxy) keepHealth(ctx context.Context) {
	var conn *grpc.ClientConn
	hangUp := func() {
		if conn != nil {
			_ = conn.Close()
			conn = nil
		}
	}
	defer hangUp()
	a := &appHealth{log: p.Log, nudge: p.nudge, check: checkGRPC(net.JoinHostPort("127.0.0.1", strconv.Itoa(int(p.AppPort))))}
	a.report = func(ctx context.Context, r *api.HealthReport) (asked *api.AppCheck, err error) {
		// Reports keep to one connection, and so to one control plane: from there they
		// come in order. One with nothing to say needs none.
		held := func(ctx context.Context, call func(context.Context, grpc.ClientConnInterface) error) error {
			if conn == nil {
				if conn, err = p.planes.dialAny(ctx); err != nil {
					return err
				}
			}
			return call(ctx, conn)
		}
		err = p.asNode(ctx, reportTime, held, func(ctx context.Context, conn grpc.ClientConnInterface) error {
			asked, err = api.Health(ctx, conn, r)
			return err
		})
		if err != nil || !asked.GRPC {
			hangUp()
		}
		return asked, err
	}
	a.run(ctx)
}

// checkGRPC asks the application as a whole, on a connection of its own each time:
// one that accepts no more is not well.
func checkGRPC(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
		if err != nil {
			return err
		}
		defer conn.Close() //nolint:errcheck // nothing is in flight
		answer, err := healthpb.NewHealthClient(conn).Check(ctx, new(healthpb.HealthCheckRequest))
		switch {
		case err != nil:
			return fmt.Errorf("grpc.health.v1 at %s: %w", address, err)
		case answer.GetStatus() != healthpb.HealthCheckResponse_SERVING:
			return fmt.Errorf("grpc.health.v1 at %s: %s", address, answer.GetStatus())
		}
		return nil
	}
}
