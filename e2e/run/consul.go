package run

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// The TTL check of an instance, and how often it is fed.
const (
	consulTTL  = "15s"
	feedPeriod = 5 * time.Second
)

// ConsulRegistry registers at an agent, each instance with a TTL check, and
// feeds the checks.
type ConsulRegistry struct {
	agent *api.Agent
	stop  context.CancelFunc
	done  chan struct{}

	mu     sync.Mutex
	health map[string]Health
	fed    map[string]bool // false: the check is left to run out
}

// NewConsulRegistry returns a registry that feeds until Close.
func NewConsulRegistry(client *api.Client) *ConsulRegistry {
	ctx, cancel := context.WithCancel(context.Background())
	r := &ConsulRegistry{agent: client.Agent(), stop: cancel, done: make(chan struct{}), health: make(map[string]Health), fed: make(map[string]bool)}
	go r.feed(ctx)
	return r
}

func (r *ConsulRegistry) feed(ctx context.Context) {
	defer close(r.done)
	tick := time.NewTicker(feedPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.mu.Lock()
			health := maps.Clone(r.health)
			maps.DeleteFunc(health, func(id string, _ Health) bool { return !r.fed[id] })
			r.mu.Unlock()
			for id, h := range health {
				_ = r.report(id, h) // an agent that is away is met again at the next tick
			}
		}
	}
}

// report updates the TTL check.
func (r *ConsulRegistry) report(id string, h Health) error {
	if h == Maintenance {
		h = Passing // the check goes on: maintenance is a check beside it
	}
	return r.agent.UpdateTTL("service:"+id, string(h), string(h))
}

// Register implements Registry.
func (r *ConsulRegistry) Register(i Instance) error {
	i = i.withDefaults()
	registration := &api.AgentServiceRegistration{
		ID: i.ID, Name: i.Service, Address: i.Address, Port: i.Port, Tags: i.Tags, Meta: i.Meta,
		Weights: &api.AgentWeights{Passing: i.Weight, Warning: 1},
		Check:   &api.AgentServiceCheck{CheckID: "service:" + i.ID, TTL: consulTTL, Status: api.HealthCritical},
	}
	if i.Zone != "" {
		registration.Meta["zone"] = i.Zone
	}
	if err := r.agent.ServiceRegister(registration); err != nil {
		return fmt.Errorf("consul: register %s: %w", i.ID, err)
	}
	r.mu.Lock()
	r.health[i.ID], r.fed[i.ID] = Passing, true
	r.mu.Unlock()
	return r.SetHealth(i.ID, i.Health)
}

// SetHealth implements Registry.
func (r *ConsulRegistry) SetHealth(id string, h Health) error {
	r.mu.Lock()
	old := r.health[id]
	r.health[id] = h
	r.mu.Unlock()
	if h == Maintenance {
		if err := r.agent.EnableServiceMaintenance(id, "e2e"); err != nil {
			return fmt.Errorf("consul: maintenance of %s: %w", id, err)
		}
	} else if old == Maintenance {
		if err := r.agent.DisableServiceMaintenance(id); err != nil {
			return fmt.Errorf("consul: maintenance of %s: %w", id, err)
		}
	}
	if err := r.report(id, h); err != nil {
		return fmt.Errorf("consul: health of %s: %w", id, err)
	}
	return nil
}

// Starve stops feeding a check: Consul finds it critical when its TTL is over.
func (r *ConsulRegistry) Starve(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fed[id] = false
}

// Deregister implements Registry.
func (r *ConsulRegistry) Deregister(id string) error {
	r.mu.Lock()
	delete(r.health, id)
	delete(r.fed, id)
	r.mu.Unlock()
	if err := r.agent.ServiceDeregister(id); err != nil {
		return fmt.Errorf("consul: deregister %s: %w", id, err)
	}
	return nil
}

// Close stops feeding.
func (r *ConsulRegistry) Close() error {
	r.stop()
	<-r.done
	return nil
}
