package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
)

func TestPrometheusFindsAndScrapesEveryEnvoyAndTheControlPlane(t *testing.T) {
	const path, interval = "/mesh-metrics", "1s" // not the defaults of the file, of Prometheus or of ours
	m := seedMesh(t, harness.Options{Overlay: fmt.Sprintf("mesh: {telemetry: {metrics: {path: %s, scrape_interval: %s}}}", path, interval)})
	p := harness.StartPrometheus(t, fmt.Sprintf(`
scrape_configs:
  - job_name: envoy
    scrape_interval: 1h # the targets know better
    http_sd_configs: [{url: "http://%[1]s/sd/prometheus", refresh_interval: 1s}]
  - job_name: controlplane
    scrape_interval: 1s
    static_configs: [{targets: ["%[1]s"]}]
`, m.Plane.AdminAddress()))

	harness.Eventually(t, "every target is up", 20*time.Second, func() error {
		targets, err := p.Targets()
		if err != nil {
			return err
		}
		seen := make(map[string]harness.Target)
		for _, target := range targets {
			if target.Health != "up" {
				return fmt.Errorf("%s is %s: %s", target.ScrapeURL, target.Health, target.LastError)
			}
			seen[target.ScrapeURL] = target
		}
		if len(seen) != len(m.Sidecars())+1 {
			return fmt.Errorf("%d targets, want the sidecars and the control plane: %v", len(seen), targets)
		}
		if _, ok := seen["http://"+m.Plane.AdminAddress()+"/metrics"]; !ok {
			return fmt.Errorf("the control plane is not a target: %v", targets)
		}
		for _, s := range m.Sidecars() {
			target, ok := seen[fmt.Sprintf("http://127.0.0.1:%d%s", s.MetricsPort, path)]
			if !ok {
				return fmt.Errorf("%s is not a target at its port and path: %v", s.ID, targets)
			}
			if target.Interval != interval || target.Labels["node"] != s.ID || target.Labels["service"] != s.Service || target.Labels["job"] != "envoy" {
				return fmt.Errorf("the target of %s: %+v", s.ID, target)
			}
		}
		return nil
	})

	// up is Prometheus's own word for it, and a statistic of each Envoy shows
	// that it was that Envoy which answered.
	m.Call("nexus", "lake_service", "/")
	for _, c := range []struct {
		query   string
		samples int
	}{
		{"up == 1", len(m.Sidecars()) + 1},
		{"envoy_server_live{job='envoy'} == 1", len(m.Sidecars())},
		{"envoy_cluster_upstream_rq_total{node='nexus-1', envoy_cluster_name='lake_service'} > 0", 1},
		{"controlplane_xds_streams{protocol='delta'} == " + fmt.Sprint(len(m.Sidecars())), 1},
	} {
		harness.Eventually(t, c.query, 10*time.Second, func() error {
			samples, err := p.Query(c.query)
			if err == nil && len(samples) != c.samples {
				err = fmt.Errorf("%d samples, want %d: %v", len(samples), c.samples, samples)
			}
			return err
		})
	}
}

// TestScrapeTargetsSurviveARestart: neither while the control plane is away nor after it
// has come back is a sidecar no target, also one that died meanwhile; and a Prometheus
// that is new then is told of it too.
func TestScrapeTargetsSurviveARestart(t *testing.T) {
	m := seedMesh(t, harness.Options{Overlay: "mesh: {telemetry: {metrics: {scrape_interval: 1s}}}"})
	config := fmt.Sprintf(`
scrape_configs:
  - job_name: envoy
    http_sd_configs: [{url: "http://%s/sd/prometheus", refresh_interval: 1s}]
`, m.Plane.AdminAddress())
	p := harness.StartPrometheus(t, config)
	has := func(p *harness.Prometheus, query, want string) func() error {
		return func() error {
			samples, err := p.Query(query)
			if err == nil && (len(samples) != 1 || samples[0].Value != want) {
				err = fmt.Errorf("%s: %v, want %s", query, samples, want)
			}
			return err
		}
	}
	harness.Eventually(t, "every sidecar is up", 20*time.Second, has(p, "sum(up)", "4"))

	began := time.Now()
	dead := m.Sidecar("lake-2")
	m.Plane.Kill()
	dead.Envoy.Kill()
	time.Sleep(3 * time.Second) // Prometheus asks in vain
	if err := m.Plane.Start(); err != nil {
		t.Fatal(err)
	}
	answers := 0
	for time.Since(began) < 12*time.Second {
		if status, body, err := m.Plane.Get("/sd/prometheus"); err == nil && status == 200 {
			if answers++; strings.Count(body, `"targets"`) != 4 {
				t.Fatalf("%s after the kill there are other targets than the four: %s", time.Since(began), body)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	if answers < 20 {
		t.Errorf("it answered %d times", answers)
	}
	least := fmt.Sprintf("min_over_time(count(up)[%ds:1s])", int(time.Since(began).Seconds()))
	if err := has(p, least, "4")(); err != nil {
		t.Errorf("a gap: %v", err)
	}
	if err := has(p, "up{node='lake-2'}", "0")(); err != nil {
		t.Error(err)
	}
	second := harness.StartPrometheus(t, config)
	harness.Eventually(t, "a Prometheus that is new knows of the dead one", 20*time.Second, has(second, "up{node='lake-2'}", "0"))
}
