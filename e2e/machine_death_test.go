package e2e

import (
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// hostOf is what the caller's Envoy knows of a machine.
func hostOf(m *harness.Mesh, c *harness.Machine) (run.Host, error) {
	clusters, err := m.Sidecar(caller).Envoy.Clusters()
	if err != nil {
		return run.Host{}, err
	}
	for _, h := range clusters[c.Service].Hosts {
		if h.Address.Socket.Port == c.Ports["MESH_PORT"] {
			return h, nil
		}
	}
	return run.Host{}, fmt.Errorf("%s does not know %s", caller, c.ID)
}

// TestWhatAKilledMachineCosts: with the operators' own numbers but for how long
// an instance stays ejected (30 s), under 100 requests a second of which every
// second meets the victim. Registered by hand, the catalog calls it passing all along;
// registered by the control plane, its entry goes within what the operators' file says
// (30 s) and 5 s, if it does not come back: the Envoys have long seen it by then.
func TestWhatAKilledMachineCosts(t *testing.T) {
	for what, o := range map[string]harness.Options{
		"registered by hand":              {},
		"registered by the control plane": {Consul: true, Registers: true},
	} {
		t.Run(what, func(t *testing.T) { killedMachines(t, o) })
	}
}

func killedMachines(t *testing.T, o harness.Options) {
	signal := func(s syscall.Signal, also bool) func(t *testing.T, c *harness.Machine) error {
		return func(t *testing.T, c *harness.Machine) error {
			envoy := envoyOf(t, c)
			if err := syscall.Kill(c.Sidecar.Pid(), s); err != nil || !also {
				return err
			}
			return syscall.Kill(envoy, s)
		}
	}
	deaths := []struct {
		service, what string
		die           func(*testing.T, *harness.Machine) error
		failed        int  // requests at most
		back          bool // by itself
		gone          bool // from Consul in the end
	}{
		{"killed_sidecar", "the sidecar is killed, and its Envoy with it", signal(syscall.SIGKILL, false), 3, false, true},
		{"killed_envoy", "the Envoy is killed", func(t *testing.T, c *harness.Machine) error { return syscall.Kill(envoyOf(t, c), syscall.SIGKILL) }, 3, true, false},
		{"dead_app", "the app alone dies", func(_ *testing.T, c *harness.Machine) error { c.App.Die(); return nil }, 3, false, false},
		// All that are open end together: more than max_retries cannot be tried again.
		{"frozen", "sidecar and Envoy are frozen", signal(syscall.SIGSTOP, true), 8, false, false},
	}
	o.Overlay = "mesh: {circuit_breakers: {default: {outlier_detection: {base_ejection_time: 3s, interval: 1s}}}}"
	m := harness.Start(t, o)
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	machines := make(map[string][]*harness.Machine)
	for _, d := range deaths {
		for n := range 2 {
			id := d.service + "-" + strconv.Itoa(n+1)
			machines[d.service] = append(machines[d.service], m.Machine(harness.MachineSpec{Service: d.service, ID: id, Flags: []string{"--node-id", id}}))
		}
	}
	m.Ready()
	for _, d := range deaths {
		t.Run(d.service, func(t *testing.T) {
			victim := machines[d.service][1]
			inRotation(t, m, d.service, d.service+"-1", d.service+"-2")
			load := m.Load(caller, d.service, traffic.Load{Concurrency: 8, Rate: 100})
			began := time.Now()
			if err := d.die(t, victim); err != nil {
				t.Fatal(err)
			}
			harness.Eventually(t, d.what+": nobody meets it any more", 20*time.Second, func() error {
				h, err := hostOf(m, victim)
				if err == nil && !h.Health.FailedOutlierCheck && !d.back {
					err = fmt.Errorf("%+v", h.Health)
				}
				if d.back {
					if err = victim.Envoy.Ready(); err == nil {
						err = healthyAt(m, victim)
					}
				}
				return err
			})
			out := time.Since(began)
			harness.Eventually(t, "three seconds more", 20*time.Second, func() error {
				if n := load.Snapshot().Requests; n < 300 {
					return fmt.Errorf("%d requests", n)
				}
				return nil
			})
			failed := load.Take().Failed()
			if d.back { // and it takes calls again
				harness.Eventually(t, victim.ID+" serves again", 20*time.Second, func() error {
					r := load.Take()
					if failed += r.Failed(); r.Instances[victim.ID] == 0 {
						return fmt.Errorf("%s serves nothing", victim.ID)
					}
					return nil
				})
			}
			r := load.Stop()
			failed += r.Failed()
			t.Logf("%s: over after %v, %d failed", d.what, out.Round(10*time.Millisecond), failed)
			if failed > d.failed {
				t.Errorf("%s: %d failed, want at most %d: %s", d.what, failed, d.failed, r)
			}
			if o.Registers && d.gone {
				if got := statusInConsul(t, m, d.service, victim.ID); got != "passing" {
					t.Errorf("%s: at first Consul calls it %s", d.what, got)
				}
				harness.Eventually(t, victim.ID+" is gone from Consul", time.Until(began.Add(36*time.Second)), func() error {
					if got := statusInConsul(t, m, d.service, victim.ID); got != "not there" {
						return fmt.Errorf("it is %s", got)
					}
					return nil
				})
				t.Logf("%s: gone from Consul %v after it", d.what, time.Since(began).Round(100*time.Millisecond))
			} else if o.Registers {
				if got := statusInConsul(t, m, d.service, victim.ID); got != "passing" {
					t.Errorf("%s: Consul calls it %s", d.what, got)
				}
			}
			if d.service == "frozen" {
				for _, pid := range []int{envoyOf(t, victim), victim.Sidecar.Pid()} {
					if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}
