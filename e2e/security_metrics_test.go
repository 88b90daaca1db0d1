package e2e

import (
	"fmt"
	"strings"
	"testing"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

func TestMetricsListenerShowsTheStatsOfOnePathAndNothingElseOfTheAdmin(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: quietMesh})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	get := func(t *testing.T, method, path string) traffic.Response {
		t.Helper()
		r, err := traffic.Raw(t.Context(), fmt.Sprintf("127.0.0.1:%d", nexus.MetricsPort), traffic.Request{Host: "nexus-1", Method: method, Path: path})
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		return r
	}
	isStats := func(r traffic.Response) bool {
		return r.Status == 200 && strings.Contains(r.Body, "\nenvoy_server_live{} 1\n") && strings.Contains(r.Body, "# TYPE envoy_cluster_upstream_rq counter")
	}
	get(t, "GET", "/metrics") // so that the counters of a scrape are there
	if r := get(t, "GET", "/metrics"); !isStats(r) {
		t.Fatalf("GET /metrics: %s", r)
	}

	t.Run("other paths and methods", func(t *testing.T) {
		for _, c := range [][2]string{
			{"GET", "/"},
			{"GET", "/metrics/"},
			{"GET", "/metrics/x"},
			{"GET", "/METRICS"},
			{"GET", "/metrics;x"},
			{"GET", "/stats"},
			{"GET", "/stats/prometheus"},
			{"GET", "/config_dump"},
			{"GET", "/certs"},
			{"GET", "/clusters"},
			{"GET", "/server_info"},
			{"GET", "/ready"},
			{"GET", "/memory"},
			{"POST", "/quitquitquit"},
			{"POST", "/healthcheck/fail"},
			{"POST", "/reset_counters"},
			{"POST", "/logging?level=trace"},
			{"POST", "/metrics"},
			{"HEAD", "/metrics"},
			{"PUT", "/metrics"},
			{"DELETE", "/metrics"},
			{"OPTIONS", "/metrics"},
		} {
			if r := get(t, c[0], c[1]); r.Status != 404 || r.Body != "" {
				t.Errorf("%s %s: %s; want 404 and nothing", c[0], c[1], r)
			}
		}
		for _, path := range []string{"/metrics%2f..%2fconfig_dump", "/metrics%5c..%5cconfig_dump"} {
			if r := get(t, "GET", path); r.Status != 400 {
				t.Errorf("GET %s: %s; want 400", path, r)
			}
		}
		for _, path := range []string{"/metrics/../config_dump", "/metrics/%2e%2e/stats", "//stats", `/metrics\..\certs`} {
			if r := get(t, "GET", path); r.Status != 404 {
				t.Errorf("GET %s: %s; want 404", path, r)
			}
		}
	})

	// What the admin understands of a query changes its answer: filter= costs as
	// much as its regular expression. A rewrite of the path keeps the query, and
	// appends it to its own, so a leading & would make it the admin's.
	t.Run("queries", func(t *testing.T) {
		for _, query := range []string{
			"", "x=1", "filter=^nothing$", "x&filter=^nothing$", "&filter=^nothing$", "x;filter=^nothing$",
			"x%26filter=^nothing$", "format=json", "&format=html", "&text_readouts", "&histogram_buckets=detailed", "?&filter=^nothing$",
		} {
			if r := get(t, "GET", "/metrics?"+query); r.Status != 404 || r.Body != "" {
				t.Errorf("GET /metrics?%s: %s; want 404 and nothing", query, r)
			}
		}
	})

	if !nexus.Envoy.Running() {
		t.Error("the Envoy was stopped through its metrics port")
	}
}
