package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/consulagent"
)

// ports returns where the caller's Envoy calls a service, as a set of ports.
func ports(m *harness.Mesh, service string) (map[int]bool, error) {
	clusters, err := m.Sidecar(caller).Envoy.Clusters()
	if err != nil {
		return nil, err
	}
	at := make(map[int]bool)
	for _, h := range clusters[service].Hosts {
		at[h.Address.Socket.Port] = true
	}
	return at, nil
}

// calls waits until the caller's Envoy calls a service at exactly these ports.
func calls(t *testing.T, m *harness.Mesh, service string, limit time.Duration, want ...int) {
	t.Helper()
	began := time.Now()
	for {
		at, err := ports(m, service)
		if err == nil && len(at) == len(want) && !slices.ContainsFunc(want, func(p int) bool { return !at[p] }) {
			return
		}
		if time.Since(began) > limit {
			t.Fatalf("%s calls %s at %v, want %v (%v)", caller, service, at, want, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// prompt is far below the 6 s of two confirming reads, and far above what it
// takes, which is logged.
const prompt = 2 * time.Second

// TestARemovalThatIsOrderlyIsNotDelayed, in a mesh as small as this: each is half
// of it, or a third, or the fourth within a minute.
func TestARemovalThatIsOrderlyIsNotDelayed(t *testing.T) {
	const (
		rounds = 4
		// apart is how far apart rounds must be, that a watch is not slowed down
		// which Consul has woken again and again.
		apart = 1300 * time.Millisecond
	)
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	var sidecars []int
	for n := range 3 {
		sidecars = append(sidecars, m.Add(harness.Spec{Service: "lake_service", ID: fmt.Sprintf("lake-%d", n+1)}).MeshPort)
	}
	m.Ready()
	agent := m.Consul.API
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	service := func(name string, n int) *api.AgentService {
		port := 40000 + n
		return &api.AgentService{
			ID: fmt.Sprintf("bare-%d", n), Service: name, Address: "127.0.0.1", Port: port, Meta: map[string]string{"mesh_port": strconv.Itoa(port)},
		}
	}
	register := func(name string, n int) {
		s := service(name, n)
		must(agent.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: s.ID, Name: name, Address: s.Address, Port: s.Port, Meta: s.Meta}))
	}
	var bare []int // of bare_service, none of which has a sidecar
	for n := range 10 {
		bare = append(bare, 40000+n)
	}
	on := func(n int) string { return fmt.Sprintf("machine-%d", n) }
	for _, c := range []struct {
		name    string
		service string
		before  []int
		prepare func(round int)
		remove  func(round int)
		after   []int
	}{
		{
			"one of three whose sidecar stays, at the agent", "lake_service", sidecars,
			func(round int) {
				if round > 0 {
					m.Register(m.Sidecar("lake-3"))
				}
			},
			func(int) { m.Deregister("lake-3") }, sidecars[:2],
		},
		{
			"one of three without a sidecar, at the agent", "bare_service", bare[:3],
			func(int) {
				for n := range 3 {
					register("bare_service", n)
				}
			},
			func(int) { must(agent.Agent().ServiceDeregister("bare-2")) }, bare[:2],
		},
		{
			"three of ten one after the other, at the agent", "bare_service", bare,
			func(int) {
				for n := range 10 {
					register("bare_service", n)
				}
			},
			func(int) {
				for _, n := range []int{7, 8, 9} {
					must(agent.Agent().ServiceDeregister(fmt.Sprintf("bare-%d", n)))
				}
			}, bare[:7],
		},
		{
			"one of three without a sidecar, in the catalog", "far_service", bare[:3],
			func(int) {
				for n := range 3 {
					_, err := agent.Catalog().Register(&api.CatalogRegistration{Node: on(n), Address: "127.0.0.1", Service: service("far_service", n)}, nil)
					must(err)
				}
			},
			func(int) {
				_, err := agent.Catalog().Deregister(&api.CatalogDeregistration{Node: on(2), ServiceID: "bare-2"}, nil)
				must(err)
			}, bare[:2],
		},
		{
			"one of three that gets another name", "old_service", bare[:3],
			func(int) {
				for n := range 3 {
					register("old_service", n)
				}
			},
			func(int) { register("new_service", 2) }, bare[:2],
		},
		{
			"the only one gets another name", "last_service", bare[5:6],
			func(int) { register("last_service", 5) },
			func(int) { register("next_service", 5) }, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var took []time.Duration
			for round := range rounds {
				c.prepare(round)
				calls(t, m, c.service, 5*time.Second, c.before...)
				time.Sleep(apart)
				began := time.Now()
				c.remove(round)
				calls(t, m, c.service, prompt, c.after...)
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			t.Logf("from the request to Consul until the Envoy's list is without it: p50 %v, the longest of %d %v",
				took[rounds/2].Round(time.Millisecond), rounds, took[rounds-1].Round(time.Millisecond))
		})
	}
}

// settled is how long after it found a server a client registers once more what
// it has: 3 s. One that leaves before that is in the catalog again.
const settled = 4 * time.Second

// guests are instances that are registered at an agent of their own, a client of
// the mesh's, with whatever else runs on that machine.
func guests(t *testing.T, m *harness.Mesh, service string, ids ...string) *consulagent.Agent {
	t.Helper()
	agent := consulagent.ForTest(t, consulagent.Options{Node: "machine", Join: m.Consul})
	for _, id := range ids {
		serve(t, m, agent, harness.Spec{Service: service, ID: id})
		if err := agent.SetHealth(id, "passing"); err != nil { // so that the client remembers it
			t.Fatal(err)
		}
	}
	time.Sleep(settled)
	return agent
}

// TestAnAgentThatRestartsTakesNothingOut: it leaves with everything on it, the only
// instance of a service and one of three, and is back 9 s later. Their sidecars are
// connected all the time.
func TestAnAgentThatRestartsTakesNothingOut(t *testing.T) {
	t.Parallel() // it waits, most of the time
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	agent := guests(t, m, "guest_service", "guest-1")
	serve(t, m, agent, harness.Spec{Service: "lake_service", ID: "lake-3"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2", "lake-3")
	inRotation(t, m, "guest_service", "guest-1")
	lake := m.Load(caller, "lake_service", traffic.Load{Rate: 50})
	guest := m.Load(caller, "guest_service", traffic.Load{Rate: 50})

	if err := agent.Stop(); err != nil { // SIGTERM: a client leaves
		t.Fatal(err)
	}
	harness.Eventually(t, "Consul knows nothing of it", 10*time.Second, func() error {
		entries, _, err := m.Consul.API.Health().Service("guest_service", "", false, nil)
		if err == nil && len(entries) > 0 {
			err = fmt.Errorf("%d entries", len(entries))
		}
		return err
	})
	time.Sleep(9 * time.Second)
	lake3 := m.Sidecar("lake-3").MeshPort
	if at, err := ports(m, "lake_service"); err != nil || !at[lake3] {
		t.Errorf("lake-3 is not called: %v, %v", at, err)
	}
	if _, ready, err := m.Plane.Readyz(); err != nil || len(ready.Holding) != 2 {
		t.Errorf("holding %q, %v", ready.Holding, err)
	}
	if err := agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "nothing is held", 15*time.Second, func() error {
		_, ready, err := m.Plane.Readyz()
		if err == nil && len(ready.Holding) > 0 {
			err = fmt.Errorf("holding %q", ready.Holding)
		}
		return err
	})
	for _, l := range []*traffic.Running{lake, guest} {
		if r := l.Stop(); r.Failed() > 0 || r.Requests < 400 {
			t.Errorf("%s", r)
		}
	}
}

// TestWhatLeavesWithItsSidecarIsGoneAtOnce, be it the last: and then callers hear
// that nobody is there, not that there is no such service.
func TestWhatLeavesWithItsSidecarIsGoneAtOnce(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Ready()
	agent := guests(t, m, "guest_service", "guest-1", "guest-2")
	one, two := m.Sidecar("guest-1"), m.Sidecar("guest-2")
	calls(t, m, "guest_service", 5*time.Second, one.MeshPort, two.MeshPort)

	// The machine goes down: its agent leaves, and then its sidecars do.
	if err := agent.Stop(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the removal is doubted", 10*time.Second, func() error {
		_, ready, err := m.Plane.Readyz()
		if err == nil && len(ready.Holding) != 1 {
			err = fmt.Errorf("holding %q", ready.Holding)
		}
		return err
	})
	for _, step := range []struct {
		stops *run.Sidecar
		stay  []int
	}{{one, []int{two.MeshPort}}, {two, nil}} {
		began := time.Now()
		step.stops.Kill()
		calls(t, m, "guest_service", prompt, step.stay...)
		t.Logf("%s: from its end until the caller's list is without it: %v", step.stops.ID, time.Since(began).Round(time.Millisecond))
	}
	if r := m.Call(caller, "guest_service", "/"); r.Status != 503 {
		t.Errorf("a call of a service whose last instance went: %s", r)
	}
	if r := m.Call(caller, "nobody", "/"); r.Status != 404 {
		t.Errorf("a call of one that there never was: %s", r)
	}
}
