package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// TestLinksThatAreBad: Consul answers late, in crumbs, cut off, or not at all, and one
// Envoy reads a kilobyte a second. The others are served meanwhile.
func TestLinksThatAreBad(t *testing.T) {
	x := harness.StartToxiproxy(t)
	m := startConsulMesh(t)
	to := x.Link("consul", m.agent.HTTP)
	m.front.forward(to.Addr)
	f := begin(t, m.Mesh)
	status, want := "critical", 1
	change := func(what string) {
		t.Helper()
		f.now()
		noError(t, m.agent.SetHealth("lake-2", status))
		f.well(what, 30*time.Second, f.instances(want))
		status, want = map[string]string{"critical": "passing", "passing": "critical"}[status], 3-want
	}
	for _, c := range []struct {
		toxic      string
		attributes map[string]any
	}{
		{"latency", map[string]any{"latency": 500, "jitter": 200}},
		{"slicer", map[string]any{"average_size": 100, "size_variation": 50, "delay": 1000}},
		{"bandwidth", map[string]any{"rate": 20}},
	} {
		to.Spoil(c.toxic, c.attributes)
		m.front.forward(to.Addr) // connections of before are cut
		change("Consul behind " + c.toxic)
		to.Heal(c.toxic)
	}
	for _, c := range []struct {
		toxic      string
		attributes map[string]any
	}{{"limit_data", map[string]any{"bytes": 50}}, {"reset_peer", map[string]any{"timeout": 10}}} {
		to.Spoil(c.toxic, c.attributes)
		m.front.forward(to.Addr)
		f.now()
		noError(t, m.agent.SetHealth("lake-2", status))
		f.said(20*time.Second, ": ")
		time.Sleep(time.Second)
		if err := f.instances(3 - want)(); err != nil {
			t.Errorf("%s: %v", c.toxic, err)
		}
		to.Heal(c.toxic)
		f.well("Consul behind "+c.toxic, 30*time.Second, f.instances(want))
		status, want = map[string]string{"critical": "passing", "passing": "critical"}[status], 3-want
	}

	// An Envoy that is served by a slow link has what it has, and the others go on.
	slow := x.Link("xds", m.Plane.XDSAddress())
	s := m.Prepare(harness.Spec{Service: "nexus", ID: "slow-1", Bootstrap: func(_ *harness.Sidecar, printed string) string {
		_, port, _ := strings.Cut(slow.Addr, ":")
		_, real, _ := strings.Cut(m.Plane.XDSAddress(), ":")
		return strings.ReplaceAll(printed, real, port)
	}})
	slow.Spoil("bandwidth", map[string]any{"rate": 1})
	m.Launch(s)
	change("beside an Envoy that reads 1 KB a second")
	change("beside an Envoy that reads 1 KB a second")
	slow.Heal("bandwidth")
	if err := s.Envoy.WaitReady(t.Context(), 60*time.Second); err != nil {
		t.Error(err)
	}
	f.end()
}

// TestASourceThatAlternatesGoodAndBad: every half second another mesh file, each second
// one with a mistake. None of the bad ones is served, and none of the good ones lost.
func TestASourceThatAlternatesGoodAndBad(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	for _, spec := range []harness.Spec{{Service: "nexus", ID: "nexus-1"}, {Service: "lake_service", ID: "lake-1"}, {Service: "lake_service", ID: "lake-2"}} {
		m.Add(spec)
	}
	m.Ready()
	f := begin(t, m)
	seed, err := os.ReadFile(m.MeshFile(0))
	noError(t, err)
	good := func(n int) string {
		return strings.Replace(string(seed), "max_connections: 2048", fmt.Sprintf("max_connections: %d", n), 1)
	}
	for n := range 10 {
		noError(t, run.WriteFile(m.MeshFile(0), good(3000+n)+"\nmesh: {}\nnothing: here\n"))
		time.Sleep(500 * time.Millisecond)
		noError(t, run.WriteFile(m.MeshFile(0), good(3000+n)))
		time.Sleep(500 * time.Millisecond)
	}
	f.well("the last good one is in force", 15*time.Second, func() error {
		got := m.Resource("nexus-1", "cluster", "lake_service").Find("max_connections")
		if len(got) == 0 || fmt.Sprint(got[0]) != "3009" {
			return fmt.Errorf("max_connections is %v", got)
		}
		return nil
	})
	// Each good one is one cluster for each of three proxies, with its assignment.
	if n := pushes(t, m)["cluster"] - f.sent["cluster"]; n > 10*3 {
		t.Errorf("%d responses of clusters for 10 edits and 3 proxies", n)
	}
	f.end()
}

// TestSevenHundredInstancesAreReplacedAtOnce, in one service: its assignment is all that
// is sent, and others' calls go on.
func TestSevenHundredInstancesAreReplacedAtOnce(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true})
	for _, spec := range []harness.Spec{{Service: "nexus", ID: "nexus-1"}, {Service: "lake_service", ID: "lake-1"}, {Service: "lake_service", ID: "lake-2"}} {
		m.Add(spec)
	}
	m.Ready()
	const instances, each = 700, 50
	// A node without an agent: one takes out what it does not know of its own.
	if _, err := m.Consul.API.Catalog().Register(&api.CatalogRegistration{Node: "many", Address: "127.0.0.2"}, nil); err != nil {
		t.Fatal(err)
	}
	write := func(verb api.ServiceOp, generation int) {
		t.Helper()
		for from := 0; from < instances; from += each {
			var ops api.TxnOps
			for n := from; n < from+each; n++ {
				port := 10000 + generation*instances + n
				ops = append(ops, &api.TxnOp{Service: &api.ServiceTxnOp{Verb: verb, Node: "many", Service: api.AgentService{
					ID: fmt.Sprintf("many-%d-%d", generation, n), Service: "many_service", Address: "127.0.0.1", Port: port,
					Meta: map[string]string{"mesh_port": strconv.Itoa(port)},
				}}})
			}
			if ok, answer, _, err := m.Consul.API.Txn().Txn(ops, nil); err != nil || !ok {
				t.Fatalf("%v %+v", err, answer)
			}
		}
	}
	has := func(generation int) func() error {
		return func() error {
			at, err := ports(m, "many_service")
			if err != nil {
				return err
			}
			if first := 10000 + generation*instances; len(at) != instances || !at[first] || !at[first+instances-1] {
				return fmt.Errorf("%d ports", len(at))
			}
			return nil
		}
	}
	write("set", 0)
	harness.Eventually(t, "they are there", 20*time.Second, has(0))
	f := begin(t, m)
	write("set", 1)
	write("delete", 0)
	f.well("others are in their place", time.Minute, has(1))
	sent := pushes(t, m)
	for _, typ := range []string{"cluster", "listener", "route"} {
		if sent[typ] != f.sent[typ] {
			t.Errorf("%d responses of %s for endpoints", sent[typ]-f.sent[typ], typ)
		}
	}
	f.end()
}
