package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"datapunk.dev/controlplane/e2e/harness"
)

// TestOneIDOnEveryMachine: Consul takes the service's name for an id where a
// registration has none, so that all instances have one and the same, and are told
// apart by their machines. One that is deregistered, or gets another name, is gone;
// the others stay.
func TestOneIDOnEveryMachine(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Ready()
	catalog := m.Consul.API.Catalog()
	register := func(service string, n int) {
		t.Helper()
		_, err := catalog.Register(&api.CatalogRegistration{
			Node: fmt.Sprintf("machine-%d", n), Address: "127.0.0.1",
			Service: &api.AgentService{ID: "bare_service", Service: service, Port: 40000 + n, Meta: map[string]string{"mesh_port": strconv.Itoa(40000 + n)}},
		}, nil)
		noError(t, err)
	}
	for n := range 4 {
		register("bare_service", n)
	}
	calls(t, m, "bare_service", 5*time.Second, 40000, 40001, 40002, 40003)
	_, err := catalog.Deregister(&api.CatalogDeregistration{Node: "machine-0", ServiceID: "bare_service"}, nil)
	noError(t, err)
	calls(t, m, "bare_service", prompt, 40001, 40002, 40003)
	register("other_service", 1)
	calls(t, m, "bare_service", prompt, 40002, 40003)
	calls(t, m, "other_service", prompt, 40001)
}
