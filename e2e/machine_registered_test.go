package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// registered returns nil if the control plane has registered so many instances of a
// service, and Consul has each of them passing.
func registered(m *harness.Mesh, service string, want int) error {
	entries, err := inConsul(m, service)
	if err != nil {
		return err
	}
	for id, e := range entries {
		if status := e.Checks.AggregatedStatus(); status != "passing" || !strings.HasPrefix(e.Service.Meta["managed-by"], "controlplane/") {
			return fmt.Errorf("%s is %s: %+v", id, status, e.Service.Meta)
		}
	}
	if len(entries) != want {
		return fmt.Errorf("Consul has %q of %s, want %d", slices.Sorted(maps.Keys(entries)), service, want)
	}
	return nil
}

// TestTwoServicesMeetWithoutBeingRegistered: on each machine one command, which
// chooses node and ports, and nobody tells Consul of either.
func TestTwoServicesMeetWithoutBeingRegistered(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Registers: true})
	web := m.Machine(harness.MachineSpec{Service: "nexus", ID: "nexus-1", ChosenPorts: true})
	lake := m.Machine(harness.MachineSpec{Service: "lake_service", ID: "lake-1", ChosenPorts: true, Flags: []string{
		"--version", "2.0.1", "--zone", "eu-1a", "--tag", "blue", "--meta", "team=water",
	}})
	for _, c := range []struct {
		from *harness.Machine
		to   string
		id   string
	}{{web, "lake_service", lake.ID}, {lake, "nexus", web.ID}} {
		harness.Eventually(t, c.from.Service+" calls "+c.to, 15*time.Second, func() error {
			r, err := traffic.NewClient(c.from.Outbound()).Get(t.Context(), c.to, "/")
			if err == nil && (r.Status != 200 || r.Reply.Instance != c.id) {
				err = errors.New(r.String())
			}
			return err
		})
	}
	for _, service := range []string{"nexus", "lake_service"} {
		if err := registered(m, service, 1); err != nil {
			t.Error(err)
		}
	}
	entries, err := inConsul(m, "lake_service")
	if err != nil {
		t.Fatal(err)
	}
	for node, e := range entries {
		if !strings.HasPrefix(node, "lake_service-") || e.Service.Port != lake.AppPort || e.Service.Address != "127.0.0.1" || !slices.Equal(e.Service.Tags, []string{"blue"}) {
			t.Errorf("%s is in Consul as %+v", node, e.Service)
		}
		for key, want := range map[string]string{"mesh_port": strconv.Itoa(lake.Ports["MESH_PORT"]), "version": "2.0.1", "zone": "eu-1a", "team": "water"} {
			if got := e.Service.Meta[key]; got != want {
				t.Errorf("%s is %q in Consul, want %q", key, got, want)
			}
		}
	}
}

// TestRegisteredMachinesAreRestartedWithoutAFailedRequest: each leaves Consul when
// its callers know, comes back as the node that it was, and is called again; one
// after the other, and two of three at a time.
func TestRegisteredMachinesAreRestartedWithoutAFailedRequest(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Registers: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	var machines []*harness.Machine
	for n := range 3 {
		machines = append(machines, m.Machine(harness.MachineSpec{Service: "lake_service", ID: fmt.Sprintf("lake-%d", n+1)}))
	}
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2", "lake-3")
	nodes, err := inConsul(m, "lake_service")
	if err != nil || len(nodes) != 3 {
		t.Fatalf("Consul has %d: %v", len(nodes), err)
	}
	before := m.Stats(caller)
	http1 := m.Load(caller, "lake_service", traffic.Load{Concurrency: 16, Rate: 250})
	http2 := m.Load(caller, "lake_service", traffic.Load{Concurrency: 16, Rate: 250, HTTP2: true})
	for _, atATime := range []int{1, 2} {
		for group := range slices.Chunk(machines, atATime) {
			leaveTogether(t, group)
			harness.Eventually(t, "those that have left are out of Consul", 10*time.Second, func() error {
				return registered(m, "lake_service", len(machines)-len(group))
			})
			returnTogether(t, m, group)
		}
	}
	for what, load := range map[string]*traffic.Running{"HTTP/1": http1, "HTTP/2": http2} {
		r := load.Stop()
		t.Logf("%s: %d requests, %d failed, p99 %v, served by %v", what, r.Requests, r.Failed(), r.Quantile(0.99).Round(time.Millisecond), r.Instances)
		if r.Failed() > 0 || r.Requests < 300 {
			t.Errorf("%s: %s", what, r)
		}
	}
	if name := "cluster.lake_service.upstream_rq_retry"; m.Stats(caller)[name] != before[name] {
		t.Errorf("%s went from %d to %d", name, before[name], m.Stats(caller)[name])
	}
	after, err := inConsul(m, "lake_service")
	if err != nil || !slices.Equal(slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(nodes))) {
		t.Errorf("Consul had %q and has %q: %v", slices.Sorted(maps.Keys(nodes)), slices.Sorted(maps.Keys(after)), err)
	}
}

// TestHowSoonAMachineIsKnown measures the whole of it: from when the mesh port of a
// machine that has just joined is open to when another Envoy has it among its
// endpoints. The log has the figures.
func TestHowSoonAMachineIsKnown(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Registers: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Machine(harness.MachineSpec{Service: "lake_service", ID: "lake-0"})
	m.Ready()
	var known, all []time.Duration
	for n := range 9 {
		c := m.NewMachine(harness.MachineSpec{Service: "lake_service", ID: fmt.Sprintf("lake-%d", n+1)})
		began := time.Now()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		opened := time.Time{}
		for healthyAt(m, c) != nil {
			if opened.IsZero() {
				if conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(c.Ports["MESH_PORT"]), time.Second); err == nil {
					_ = conn.Close()
					opened = time.Now()
				}
			}
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%s is not known: %+v", c.ID, registrations(t, m))
			}
		}
		now := time.Now()
		if opened.IsZero() {
			opened = now
		}
		known, all = append(known, now.Sub(opened)), append(all, now.Sub(began))
	}
	slices.Sort(known)
	slices.Sort(all)
	t.Logf("from an open mesh port to another Envoy's endpoints: p50 %s, all %s", known[len(known)/2].Round(time.Millisecond), known)
	t.Logf("from the command to there: p50 %s, all %s", all[len(all)/2].Round(time.Millisecond), all)
}

// TestTheLastInstanceIsCalledToItsEnd: there is nobody else, and it still serves
// while a stream of its goes on. Only then is it out of Consul.
func TestTheLastInstanceIsCalledToItsEnd(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Registers: true, Overlay: "mesh: {services: {grpc_service: {protocol: grpc}}}"})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	c := m.Machine(harness.MachineSpec{Service: "grpc_service", ID: "grpc-1"})
	m.Ready()
	conn := dialGRPC(t, m.Sidecar(caller).Outbound(), "grpc_service")
	call := func() error {
		_, err := app.CallUnary(t.Context(), conn, "hello")
		return err
	}
	harness.Eventually(t, "it answers", 15*time.Second, call)
	stream := make(chan error, 1)
	go func() {
		_, err := app.CallQuiet(t.Context(), conn, 4*time.Second)
		stream <- err
	}()
	harness.Eventually(t, "the stream is open", 10*time.Second, func() error {
		if n := c.App.Count(); n < 2 {
			return fmt.Errorf("%d calls arrived", n)
		}
		return nil
	})
	if err := c.Sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "it drains", 10*time.Second, func() error {
		if c.Envoy.Ready() == nil {
			return errors.New("it is ready")
		}
		return nil
	})
	for began, n := time.Now(), 0; time.Since(began) < 2*time.Second; n++ {
		if err := call(); err != nil {
			t.Fatalf("call %d, %v after it began to drain: %v", n, time.Since(began), err)
		}
	}
	if err := registered(m, "grpc_service", 1); err != nil {
		t.Error(err)
	}
	if err := <-stream; err != nil {
		t.Errorf("the stream: %v", err)
	}
	<-c.Sidecar.Done()
	harness.Eventually(t, "it is out of Consul", 5*time.Second, func() error { return registered(m, "grpc_service", 0) })
}
