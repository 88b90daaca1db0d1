package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// maintenanceMesh has three instances of a service, which are told apart by a
// hash where the policy says so, and one of TCP. The panic threshold is Envoy's
// own: below half of healthy instances all that it knows are called.
func maintenanceMesh(t *testing.T, policy string) (m *harness.Mesh, bank string) {
	t.Helper()
	port := harness.Port(t)
	m = harness.Start(t, harness.Options{Mesh: fmt.Sprintf(`mesh:
  name: datapunk
  load_balancing: {%s, panic_threshold: 50}
  policies: {retry: {attempts: 0}}
  services:
    bank: {protocol: tcp}
    lake: {timeout: {request: 0s}}
    nexus: {upstreams: [lake, {service: bank, local_bind_port: %d}]}
  security: {authorization: {enabled: false}}
`, policy, port)})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true, Scoped: true})
	for _, id := range []string{"lake-1", "lake-2", "lake-3"} {
		m.Add(harness.Spec{Service: "lake", ID: id})
	}
	m.Add(harness.Spec{Service: "bank", ID: "bank-1", SpeaksTCP: true, Banner: banner})
	m.Ready()
	inRotation(t, m, "lake", "lake-1", "lake-2", "lake-3")
	return m, local(port)
}

// calledAre waits until calls to lake reach these instances and no other; none:
// until they are answered 503 for want of one.
func calledAre(t *testing.T, m *harness.Mesh, ids ...string) {
	t.Helper()
	load := traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: traffic.Request{Host: "lake"}, Requests: 60}
	harness.Eventually(t, fmt.Sprintf("those that are called are %v", ids), 10*time.Second, func() error {
		r := load.Do(t.Context())
		if len(ids) == 0 && r.Status[503] != r.Requests || len(ids) != len(r.Instances) || len(ids) > 0 && r.Failed() > 0 {
			return fmt.Errorf("%s", r)
		}
		for _, id := range ids {
			if r.Instances[id] == 0 {
				return fmt.Errorf("%s: %s", id, r)
			}
		}
		return nil
	})
}

// TestMaintenanceIsObeyedWhateverElseIsWrong: panic is for health that is
// doubted. What somebody put into maintenance is not called because others are
// unhealthy too, nor because everything is in maintenance.
func TestMaintenanceIsObeyedWhateverElseIsWrong(t *testing.T) {
	m, _ := maintenanceMesh(t, "policy: least_request")
	set := func(healths ...run.Health) {
		t.Helper()
		for i, h := range healths {
			m.SetHealth("lake-"+strconv.Itoa(i+1), h)
		}
	}
	for _, c := range []struct {
		what    string
		healths []run.Health
		called  []string
	}{
		{"most are in maintenance", []run.Health{run.Maintenance, run.Maintenance, run.Passing}, []string{"lake-3"}},
		{"a warning is no maintenance", []run.Health{run.Maintenance, run.Maintenance, run.Warning}, []string{"lake-3"}},
		{"those that are not in it are critical: panic among them alone", []run.Health{run.Maintenance, run.Critical, run.Critical}, []string{"lake-2", "lake-3"}},
		{"one critical, and one in maintenance", []run.Health{run.Maintenance, run.Critical, run.Passing}, []string{"lake-3"}},
		{"all are in maintenance", []run.Health{run.Maintenance, run.Maintenance, run.Maintenance}, nil},
		{"one comes back", []run.Health{run.Maintenance, run.Passing, run.Maintenance}, []string{"lake-2"}},
		{"all are critical", []run.Health{run.Critical, run.Critical, run.Critical}, []string{"lake-1", "lake-2", "lake-3"}},
		{"all are back", []run.Health{run.Passing, run.Passing, run.Passing}, []string{"lake-1", "lake-2", "lake-3"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			set(c.healths...)
			calledAre(t, m, c.called...)
		})
	}

	t.Run("weight 0, healthy and critical, is the same", func(t *testing.T) {
		weightless := func(id string, h run.Health) {
			i := m.Sidecar(id).Instance()
			i.NoWeight, i.Health = true, h
			noError(t, m.Registry.Register(i))
		}
		weightless("lake-1", run.Passing)
		weightless("lake-2", run.Warning)
		calledAre(t, m, "lake-3")
		weightless("lake-3", run.Critical)
		calledAre(t, m)
		m.Register(m.Sidecar("lake-1"))
		calledAre(t, m, "lake-1")
		m.Register(m.Sidecar("lake-2"))
		m.Register(m.Sidecar("lake-3"))
		calledAre(t, m, "lake-1", "lake-2", "lake-3")
	})

	t.Run("whom nobody serves is told why", func(t *testing.T) {
		mark := m.Plane.Log.Len()
		set(run.Maintenance, run.Maintenance, run.Maintenance)
		calledAre(t, m)
		if r := m.Call(caller, "lake", "/"); r.Status != 503 || !strings.Contains(r.Body, "no healthy upstream: lake has no instance that may be called") || !strings.Contains(r.Body, "maintenance") {
			t.Errorf("%s", r)
		}
		_, err := app.CallUnary(harness.Context(t, 5*time.Second), dialGRPC(t, m.Sidecar(caller).Outbound(), "lake"), "hello")
		if s := status.Convert(err); s.Code() != codes.Unavailable || !strings.Contains(s.Message(), "maintenance") {
			t.Errorf("by gRPC: %v", err)
		}
		logged := m.Plane.Log.Since(mark)
		if !strings.Contains(logged, "3 of 3 instances are in maintenance or have weight 0") {
			t.Errorf("the control plane says nothing of it: %s", logged)
		}
		set(run.Passing, run.Passing, run.Passing)
		calledAre(t, m, "lake-1", "lake-2", "lake-3")
	})
}

// TestSessionsLeaveAnInstanceInMaintenanceAndComeBackAfterIt: a hash that led to
// it leads to another one meanwhile.
func TestSessionsLeaveAnInstanceInMaintenanceAndComeBackAfterIt(t *testing.T) {
	for _, policy := range []string{"ring_hash", "maglev"} {
		t.Run(policy, func(t *testing.T) {
			m, _ := maintenanceMesh(t, "policy: "+policy+", hash_policy: [{header: X-User}]")
			served := func() map[int]string {
				by := make(map[int]string)
				for user := range 20 {
					r := m.Do(caller, traffic.Request{Host: "lake", Header: map[string][]string{"X-User": {strconv.Itoa(user)}}})
					by[user] = r.Reply.Instance
				}
				return by
			}
			before := served()
			m.SetHealth("lake-1", run.Maintenance)
			m.SetHealth("lake-2", run.Maintenance)
			calledAre(t, m, "lake-3")
			for user, by := range served() {
				if by != "lake-3" {
					t.Errorf("user %d was served by %q", user, by)
				}
			}
			m.SetHealth("lake-1", run.Passing)
			m.SetHealth("lake-2", run.Passing)
			calledAre(t, m, "lake-1", "lake-2", "lake-3")
			if after := served(); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("users are served by %v, before by %v", after, before)
			}
		})
	}
}

// bankCall is an open connection to a server that speaks first.
type bankCall struct {
	net.Conn
	read *bufio.Reader
}

func callBank(ctx context.Context, t *testing.T, at string) (bankCall, error) {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return bankCall{}, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	deadline, _ := ctx.Deadline()
	noError(t, conn.SetDeadline(deadline))
	c := bankCall{conn, bufio.NewReader(conn)}
	_, err = io.ReadFull(c.read, make([]byte, len(banner)))
	return c, err
}

// echoes reports whether the connection still carries what is said.
func (c bankCall) echoes(text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(c.read, back); err != nil || string(back) != text {
		return fmt.Errorf("%q came back for %q: %w", back, text, err)
	}
	return nil
}

// TestMaintenanceCutsNothingThatIsUnderWay: requests, a WebSocket, a gRPC stream
// and a TCP connection go on at an instance that nothing new goes to.
func TestMaintenanceCutsNothingThatIsUnderWay(t *testing.T) {
	m, bank := maintenanceMesh(t, "policy: least_request")
	ctx := harness.Context(t, time.Minute)
	m.SetHealth("lake-2", run.Maintenance)
	m.SetHealth("lake-3", run.Maintenance)
	calledAre(t, m, "lake-1")

	ws := dialWebSocket(ctx, t, m.Sidecar(caller).Outbound(), "lake")
	says := func(text string) error {
		var got string
		if err := websocket.Message.Send(ws, text); err != nil {
			return err
		}
		if err := websocket.Message.Receive(ws, &got); err != nil || got != "lake-1: "+text {
			return fmt.Errorf("%q: %w", got, err)
		}
		return nil
	}
	noError(t, says("before"))
	money, err := callBank(ctx, t, bank)
	noError(t, err)
	noError(t, money.echoes("before"))
	lake := m.Sidecar("lake-1").App
	lake.Behave(app.Behavior{Hang: true})
	lake.Forget()
	underWay := hold(t, m, "lake", 4)
	harness.Eventually(t, "requests are under way", 5*time.Second, func() error {
		if lake.Count() < 4 {
			return errors.New("not all")
		}
		return nil
	})

	m.SetHealth("lake-1", run.Maintenance)
	m.SetHealth("bank-1", run.Maintenance)
	// What came too early would hang too.
	harness.Eventually(t, "the caller knows of the maintenance", 5*time.Second, func() error {
		clusters, err := m.Sidecar(caller).Envoy.Clusters()
		if err == nil && len(clusters["lake"].Hosts)+len(clusters["bank"].Hosts) > 0 {
			err = errors.New("it has hosts")
		}
		return err
	})
	calledAre(t, m)
	harness.Eventually(t, "nobody new reaches the bank", 5*time.Second, func() error {
		if _, err := callBank(ctx, t, bank); err == nil {
			return errors.New("it was served")
		}
		return nil
	})
	noError(t, says("after"))
	noError(t, money.echoes("after"))
	lake.Behave(app.Behavior{})
	if got := underWay.answered(); got[200] != 4 {
		t.Errorf("those under way: %v", got)
	}
	noError(t, says("at the end"))

	m.SetHealth("lake-1", run.Passing)
	m.SetHealth("bank-1", run.Passing)
	calledAre(t, m, "lake-1")
	harness.Eventually(t, "the bank is open", 5*time.Second, func() error {
		_, err := callBank(ctx, t, bank)
		return err
	})
	noError(t, says("back again"))
	noError(t, money.echoes("back again"))
}
