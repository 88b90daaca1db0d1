package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// sentBy returns how many responses a control plane has sent, by type.
func sentBy(t *testing.T, p *run.ControlPlane) map[string]float64 {
	t.Helper()
	metrics, err := p.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(metrics, func(name string, n float64) bool {
		return n == 0 || !strings.HasPrefix(name, "controlplane_xds_pushes_total{")
	})
	return metrics
}

// showsTheFleet is nil if each replica shows all Envoys, in its API and to Prometheus.
func showsTheFleet(planes []*run.ControlPlane, fleet int) error {
	for _, p := range planes {
		proxies, err := p.Proxies()
		if err != nil {
			return err
		}
		if len(proxies) != fleet {
			return fmt.Errorf("%s shows %d proxies", p.Name, len(proxies))
		}
		status, body, err := p.Get("/sd/prometheus")
		if err != nil {
			return err
		}
		if n := strings.Count(body, `"targets"`); status != 200 || n != fleet {
			return fmt.Errorf("%s has Prometheus scrape %d proxies: %d", p.Name, n, status)
		}
	}
	return nil
}

// TestAFleetOutlivesItsReplicas: of three replicas one is killed, comes back, and then
// each is replaced in turn. No Envoy is sent anything that it has, no request fails, and
// in the end each replica has its share. Any replica shows the whole fleet all the time.
func TestAFleetOutlivesItsReplicas(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Flags: electing})
	planes := []*run.ControlPlane{m.Plane, another(t, m, "second"), another(t, m, "third")}
	addresses := planes[1].XDSAddress() + "," + planes[2].XDSAddress()
	const fleet = 6
	for n := range fleet / 2 {
		for _, service := range []string{"nexus", "lake_service"} {
			m.Add(harness.Spec{Service: service, ID: fmt.Sprintf("%s-%d", strings.TrimSuffix(service, "_service"), n+1), Flags: []string{"--xds-address", addresses}})
		}
	}
	shares := func() error {
		streams, err := envoysAt(planes)
		if err == nil && (slices.Max(streams) > fleet/3 || slices.Min(streams) < fleet/3) {
			err = fmt.Errorf("they have %d", streams)
		}
		return err
	}
	settled := func(what string) {
		t.Helper()
		began := time.Now()
		harness.Eventually(t, what+": each has its share", 2*time.Minute, shares)
		harness.Eventually(t, what+": they agree", 30*time.Second, func() error { return inStep(planes...) })
		t.Logf("%s: each has its share after %s", what, time.Since(began).Round(time.Second))
	}
	settled("at first")
	harness.Eventually(t, "nexus calls lake", 20*time.Second, func() error {
		r := traffic.Load{Addr: m.Sidecar("nexus-1").Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 30}.Do(t.Context())
		if r.Failed() > 0 || len(r.Instances) != fleet/2 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	load := m.Load("nexus-1", "lake_service", traffic.Load{Concurrency: 8, Rate: 100})
	// gone waits until all Envoys are with the others, who have sent them nothing.
	gone := func(what string, one int, end func(), within time.Duration) {
		t.Helper()
		others := slices.Delete(slices.Clone(planes), one, one+1)
		var before []map[string]float64
		for _, p := range others {
			before = append(before, sentBy(t, p))
		}
		began := time.Now()
		end()
		harness.Eventually(t, what+": its Envoys are with the others", within, func() error {
			streams, err := envoysAt(others)
			if err == nil && streams[0]+streams[1] != fleet {
				err = fmt.Errorf("they have %d", streams)
			}
			return err
		})
		t.Logf("%s: its Envoys are with the others after %s", what, time.Since(began).Round(100*time.Millisecond))
		// One that moves while they ask each other may be missing for a moment.
		harness.Eventually(t, what+": each shows the fleet", 15*time.Second, func() error { return showsTheFleet(others, fleet) })
		for i, p := range others {
			if after := sentBy(t, p); !maps.Equal(before[i], after) {
				t.Errorf("%s: %s has sent %v, and %v before", what, p.Name, after, before[i])
			}
		}
	}
	back := func(what string, one int) {
		t.Helper()
		if err := planes[one].Start(); err != nil {
			t.Fatal(err)
		}
		if err := planes[one].WaitReady(t.Context(), 30*time.Second); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, what+": each shows the fleet", 15*time.Second, func() error { return showsTheFleet(planes, fleet) })
		settled(what)
		if sent := sentBy(t, planes[one]); len(sent) > 0 {
			t.Errorf("%s: the new %s has sent %v", what, planes[one].Name, sent)
		}
	}

	gone("killed", 1, planes[1].Kill, 10*time.Second)
	back("it returns", 1)
	for i, p := range planes {
		gone("SIGTERM to "+p.Name, i, func() {
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		}, 10*time.Second)
		back("upgraded "+p.Name, i)
	}
	if r := load.Stop(); r.Failed() > 0 {
		t.Errorf("requests failed: %s", r)
	} else {
		t.Logf("%d requests, none failed", r.Requests)
	}
	if n := m.Stats("nexus-1")["cluster.lake_service.upstream_rq_retry"]; n > 0 {
		t.Errorf("%d requests were tried again", n)
	}
}
