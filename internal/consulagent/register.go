package consulagent

import (
	"fmt"
	"maps"
	"strconv"

	"github.com/hashicorp/consul/api"
)

// ttl is long enough that no test has to feed its checks.
const ttl = "10m"

// Instance is what to register at the agent.
type Instance struct {
	Service, ID, Address string
	Port, MeshPort       int // MeshPort 0: no meta mesh_port
	Weight               int // 0: Consul's default
	Tags                 []string
	Meta                 map[string]string
}

// Register registers an instance with a passing TTL check.
func (a *Agent) Register(i Instance) error {
	r := &api.AgentServiceRegistration{
		Name: i.Service, ID: i.ID, Address: i.Address, Port: i.Port, Tags: i.Tags, Meta: maps.Clone(i.Meta),
		Check: &api.AgentServiceCheck{CheckID: checkID(i.ID), TTL: ttl, Status: api.HealthPassing},
	}
	if i.MeshPort != 0 {
		if r.Meta == nil {
			r.Meta = make(map[string]string)
		}
		r.Meta["mesh_port"] = strconv.Itoa(i.MeshPort)
	}
	if i.Weight != 0 {
		r.Weights = &api.AgentWeights{Passing: i.Weight, Warning: 1}
	}
	if err := a.API.Agent().ServiceRegister(r); err != nil {
		return fmt.Errorf("register %s: %w", i.ID, err)
	}
	return nil
}

// SetHealth sets an instance's check: "passing", "warning" or "critical".
func (a *Agent) SetHealth(id, status string) error {
	if err := a.API.Agent().UpdateTTL(checkID(id), "set", status); err != nil {
		return fmt.Errorf("health of %s: %w", id, err)
	}
	return nil
}

// SetMaintenance puts an instance into maintenance, or out of it.
func (a *Agent) SetMaintenance(id string, on bool) error {
	change := func() error { return a.API.Agent().DisableServiceMaintenance(id) }
	if on {
		change = func() error { return a.API.Agent().EnableServiceMaintenance(id, "set") }
	}
	if err := change(); err != nil {
		return fmt.Errorf("maintenance of %s: %w", id, err)
	}
	return nil
}

// Deregister removes an instance.
func (a *Agent) Deregister(id string) error {
	if err := a.API.Agent().ServiceDeregister(id); err != nil {
		return fmt.Errorf("deregister %s: %w", id, err)
	}
	return nil
}

func checkID(id string) string { return "service:" + id }
