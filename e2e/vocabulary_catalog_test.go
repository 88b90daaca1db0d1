package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestWhatConsulSaysOfAnInstanceIsWhatItGets: weight, zone, and each state of
// health. The instances are bare applications, since mTLS is off.
func TestWhatConsulSaysOfAnInstanceIsWhatItGets(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Plaintext: true, Overlay: harness.MTLSOff + `  load_balancing: {policy: round_robin, health_checks: null}
  policies: {retry: {attempts: 0, timeout: 10s}}
`})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	apps := make(map[string]*app.App)
	for _, i := range []run.Instance{{ID: "lake-1", Weight: 3, Zone: "north"}, {ID: "lake-2", Weight: 1, Zone: "south"}} {
		a, err := app.Start("lake_service", i.ID, 0)
		noError(t, err)
		t.Cleanup(a.Die)
		apps[i.ID] = a
		i.Service, i.Port = "lake_service", a.Port()
		noError(t, m.Registry.Register(i))
	}
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1", "lake-2")
	load := traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 200}
	// endpointOf is what nexus has of an instance.
	endpointOf := func(id string) (run.Host, error) {
		clusters, err := m.Sidecar(caller).Envoy.Clusters()
		if err != nil {
			return run.Host{}, err
		}
		hosts := clusters["lake_service"].Hosts
		at := slices.IndexFunc(hosts, func(h run.Host) bool { return h.Address.Socket.Port == apps[id].Port() })
		if at < 0 {
			return run.Host{}, fmt.Errorf("nexus does not know %s", id)
		}
		return hosts[at], nil
	}
	becomes := func(t *testing.T, id string, h run.Health, want string, weight int) {
		t.Helper()
		m.SetHealth(id, h)
		harness.Eventually(t, id+" is "+want, 5*time.Second, func() error {
			got, err := endpointOf(id)
			if err == nil && (got.Health.EDS != want || got.Weight != weight) {
				err = fmt.Errorf("it is %s with weight %d, want weight %d", got.Health.EDS, got.Weight, weight)
			}
			return err
		})
	}

	t.Run("weight 3 gets three times what weight 1 gets", func(t *testing.T) {
		r := load.Do(t.Context())
		if got := share(r, "lake-1"); r.Failed() > 0 || got < 0.72 || got > 0.78 {
			t.Errorf("lake-1 served %.0f %%: %s", 100*got, r)
		}
	})
	t.Run("zone is the locality", func(t *testing.T) {
		zones := m.Resource(caller, "endpoint", "lake_service").Find("zone")
		if len(zones) != 2 || !slices.Contains(zones, any("north")) || !slices.Contains(zones, any("south")) {
			t.Errorf("zones %v", zones)
		}
	})
	t.Run("warning serves, with the weight that Consul has for it", func(t *testing.T) {
		becomes(t, "lake-1", run.Warning, "HEALTHY", 1)
		r := load.Do(t.Context())
		if got := share(r, "lake-1"); r.Failed() > 0 || got < 0.47 || got > 0.53 {
			t.Errorf("lake-1 served %.0f %%: %s", 100*got, r)
		}
		becomes(t, "lake-1", run.Passing, "HEALTHY", 3)
	})
	t.Run("maintenance drains", func(t *testing.T) {
		apps["lake-1"].Behave(app.Behavior{Hang: true})
		defer apps["lake-1"].Behave(app.Behavior{})
		apps["lake-1"].Forget()
		underWay := hold(t, m, "lake_service", 8)
		harness.Eventually(t, "requests are under way at lake-1", 5*time.Second, func() error {
			if apps["lake-1"].Count() == 0 {
				return errors.New("none")
			}
			return nil
		})
		m.SetHealth("lake-1", run.Maintenance)
		harness.Eventually(t, "lake-1 is no endpoint", 5*time.Second, func() error {
			if _, err := endpointOf("lake-1"); err == nil {
				return errors.New("it is one")
			}
			return nil
		})
		before := apps["lake-1"].Count()
		if r := load.Do(t.Context()); r.Failed() > 0 || r.Instances["lake-2"] != r.Requests {
			t.Errorf("new requests: %s", r)
		}
		if n := apps["lake-1"].Count(); n != before {
			t.Errorf("lake-1 got %d new requests", n-before)
		}
		apps["lake-1"].Behave(app.Behavior{})
		if got := underWay.answered(); got[200] != 8 {
			t.Errorf("those under way: %v", got)
		}
		becomes(t, "lake-1", run.Passing, "HEALTHY", 3)
		inRotation(t, m, "lake_service", "lake-1", "lake-2")
	})
	t.Run("critical stops, and stays known", func(t *testing.T) {
		becomes(t, "lake-2", run.Critical, "UNHEALTHY", 1)
		if r := load.Do(t.Context()); r.Failed() > 0 || r.Instances["lake-1"] != r.Requests {
			t.Errorf("%s", r)
		}
	})
}
