//go:build component

package register

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
)

// where are the nodes on which Consul has an instance, with what its agent's check
// says, if there is one.
func where(t testing.TB, agent *consulagent.Agent, service, id string) []string {
	t.Helper()
	entries, _, err := agent.API.Health().Service(service, "", false, nil)
	if err != nil {
		return []string{err.Error()}
	}
	var at []string
	for _, e := range entries {
		if e.Service.ID != id {
			continue
		}
		status := "unchecked"
		for _, c := range e.Checks {
			if c.CheckID == agentCheck(id) {
				status = c.Status
			}
		}
		at = append(at, fmt.Sprintf("%s:%d on %s %s", e.Service.Address, e.Service.Port, e.Node.Node, status))
	}
	return at
}

// isAt waits until Consul has an instance in these places alone.
func isAt(t testing.TB, agent *consulagent.Agent, id string, want ...string) {
	t.Helper()
	until(t, id+" is at "+strings.Join(want, " and "), 60*time.Second, func() string {
		if got := where(t, agent, "db", id); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Sprint(got)
		}
		return ""
	})
}

// TestRealAgentChecks: an instance of the mesh file that is checked by Consul's agent
// is a service of the agent that the replica calls. Its checks go on while no replica
// runs; there is one entry of it however many replicas and agents there are; an edit
// holds, and what others made stays.
func TestRealAgentChecks(t *testing.T) {
	server := consulagent.ForTest(t, consulagent.Options{State: true, Node: "server"})
	one := consulagent.ForTest(t, consulagent.Options{Node: "one", Join: server})
	two := consulagent.ForTest(t, consulagent.Options{Node: "two", Join: server})

	var down atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer web.Close()
	status, grpcAddress := serveHealth(t)
	status.SetServingStatus("orders", healthpb.HealthCheckResponse_SERVING)

	check := func(c Check) *Check {
		c.Interval, c.Timeout = time.Second, 500*time.Millisecond
		return &c
	}
	instance := func(id string, port uint16, c *Check) Instance {
		return Instance{ID: id, Service: "db", Address: "127.0.0.1", Port: port, Tags: []string{"t"}, Meta: map[string]string{"version": "v1"}, Health: Passing, Check: c, ByAgent: true}
	}
	wanted := []Instance{
		instance("http", 1001, check(Check{HTTP: web.URL})),
		instance("tcp", 1002, check(Check{TCP: grpcAddress})),
		instance("grpc", 1003, check(Check{GRPC: grpcAddress + "/orders"})),
		instance("byhand", 1004, check(Check{TCP: grpcAddress})),
	}
	if err := one.Register(consulagent.Instance{Service: "db", ID: "byhand", Address: "127.0.0.1", Port: 9}); err != nil {
		t.Fatal(err)
	}
	times := Times{Interval: 500 * time.Millisecond}
	a := startReal(t, consul.Config{Address: one.HTTP}, "a", times)
	a.Keep(nil, wanted)
	isAt(t, server, "http", "127.0.0.1:1001 on one passing")
	isAt(t, server, "tcp", "127.0.0.1:1002 on one passing")
	isAt(t, server, "grpc", "127.0.0.1:1003 on one passing")
	isAt(t, server, "byhand", "127.0.0.1:9 on one unchecked")
	until(t, "the status says so", 10*time.Second, func() string {
		if s := a.Status(); s.States[Held] != 3 || s.States[Foreign] != 1 {
			return fmt.Sprintf("%v", s.States)
		}
		return ""
	})

	// Another replica, at another agent, leaves them where they are.
	b := startReal(t, consul.Config{Address: two.HTTP}, "b", times)
	b.Keep(nil, wanted)
	until(t, "the other replica knows", 10*time.Second, func() string {
		for _, reg := range b.List() {
			if reg.ID == "grpc" && reg.Owner == "a" && strings.Contains(reg.Reason, "node one") {
				return ""
			}
		}
		return fmt.Sprintf("%+v", b.List())
	})
	isAt(t, server, "http", "127.0.0.1:1001 on one passing")

	// Nobody runs, and a check fails all the same.
	b.stopOnly()
	b.Release(t.Context())
	a.kill()
	down.Store(true)
	status.SetServingStatus("orders", healthpb.HealthCheckResponse_NOT_SERVING)
	isAt(t, server, "http", "127.0.0.1:1001 on one critical")
	isAt(t, server, "grpc", "127.0.0.1:1003 on one critical")
	down.Store(false)
	isAt(t, server, "http", "127.0.0.1:1001 on one passing")

	// A replica at the other agent comes to look after them: it moves none.
	c := startReal(t, consul.Config{Address: two.HTTP}, "c", times)
	c.Keep(nil, wanted)
	until(t, "it looks after them", 60*time.Second, func() string {
		if s := c.Status(); !s.Sweeper || s.States[Held] != 3 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	isAt(t, server, "http", "127.0.0.1:1001 on one passing")
	// An edit it makes at its own agent; the old copy goes once a replica calls that one.
	wanted[0] = instance("http", 2001, check(Check{HTTP: web.URL}))
	c.Keep(nil, wanted)
	isAt(t, server, "http", "127.0.0.1:1001 on one passing", "127.0.0.1:2001 on two passing")
	d := startReal(t, consul.Config{Address: one.HTTP}, "d", times)
	d.Keep(nil, wanted)
	isAt(t, server, "http", "127.0.0.1:2001 on two passing")

	// What the file has no more goes, wherever it is, and what others made does not.
	c.Keep(nil, nil)
	d.Keep(nil, nil)
	isAt(t, server, "http")
	isAt(t, server, "tcp")
	isAt(t, server, "grpc")
	isAt(t, server, "byhand", "127.0.0.1:9 on one unchecked")
}
