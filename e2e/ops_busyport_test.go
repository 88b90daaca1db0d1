package e2e

import (
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
)

// TestSidecarsWithABusyPortTakeTheListenerFromNobody: what holds a port on one
// machine is no fault of the listener. The sidecars ask for the same port, so
// that all of them are served the very same content; something holds it while
// three start and is gone when the fourth does.
func TestSidecarsWithABusyPortTakeTheListenerFromNobody(t *testing.T) {
	for _, tt := range []struct {
		protocol  string
		bootstrap func(*harness.Sidecar, string) string
	}{{"delta", nil}, {"sotw", speaksSotW}} {
		t.Run(tt.protocol, func(t *testing.T) {
			m := harness.Start(t, harness.Options{Allowed: []string{"cannot bind .*Address already in use", "Ignoring unwatched type URL .*ScopedRouteConfiguration"}})
			port := harness.Port(t)
			taken, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = taken.Close() }()
			add := func(id string) *harness.Sidecar {
				s := m.Add(harness.Spec{
					Service: "nexus", ID: id, Bootstrap: tt.bootstrap, Flags: []string{"--outbound-port", strconv.Itoa(port)},
				})
				s.OutboundPort = port
				return s
			}
			busy := []string{"busy-1", "busy-2", "busy-3"}
			for _, id := range busy {
				add(id)
			}
			alone := func() error {
				proxies, err := m.Plane.Proxies()
				if err != nil {
					return err
				}
				for _, id := range busy {
					ts := proxies[id].Types["listener"]
					if ts.State != "REJECTED" || ts.LastNack == nil || ts.LastNack.Resource != "outbound" || ts.LastNack.Cause != "address_in_use" {
						return fmt.Errorf("%s: %+v %+v", id, ts, ts.LastNack)
					}
				}
				if n := m.Metrics()["controlplane_xds_quarantined"]; n != 0 {
					return fmt.Errorf("%v contents in quarantine", n)
				}
				return nil
			}
			harness.Eventually(t, "each of the three is shown with its own cause", 20*time.Second, alone)
			if n := m.Metrics()[`controlplane_xds_own_nacks_total{cause="address_in_use"}`]; n < 3 {
				t.Errorf("%v refusals are counted as those of their own machine", n)
			}
			_ = taken.Close()
			healthy := add("healthy")
			m.Add(harness.Spec{Service: "lake_service", ID: "lake-1", Bootstrap: tt.bootstrap})
			works := func() error {
				proxies, err := m.Plane.Proxies()
				if err != nil {
					return err
				}
				if p, ok := proxies[healthy.ID]; !ok {
					return fmt.Errorf("%s is not here", healthy.ID)
				} else if err := p.Synced(); err != nil {
					return err
				}
				if m.Dump(healthy.ID).Get("listener", "outbound") == nil {
					return fmt.Errorf("%s has no listener outbound", healthy.ID)
				}
				r, err := m.Client(healthy.ID).Get(t.Context(), "lake_service", "/")
				if err != nil {
					return fmt.Errorf("a call: %w", err)
				}
				if r.Status != 200 {
					return fmt.Errorf("a call: %d", r.Status)
				}
				return nil
			}
			harness.Eventually(t, "the fourth has the listener, and calls", 20*time.Second, works)

			// A control plane that starts again knows nothing of what was proven.
			for range 3 {
				m.Plane.Kill()
				m.StartPlane()
				if tt.protocol == "delta" {
					harness.Eventually(t, "the three are tried again, and are alone again", 30*time.Second, alone)
				}
				harness.Eventually(t, "the fourth works on", 30*time.Second, works)
				if status, ready, err := m.Plane.Readyz(); err != nil || status != 200 || len(ready.Holding) > 0 {
					t.Errorf("/readyz: %d %v %v", status, ready, err)
				}
			}
		})
	}
}
