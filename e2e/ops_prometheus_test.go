package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/internal/tool"
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

func TestPromtoolAcceptsOurMetrics(t *testing.T) {
	promtool, err := tool.Find("promtool")
	if err != nil {
		t.Fatal(err)
	}
	m := seedMesh(t, harness.Options{})
	m.Call("nexus", "lake_service", "/")
	status, text, err := m.Plane.Get("/metrics")
	if err != nil || status != 200 {
		t.Fatalf("%d, %v", status, err)
	}
	if !strings.Contains(text, "\ncontrolplane_") {
		t.Fatalf("no metric of ours in:\n%s", text)
	}
	check := exec.Command(promtool, "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
