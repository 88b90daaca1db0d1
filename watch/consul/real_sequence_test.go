//go:build component

package consul_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
	watchconsul "datapunk.dev/controlplane/watch/consul"
)

// With 30 services and a budget for few watches, random changes at a real agent
// end in the catalog that a source with a watch for each has.
func TestRealAnySequenceEndsInTheSameCatalog(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	const services = 30
	name := func(i int) string { return fmt.Sprintf("s%02d", i) }
	put := func(service, n, port int, status string) {
		id := fmt.Sprintf("%s-%d", name(service), n)
		_, err := agent.API.Catalog().Register(&api.CatalogRegistration{
			Node: fmt.Sprintf("Node-%d", n), Address: "10.9.9.9",
			Service: &api.AgentService{
				ID: id, Service: name(service), Address: fmt.Sprintf("10.0.%d.%d", service, n+1), Port: port, Meta: map[string]string{"mesh_port": "15006"},
			},
			Check: &api.AgentCheck{Node: fmt.Sprintf("Node-%d", n), CheckID: "check:" + id, Name: "up", Status: status, ServiceID: id, ServiceName: name(service)},
		}, nil)
		must(t, err)
	}
	for i := range services {
		for n := range 4 {
			put(i, n, 80, "passing")
		}
	}
	nodeCheck := func(n int, id, status string) {
		_, err := agent.API.Catalog().Register(&api.CatalogRegistration{
			Node: fmt.Sprintf("Node-%d", n), Address: "10.9.9.9", SkipNodeUpdate: true,
			Check: &api.AgentCheck{Node: fmt.Sprintf("Node-%d", n), CheckID: id, Name: id, Status: status},
		}, nil)
		must(t, err)
	}
	remove := func(c *api.CatalogDeregistration) {
		_, err := agent.API.Catalog().Deregister(c, nil)
		must(t, err)
	}
	demand := watchconsul.Demand{MeshOnly: true}
	few := observe(t, consul.Config{Address: agent.HTTP, MaxConnections: 20}, watchconsul.Config{Wait: 20 * time.Second}, demand)
	each := observe(t, consul.Config{Address: agent.HTTP, MaxConnections: 60}, watchconsul.Config{Wait: 20 * time.Second}, demand)
	few.ready()
	each.ready()
	if st, of := few.Stats(), each.Stats(); st.Cold != services-9 || of.Cold != 0 {
		t.Fatalf("%d services without a watch, and %d of the other source", st.Cold, of.Cold)
	}

	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	states := []string{"passing", "warning", "critical", "odd"}
	for range 8 {
		for range 12 {
			service, n, state := random.IntN(services), random.IntN(4), states[random.IntN(len(states))]
			switch random.IntN(8) {
			case 0, 1:
				put(service, n, 80, state)
			case 2:
				put(service, n, 80, "critical") // and passing again, at once
				put(service, n, 80, "passing")
			case 3:
				nodeCheck(n, "serfHealth", state)
			case 4:
				nodeCheck(n, "_node_maintenance", "critical")
				if random.IntN(2) == 0 {
					remove(&api.CatalogDeregistration{Node: fmt.Sprintf("Node-%d", n), CheckID: "_node_maintenance"})
				}
			case 5:
				put(service, 4+random.IntN(3), 80, "passing")
			case 6:
				node := 4 + random.IntN(3)
				remove(&api.CatalogDeregistration{Node: fmt.Sprintf("Node-%d", node), ServiceID: fmt.Sprintf("%s-%d", name(service), node)})
			case 7:
				put(service, n, 81+random.IntN(3), "passing")
			}
			if random.IntN(3) == 0 {
				time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
			}
		}
		few.within(30*time.Second, "the same catalog", func() bool {
			for i := range services {
				a, b := few.service(name(i)), each.service(name(i))
				if a == nil || b == nil || !a.Equal(b) {
					return false
				}
			}
			return true
		})
	}
	if st := few.Stats(); st.TooMany > 0 || st.Errors > 0 {
		t.Errorf("%+v", st)
	}
}
