package sidecar

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"datapunk.dev/controlplane/sidecar/api"
)

// checkedApp is an application, and a control plane that is told of it.
type checkedApp struct {
	mu      sync.Mutex
	err     error        // of the application
	hangs   bool         // until the check gives up
	away    bool         // the control plane
	asks    api.AppCheck // what the control plane answers
	checks  int          // made
	reports []api.HealthReport
}

func (c *checkedApp) be(change func(*checkedApp)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

// since returns the reports since it was last asked.
func (c *checkedApp) since() (said []string) {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.reports {
		word := r.Health
		if word == "" {
			word = "nothing"
		}
		if r.First {
			word += " first"
		}
		said = append(said, word)
	}
	c.reports = nil
	return said
}

func (c *checkedApp) wantSince(t *testing.T, want ...string) {
	t.Helper()
	got := c.since()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("reports %q, want %q", got, want)
			return
		}
	}
}

var eachSecond = api.AppCheck{GRPC: true, Interval: time.Second, Timeout: 500 * time.Millisecond, UnhealthyThreshold: 2, HealthyThreshold: 3, Next: 5 * time.Second}

// checking runs a test in a time of its own.
func checking(t *testing.T, asks api.AppCheck, test func(t *testing.T, c *checkedApp, nudge chan<- struct{})) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &checkedApp{asks: asks}
		nudge := make(chan struct{}, 1)
		a := &appHealth{
			log: slog.New(slog.DiscardHandler), nudge: nudge,
			check: func(ctx context.Context) error {
				c.mu.Lock()
				c.checks++
				err, hangs := c.err, c.hangs
				c.mu.Unlock()
				if hangs {
					<-ctx.Done()
					return ctx.Err()
				}
				return err
			},
			report: func(_ context.Context, r *api.HealthReport) (*api.AppCheck, error) {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.away {
					return nil, errors.New("away")
				}
				c.reports = append(c.reports, *r)
				asks := c.asks
				return &asks, nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { a.run(ctx); close(done) }()
		test(t, c, nudge)
		cancel()
		<-done
	})
}

// A change is told at once, and what has not changed in the intervals that the
// control plane asks for.
func TestAChangeOfAnApplicationsHealthIsToldAtOnce(t *testing.T) {
	checking(t, eachSecond, func(t *testing.T, c *checkedApp, _ chan<- struct{}) {
		c.wantSince(t, "nothing first", "passing first")
		time.Sleep(10500 * time.Millisecond)
		c.wantSince(t, "passing", "passing")
		c.be(func(c *checkedApp) { c.err = errors.New("refused") })
		time.Sleep(time.Second)
		c.wantSince(t) // one failure of two
		time.Sleep(time.Second)
		c.wantSince(t, "critical")
		c.be(func(c *checkedApp) { c.err = nil })
		time.Sleep(2 * time.Second)
		c.wantSince(t)
		time.Sleep(time.Second)
		c.wantSince(t, "passing")
		c.be(func(c *checkedApp) { c.hangs = true })
		time.Sleep(2 * time.Second)
		if got := c.since(); len(got) != 1 || got[0] != "critical" {
			t.Errorf("it hangs: %q", got)
		}
	})
}

// Failures that are not in a row are none.
func TestFailuresOfAnApplicationCountInARow(t *testing.T) {
	checking(t, eachSecond, func(t *testing.T, c *checkedApp, _ chan<- struct{}) {
		c.wantSince(t, "nothing first", "passing first")
		time.Sleep(500 * time.Millisecond)
		for n := range 20 {
			c.be(func(c *checkedApp) {
				if c.err = nil; n%2 == 0 {
					c.err = errors.New("refused")
				}
			})
			time.Sleep(time.Second)
		}
		for _, said := range c.since() {
			if said != "passing" {
				t.Errorf("it was told %q", said)
			}
		}
	})
}

// An edit of the mesh file that ends the check, or asks for one, is heard with the
// next report; one that asks for nothing is asked seldom, and makes no check.
func TestTheControlPlaneSaysWhatIsChecked(t *testing.T) {
	checking(t, api.AppCheck{Next: time.Minute}, func(t *testing.T, c *checkedApp, nudge chan<- struct{}) {
		c.wantSince(t, "nothing first")
		time.Sleep(3*time.Minute + time.Second)
		c.wantSince(t, "nothing first", "nothing first", "nothing first")
		if c.checks != 0 {
			t.Errorf("%d checks that nobody asked for", c.checks)
		}
		c.be(func(c *checkedApp) { c.asks = eachSecond })
		nudge <- struct{}{} // as when an Envoy is ready
		c.wantSince(t, "nothing first", "passing first")
		c.be(func(c *checkedApp) { c.asks = api.AppCheck{Next: time.Minute} })
		time.Sleep(6 * time.Second)
		c.wantSince(t, "passing")
		checks := c.checks
		time.Sleep(50 * time.Second)
		if c.wantSince(t); c.checks != checks {
			t.Errorf("%d checks too many", c.checks-checks)
		}
	})
}

// A control plane that does not answer is asked again within seconds, checks go on
// meanwhile, and the next one is told that it may not know.
func TestReportsThatNobodyTook(t *testing.T) {
	checking(t, eachSecond, func(t *testing.T, c *checkedApp, _ chan<- struct{}) {
		c.wantSince(t, "nothing first", "passing first")
		c.be(func(c *checkedApp) { c.away, c.err = true, errors.New("refused") })
		time.Sleep(time.Minute)
		c.wantSince(t)
		if c.checks < 55 {
			t.Errorf("%d checks in a minute", c.checks)
		}
		c.be(func(c *checkedApp) { c.away = false })
		time.Sleep(5 * time.Second)
		if got := c.since(); len(got) == 0 || got[0] != "critical first" {
			t.Errorf("reports %q", got)
		}
	})
}

// The check itself, against a server that is well, says that it is not, hangs, and is
// gone.
func TestACheckByGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	says := health.NewServer()
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, says)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	check := checkGRPC(l.Addr().String())
	within := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return check(ctx)
	}
	if err := within(10 * time.Second); err != nil {
		t.Errorf("well: %v", err)
	}
	says.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	if err := within(10 * time.Second); err == nil {
		t.Error("it says that it does not serve, and passes")
	}
	server.Stop()
	<-served
	if err := within(10 * time.Second); err == nil {
		t.Error("it is gone, and passes")
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() //nolint:errcheck // of a test
	check = checkGRPC(silent.Addr().String())
	if err := within(200 * time.Millisecond); err == nil {
		t.Error("it hangs, and passes")
	}
}
