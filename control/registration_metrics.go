package control

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/register"
)

// Metrics of registrations; there are none while nothing is registered.
var (
	descRegistrations = prometheus.NewDesc("controlplane_registrations",
		"Instances that this replica registers, or looks after, by state.", []string{"state"}, nil)
	descApplications = prometheus.NewDesc("controlplane_registered_applications",
		"Applications that are checked, of the proxies that this replica registers, by health.", []string{"health"}, nil)
	descRegistrationReady = prometheus.NewDesc("controlplane_registration_ready",
		"1 while this replica can write registrations and compare them; else what is in the catalog stays.", nil, nil)
	descRegistrationSweeper = prometheus.NewDesc("controlplane_registration_sweeper",
		"1 on the replica that looks after what others registered that are gone.", nil, nil)
	descRegistrationHeld = prometheus.NewDesc("controlplane_registration_removals_held",
		"Instances that do not answer and are not removed, because too many at once do not.", nil, nil)
	descRegistrationWrites = prometheus.NewDesc("controlplane_registration_writes_total",
		"Changes of registrations that the catalog has taken.", nil, nil)
	descRegistrationConflicts = prometheus.NewDesc("controlplane_registration_conflicts_total",
		"Changes that were based on what was there no more; they are decided anew.", nil, nil)
	descRegistrationErrors = prometheus.NewDesc("controlplane_registration_errors_total",
		"Changes that the catalog did not take, or did not answer.", nil, nil)
)

func (r *Registrations) collect(gauge, counter func(*prometheus.Desc, float64, ...string)) {
	s, ok := r.status()
	if !ok {
		return
	}
	for _, state := range register.States {
		gauge(descRegistrations, float64(s.States[state]), string(state))
	}
	for _, health := range []register.Health{register.Passing, register.Warning, register.Critical} {
		gauge(descApplications, float64(s.Applications[health]), string(health))
	}
	gauge(descRegistrationReady, number(len(s.Trouble) == 0))
	gauge(descRegistrationSweeper, number(s.Sweeper))
	gauge(descRegistrationHeld, float64(s.Held))
	counter(descRegistrationWrites, float64(s.Writes))
	counter(descRegistrationConflicts, float64(s.Conflicts))
	counter(descRegistrationErrors, float64(s.Failures+s.Denials))
}

// status is that of the current registrar; false: nothing is registered.
func (r *Registrations) status() (register.Status, bool) {
	r.mu.Lock()
	current := r.current
	r.mu.Unlock()
	if current == nil {
		return register.Status{}, false
	}
	return current.Status(), true
}

// report says in the words of /readyz what is not registered, or not removed, as it
// should be.
func (r *Registrations) report() (holding, problems []string) {
	s, ok := r.status()
	if !ok {
		return nil, nil
	}
	for _, why := range s.Trouble {
		holding = append(holding, "the registrations as they are: "+why)
	}
	if s.Held > 0 {
		holding = append(holding, fmt.Sprintf("the registrations of %d instances that do not answer, because they are too many at once", s.Held))
	}
	if n := s.States[register.Unclaimed]; n > 0 {
		problems = append(problems, fmt.Sprintf("%d registered proxies live, and no control plane has their streams", n))
	}
	if s.Denied > 0 {
		problems = append(problems, fmt.Sprintf("Consul's token may not register %d proxies: see controlplane proxies", s.Denied))
	}
	return holding, problems
}
