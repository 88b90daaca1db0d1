package run_test

import (
	"testing"

	"datapunk.dev/controlplane/e2e/run"
)

func TestParseMetricsKeepsLabels(t *testing.T) {
	m, err := run.ParseMetrics([]byte("a_total{x=\"1\"} 2\nb 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	if m[`a_total{x="1"}`] != 2 || m["b"] != 3 {
		t.Errorf("got %v", m)
	}
}
