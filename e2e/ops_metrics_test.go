package e2e

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/internal/tool"
)

// metricLabels are the labels that metrics of ours may have: each has values that are
// known beforehand. The three of the mesh file are the operators' own, one at a time.
var metricLabels = []string{
	"type", "state", "protocol", "reason", "cause", "port", "outcome", "decision", "health", "phase",
	"name", "version", "revision", "le",
}

// TestMetricsAreWellFormedAndBounded: of a control plane with all that has metrics, the
// registry's linter has nothing to say, and no proxy or service is in a label.
func TestMetricsAreWellFormedAndBounded(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true, Registers: true, Flags: []string{"--leader=consul"}})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	m.Call(nexus.ID, "lake_service", "/")
	status, text, err := m.Plane.Get("/metrics")
	if err != nil || status != 200 {
		t.Fatalf("%d, %v", status, err)
	}
	promtool, err := tool.Find("promtool")
	if err != nil {
		t.Fatal(err)
	}
	check := exec.Command(promtool, "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}

	series := 0
	for name, family := range ourMetrics(t, text) {
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, one := range family.Metric {
			series++
			for _, l := range one.Label {
				if !slices.Contains(metricLabels, l.GetName()) {
					t.Errorf("%s has the label %s", name, l.GetName())
				}
				for _, who := range []string{lake.ID, nexus.ID, lake.Service, nexus.Service} {
					if strings.Contains(l.GetValue(), who) {
						t.Errorf("%s says who: %s=%q", name, l.GetName(), l.GetValue())
					}
				}
			}
		}
	}
	if series == 0 || series > 400 {
		t.Errorf("%d series, want some, and as many with any fleet", series)
	}
}

// TestHowLongAChangeTakesIsMeasuredToTheLastACK: of an instance that comes, from when
// Consul told of it, and of an edit from when it was written.
func TestHowLongAChangeTakesIsMeasuredToTheLastACK(t *testing.T) {
	m := harness.Start(t, harness.Options{Consul: true})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	of := func(metric string) (count uint64, sum float64) {
		_, text, err := m.Plane.Get("/metrics")
		if err != nil {
			t.Fatal(err)
		}
		h := ourMetrics(t, text)[metric].GetMetric()[0].GetHistogram()
		return h.GetSampleCount(), h.GetSampleSum()
	}
	for _, c := range []struct {
		metric string
		change func()
		least  float64 // seconds
	}{
		{"controlplane_catalog_convergence_seconds", func() { m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"}) }, 0},
		// A file has to rest before it is read.
		{"controlplane_mesh_convergence_seconds", func() { m.EditSeed("attempts: 3", "attempts: 2") }, 0.2},
	} {
		time.Sleep(2 * time.Second) // one change of the catalog a second is measured
		before, sumBefore := of(c.metric)
		c.change()
		harness.Eventually(t, c.metric+" has another one", 20*time.Second, func() error {
			if count, _ := of(c.metric); count == before {
				return fmt.Errorf("%d were measured", count)
			}
			return nil
		})
		if count, sum := of(c.metric); sum-sumBefore < c.least || sum-sumBefore > 10*float64(count-before) {
			t.Errorf("%s: %d changes took %.3f s, want at least %.1f", c.metric, count-before, sum-sumBefore, c.least)
		}
	}
}

// ourMetrics are the control plane's own in the text of /metrics, by name.
func ourMetrics(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(families, func(name string, _ *dto.MetricFamily) bool { return !strings.HasPrefix(name, "controlplane_") })
	if len(families) == 0 {
		t.Fatalf("no metric of ours in:\n%s", text)
	}
	return families
}
