package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

// dashboard is what the test reads of one of Grafana's.
type dashboard struct {
	Panels []struct {
		Title   string
		Type    string
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct {
			Name  string
			Query any
		}
	}
	Annotations struct {
		List []struct{ Name, Expr string }
	}
}

// TestEachQueryOfTheDashboardFindsData: of a Prometheus that scrapes a mesh in which
// calls are made, instances come and go, and the mesh file is edited. What has no value
// there, 0/0 say, is no data.
func TestEachQueryOfTheDashboardFindsData(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(tool.Root(), "deploy", "grafana", "controlplane.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}

	m := seedMesh(t, harness.Options{Consul: true})
	p := harness.StartPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: envoy
    http_sd_configs: [{url: "http://%[1]s/sd/prometheus", refresh_interval: 1s}]
    relabel_configs: [{target_label: __scrape_interval__, replacement: 1s}, {target_label: __scrape_timeout__, replacement: 1s}]
  - job_name: controlplane
    static_configs: [{targets: ["%[1]s"]}]
`, m.Plane.AdminAddress()))
	m.Sidecar("lake-1").App.Behave(app.Behavior{FailRate: 1}) // until it is taken out
	m.Sidecar("stream-1").App.Behave(app.Behavior{FailRate: 0.3})
	load := m.Load("nexus-1", "lake_service", traffic.Load{Rate: 20})
	defer load.Stop()
	var last time.Time
	attempts := 3
	churn := func() {
		if time.Since(last) < 700*time.Millisecond {
			return
		}
		last = time.Now()
		m.SetHealth("lake-2", map[int]run.Health{2: run.Critical, 3: run.Passing}[attempts])
		m.Call("nexus-1", "stream_service", "/")
		next := 5 - attempts
		m.EditSeed(fmt.Sprintf("attempts: %d", attempts), fmt.Sprintf("attempts: %d", next))
		attempts = next
	}

	variables := strings.NewReplacer("$__rate_interval", "10s", "$job", "controlplane", "$envoys", "envoy")
	queries := 0
	for _, panel := range d.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("%s asks for nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			queries++
			query := variables.Replace(target.Expr)
			if strings.Contains(query, "$") {
				t.Errorf("%s: nobody says what a variable is in %s", panel.Title, query)
				continue
			}
			harness.Eventually(t, panel.Title+": "+query, 30*time.Second, func() error {
				churn()
				return hasData(p, query)
			})
		}
	}
	if queries < 50 {
		t.Errorf("%d queries", queries)
	}
	for _, v := range d.Templating.List {
		if of, ok := v.Query.(map[string]any); ok {
			name, _, _ := strings.Cut(strings.TrimPrefix(fmt.Sprint(of["query"]), "label_values("), ",")
			if err := hasData(p, name); err != nil {
				t.Errorf("the values of %s: %v", v.Name, err)
			}
		}
	}
	for _, a := range d.Annotations.List {
		query := variables.Replace(a.Expr)
		harness.Eventually(t, a.Name+": "+query, 20*time.Second, func() error {
			churn()
			return hasData(p, query)
		})
	}
}

// hasData says why a query has no samples with a value.
func hasData(p *harness.Prometheus, query string) error {
	samples, err := p.Query(query)
	if err != nil {
		return err
	}
	for _, s := range samples {
		if s.Value != "NaN" {
			return nil
		}
	}
	return fmt.Errorf("no data: %v", samples)
}
