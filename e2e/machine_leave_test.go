package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// leaveTime is how long a machine under load may take to leave.
const leaveTime = 40 * time.Second

// hangup has a sidecar replace its Envoy.
const hangup = syscall.SIGHUP

// streams are gRPC streams one after the other, several at a time.
type streams struct {
	stop    atomic.Bool
	ended   sync.WaitGroup
	count   atomic.Int64
	mu      sync.Mutex
	failed  []string
	servers map[string]int
}

// startStreams opens streams that each last for so long.
func startStreams(t *testing.T, m *harness.Mesh, service string, atATime int, each time.Duration) *streams {
	t.Helper()
	conn := dialGRPC(t, m.Sidecar(caller).Outbound(), service)
	s := &streams{servers: make(map[string]int)}
	for range atATime {
		s.ended.Go(func() {
			for !s.stop.Load() {
				s.one(conn, each)
			}
		})
	}
	t.Cleanup(func() { s.end() })
	return s
}

func (s *streams) one(conn *grpc.ClientConn, each time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), each+20*time.Second)
	defer cancel()
	served, err := app.CallQuiet(ctx, conn, each)
	s.count.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers[served]++
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed = append(s.failed, time.Now().Format("15:04:05.000 ")+err.Error())
	}
}

// end waits for those that are open, and returns what failed.
func (s *streams) end() []string {
	s.stop.Store(true)
	s.ended.Wait()
	return s.failed
}

// rolling restarts the machines, so many at a time, and waits after each group
// until the callers have it back.
func rolling(t *testing.T, m *harness.Mesh, machines []*harness.Machine, atATime int) {
	t.Helper()
	for group := range slices.Chunk(machines, atATime) {
		leaveTogether(t, group)
		returnTogether(t, m, group)
	}
}

// leaveTogether ends machines by SIGTERM, and waits for their end.
func leaveTogether(t *testing.T, group []*harness.Machine) {
	t.Helper()
	var leaving sync.WaitGroup
	errs := make([]error, len(group))
	for n, c := range group {
		leaving.Go(func() {
			began := time.Now()
			code, err := c.Leave(leaveTime)
			if err == nil && code != 0 {
				err = fmt.Errorf("exit code %d", code)
			}
			errs[n] = err
			t.Logf("%s left in %v", c.ID, time.Since(began).Round(time.Millisecond))
		})
	}
	leaving.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// returnTogether starts machines again, and waits until the callers have them.
func returnTogether(t *testing.T, m *harness.Mesh, group []*harness.Machine) {
	t.Helper()
	for _, c := range group {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range group {
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, c.ID+" is healthy for its callers again", 15*time.Second, func() error {
			return healthyAt(m, c)
		})
	}
}

// healthyAt returns nil if the caller's Envoy sends to a machine.
func healthyAt(m *harness.Mesh, c *harness.Machine) error {
	clusters, err := m.Sidecar(caller).Envoy.Clusters()
	if err != nil {
		return err
	}
	for _, h := range clusters[c.Service].Hosts {
		if h.Address.Socket.Port == c.Ports["MESH_PORT"] {
			if h.Health.EDS == "HEALTHY" && !h.Health.FailedActiveCheck {
				return nil
			}
			return fmt.Errorf("%s is %+v", c.ID, h.Health)
		}
	}
	return fmt.Errorf("%s is not there", c.ID)
}

// TestARollingRestartFailsNoRequest: under 500 requests a second over HTTP/1 and
// HTTP/2, with gRPC calls and streams that last for seconds, each machine of a
// service leaves and comes back, one after the other and then two at a time.
// Registered by hand, Consul calls each of them passing all along; registered by the
// control plane, each leaves Consul and comes back to it.
func TestARollingRestartFailsNoRequest(t *testing.T) {
	for _, c := range []struct {
		name      string
		registers bool
	}{{"registered by hand", false}, {"registered by the control plane", true}} {
		t.Run(c.name, func(t *testing.T) { rollingRestart(t, c.registers) })
	}
}

func rollingRestart(t *testing.T, registers bool) {
	m := harness.Start(t, harness.Options{Consul: true, Registers: registers, Overlay: `mesh:
  services:
    grpc_service: {protocol: grpc}
`})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	var machines []*harness.Machine
	for _, service := range []string{"lake_service", "grpc_service"} {
		for n := range 3 {
			machines = append(machines, m.Machine(harness.MachineSpec{Service: service, ID: fmt.Sprintf("%s-%d", service[:4], n+1)}))
		}
	}
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2", "lake-3")
	before := m.Stats(caller)

	http1 := m.Load(caller, "lake_service", traffic.Load{Concurrency: 16, Rate: 250})
	http2 := m.Load(caller, "lake_service", traffic.Load{Concurrency: 16, Rate: 200, HTTP2: true})
	long := startStreams(t, m, "grpc_service", 20, 3*time.Second)
	short := startStreams(t, m, "grpc_service", 10, 200*time.Millisecond)

	rolling(t, m, machines[:3], 1)
	rolling(t, m, machines[3:], 1)
	rolling(t, m, machines[:3], 2)
	rolling(t, m, machines[3:], 2)

	for what, load := range map[string]*traffic.Running{"HTTP/1": http1, "HTTP/2": http2} {
		r := load.Stop()
		t.Logf("%s: %d requests, %d failed, p99 %v, served by %v", what, r.Requests, r.Failed(), r.Quantile(0.99).Round(time.Millisecond), r.Instances)
		if r.Failed() > 0 || r.Requests < 1000 {
			t.Errorf("%s: %s", what, r)
		}
	}
	for what, s := range map[string]*streams{"streams of 3 s": long, "streams of 200 ms": short} {
		failed := s.end()
		t.Logf("%s: %d, %d failed, served by %v", what, s.count.Load(), len(failed), s.servers)
		if len(failed) > 0 || s.count.Load() < 20 {
			t.Errorf("%s: %d of %d failed: %q", what, len(failed), s.count.Load(), failed[:min(len(failed), 5)])
		}
	}
	after := m.Stats(caller)
	for _, service := range []string{"lake_service", "grpc_service"} {
		for _, stat := range []string{"upstream_rq_retry", "upstream_cx_connect_fail", "upstream_cx_destroy_with_active_rq", "upstream_cx_close_notify"} {
			name := "cluster." + service + "." + stat
			t.Logf("%s: %d", name, after[name]-before[name])
		}
		// None was saved by a retry either.
		if name := "cluster." + service + ".upstream_rq_retry"; after[name] != before[name] {
			t.Errorf("%s went from %d to %d", name, before[name], after[name])
		}
	}
	// Connections with open streams were ended by GOAWAY; callers close those
	// without any themselves.
	if name := "cluster.grpc_service.upstream_cx_close_notify"; after[name] == before[name] {
		t.Errorf("%s is still %d", name, after[name])
	}
}

// TestAnEnvoyIsReplacedWithoutAFailedRequest: SIGHUP has it leave and come back,
// for an upgrade of its binary or of its bootstrap, whoever registers it.
func TestAnEnvoyIsReplacedWithoutAFailedRequest(t *testing.T) {
	for what, o := range map[string]harness.Options{
		"registered by hand":              {},
		"registered by the control plane": {Consul: true, Registers: true},
	} {
		t.Run(what, func(t *testing.T) { replaceEnvoys(t, o) })
	}
}

func replaceEnvoys(t *testing.T, o harness.Options) {
	m := harness.Start(t, o)
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	machines := []*harness.Machine{
		m.Machine(harness.MachineSpec{Service: "lake_service", ID: "lake-1"}),
		m.Machine(harness.MachineSpec{Service: "lake_service", ID: "lake-2"}),
	}
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2")
	load := m.Load(caller, "lake_service", traffic.Load{Concurrency: 8, Rate: 200})
	for _, c := range machines {
		before := envoyOf(t, c)
		if err := c.Sidecar.Signal(hangup); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, c.ID+" has another Envoy", leaveTime, func() error {
			if pids := children(t, c.Sidecar.Pid()); len(pids) != 1 || pids[0] == before {
				return fmt.Errorf("children %v", pids)
			}
			if err := c.Envoy.Ready(); err != nil {
				return err
			}
			return healthyAt(m, c)
		})
	}
	if r := load.Stop(); r.Failed() > 0 || r.Requests < 100 {
		t.Errorf("%s", r)
	}
}

// TestStreamsAreCutAfterTheDrainTimeAndNoSooner: those that end by themselves do.
func TestStreamsAreCutAfterTheDrainTimeAndNoSooner(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: "mesh: {services: {grpc_service: {protocol: grpc}}}"})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	c := m.Machine(harness.MachineSpec{Service: "grpc_service", ID: "grpc-1", Flags: []string{"--drain-time", "4s"}})
	m.Ready()
	conn := dialGRPC(t, m.Sidecar(caller).Outbound(), "grpc_service")
	harness.Eventually(t, "it answers", 10*time.Second, func() error {
		_, err := app.CallUnary(t.Context(), conn, "hello")
		return err
	})
	short, long := make(chan error, 1), make(chan error, 1)
	open := func(silent time.Duration, ended chan error) {
		_, err := app.CallQuiet(t.Context(), conn, silent)
		ended <- err
	}
	go open(2*time.Second, short)
	go open(2*time.Minute, long)
	harness.Eventually(t, "both are open", 10*time.Second, func() error {
		if n := c.App.Count(); n < 3 {
			return fmt.Errorf("%d calls arrived", n)
		}
		return nil
	})
	if code, err := c.Leave(leaveTime); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v", code, err)
	}
	if err := <-short; err != nil {
		t.Errorf("a stream that ended within the drain time: %v", err)
	}
	if err := <-long; err == nil {
		t.Error("a stream outlived its Envoy")
	}
	if !strings.Contains(c.Sidecar.Log.Tail(10), "are cut") {
		t.Errorf("the log does not say so: %s", c.Sidecar.Log.Tail(10))
	}
}

// TestATCPConnectionGoesOnUntilItEndsByItself: within the drain time, while new
// ones go to the other machine.
func TestATCPConnectionGoesOnUntilItEndsByItself(t *testing.T) {
	local := harness.Port(t)
	m := harness.Start(t, harness.Options{Overlay: fmt.Sprintf(`mesh:
  services:
    bank_service: {protocol: tcp}
    nexus: {upstreams: [{service: bank_service, local_bind_port: %d}]}
`, local)})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Scoped: true})
	first := m.Machine(harness.MachineSpec{Service: "bank_service", ID: "bank-1", SpeaksTCP: true})
	echo := func(conn net.Conn, text string) error {
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte(text)); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, len(text)))
		return err
	}
	dial := func() (conn net.Conn, err error) {
		if conn, err = net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(local)); err == nil {
			err = echo(conn, "hello")
		}
		return conn, err
	}
	var kept net.Conn
	harness.Eventually(t, "a connection", 15*time.Second, func() (err error) {
		kept, err = dial()
		return err
	})
	defer kept.Close() //nolint:errcheck // a test's
	second := m.Machine(harness.MachineSpec{Service: "bank_service", ID: "bank-2", SpeaksTCP: true})
	harness.Eventually(t, "the second machine is known", 15*time.Second, func() error { return healthyAt(m, second) })

	left := make(chan error, 1)
	go func() {
		code, err := first.Leave(leaveTime)
		if err == nil && code != 0 {
			err = fmt.Errorf("exit code %d", code)
		}
		left <- err
	}()
	harness.Eventually(t, "it drains", 15*time.Second, func() error {
		if first.Envoy.Ready() == nil {
			return errors.New("it is ready")
		}
		return nil
	})
	before := first.TCP.Accepted()
	for range 10 {
		conn, err := dial()
		if err != nil {
			t.Fatalf("a new connection: %v", err)
		}
		_ = conn.Close()
	}
	if n := first.TCP.Accepted(); n != before {
		t.Errorf("%d new connections went to the machine that leaves", n-before)
	}
	select {
	case err := <-left:
		t.Fatalf("it left with a connection open: %v", err)
	case <-time.After(time.Second): // twice as long as it waits without one
	}
	if err := echo(kept, "still there"); err != nil {
		t.Errorf("the connection of before: %v", err)
	}
	_ = kept.Close()
	if err := <-left; err != nil {
		t.Error(err)
	}
}

// TestEachControlPlaneTellsItsOwnCallers: a proxy that leaves is known to all of
// them by its --xds-address, and needs nothing that they share. Where they register
// proxies, the one that has its stream takes it out of Consul, and whichever it comes
// back to puts it there again.
func TestEachControlPlaneTellsItsOwnCallers(t *testing.T) {
	for what, o := range map[string]harness.Options{
		"registered by hand":               {},
		"registered by the control planes": {Consul: true, Registers: true},
	} {
		t.Run(what, func(t *testing.T) { leaveTwoControlPlanes(t, o) })
	}
}

func leaveTwoControlPlanes(t *testing.T, options harness.Options) {
	m := harness.Start(t, options)
	o := m.Plane.Options()
	o.Name = "second"
	o.XDSAddress, o.Admin = "127.0.0.1:"+strconv.Itoa(harness.Port(t)), "127.0.0.1:"+strconv.Itoa(harness.Port(t))
	second, err := run.StartControlPlane(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := second.WaitReady(t.Context(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	_, firstPort, _ := strings.Cut(m.Plane.XDSAddress(), ":")
	_, secondPort, _ := strings.Cut(o.XDSAddress, ":")
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-2", Unregistered: true, Bootstrap: func(_ *harness.Sidecar, printed string) string {
		return strings.ReplaceAll(printed, "port_value: "+firstPort, "port_value: "+secondPort)
	}})
	var machines []*harness.Machine
	for n := range 2 {
		machines = append(machines, m.Machine(harness.MachineSpec{
			Service: "lake_service", ID: fmt.Sprintf("lake-%d", n+1), XDSAddress: []string{m.Plane.XDSAddress(), o.XDSAddress},
		}))
	}
	for _, from := range []string{caller, "nexus-2"} {
		harness.Eventually(t, from+" calls both", 15*time.Second, func() error {
			r := traffic.Load{Addr: m.Sidecar(from).Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 20}.Do(t.Context())
			if len(r.Instances) != 2 || r.Failed() > 0 {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
	}
	loads := map[string]*traffic.Running{}
	for _, from := range []string{caller, "nexus-2"} {
		loads[from] = m.Load(from, "lake_service", traffic.Load{Concurrency: 8, Rate: 100})
	}
	for _, c := range machines {
		if code, err := c.Leave(leaveTime); err != nil || code != 0 {
			t.Fatalf("exit code %d, %v", code, err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		for from, load := range loads {
			harness.Eventually(t, from+" calls "+c.ID+" again", 15*time.Second, func() error {
				if load.Snapshot().Failed() == 0 && load.Take().Instances[c.ID] == 0 {
					return errors.New("it does not")
				}
				return nil
			})
		}
	}
	for from, load := range loads {
		if r := load.Stop(); r.Failed() > 0 {
			t.Errorf("%s: %s", from, r)
		}
		if n := m.Stats(from)["cluster.lake_service.upstream_rq_retry"]; n > 0 {
			t.Errorf("%s: %d requests were tried again", from, n)
		}
	}
}
