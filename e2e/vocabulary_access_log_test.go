package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestAccessLogsSayWhoCalledWhomAndWhatCameOfIt, in the format, at the path and
// with the filter of the file. An Envoy writes its logs each 10 s and when it
// ends, so each edit has a file of its own and all are read at the end.
func TestAccessLogsSayWhoCalledWhomAndWhatCameOfIt(t *testing.T) {
	dir := harness.Dir(t)
	overlay := func(logs string) string {
		return `mesh:
  load_balancing: {health_checks: null}
  telemetry:
    tracing: {enabled: false}
    access_logs: ` + logs + `
  security:
    mtls: {trust_domain: datapunk}
    authorization:
      policies:
        - {name: no-admin, action: DENY, paths: ["/admin/*"]}
` + admitTheMesh
	}
	m := harness.Start(t, harness.Options{Overlay: overlay("{}"), Allowed: []string{`^\{"`, "caught ENVOY_SIGTERM"}})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Ready()
	ours := meshAuthority(t, m)
	asNexus := ours.caller(ours.issue(t, []string{meshID("nexus")}))
	// Connections of their own: one that is kept belongs to the listener, and so
	// to the log, of before an edit.
	outbound := func(host, path string) {
		t.Helper()
		_, err := traffic.Raw(t.Context(), nexus.Outbound(), traffic.Request{Host: host, Path: path})
		noError(t, err)
	}
	inbound := func(path string) {
		t.Helper()
		_, err := callTLS(t.Context(), lake.Inbound(), asNexus, traffic.Request{Host: "lake_service", Path: path})
		noError(t, err)
	}
	edit := func(name, logs string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		m.Edit(overlay(strings.Replace(logs, "{", "{path: "+path+", ", 1)))
		for _, s := range []*harness.Sidecar{lake, nexus} {
			harness.Eventually(t, s.ID+" logs to "+name, 10*time.Second, func() error {
				dump, err := s.Envoy.ConfigDump()
				if err != nil {
					return err
				}
				for _, of := range []string{"inbound", "outbound"} {
					if l := dump.Get("listener", of); l == nil || !slices.Contains(l.Find("path"), any(path)) {
						return fmt.Errorf("not %s", of)
					}
				}
				p := m.Proxies()[s.ID]
				return p.Synced()
			})
		}
		return path
	}

	outbound("lake_service", "/to-stdout")

	asJSON := edit("json.log", "{format: json}")
	outbound("lake_service", "/ok?x=1")
	outbound("nobody", "/")
	inbound("/ok")
	inbound("/admin/x")

	asText := edit("text.log", "{format: text}")
	inbound("/admin/x")

	filtered := edit("filtered.log", "{filter: {min_status: 400}}")
	inbound("/ok")
	inbound("/admin/x")

	sampled := edit("sampled.log", "{filter: {min_status: 400, sample: 0.5}}")
	const requests = 200
	if r := (traffic.Load{Addr: nexus.Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: requests}).Do(t.Context()); r.Failed() > 0 {
		t.Fatal(r)
	}
	for range 5 {
		outbound("nobody", "/")
	}
	noError(t, lake.Envoy.Stop())
	noError(t, nexus.Envoy.Stop())

	t.Run("to the standard output", func(t *testing.T) {
		for _, line := range nexus.Envoy.Log.Lines() {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["path"] == "/to-stdout" {
				return
			}
		}
		t.Errorf("no line in %s", nexus.Envoy.Log)
	})
	t.Run("in JSON", func(t *testing.T) {
		lines := logged(t, asJSON)
		one := func(what string, fields map[string]any) map[string]any {
			t.Helper()
			for _, l := range lines {
				match := true
				for name, want := range fields {
					match = match && l[name] == want
				}
				if match {
					return l
				}
			}
			t.Errorf("%s: no line has %v in\n%v", what, fields, lines)
			return nil
		}
		call := one("a call", map[string]any{
			"method": "GET", "path": "/ok?x=1", "authority": "lake_service", "protocol": "HTTP/1.1", "status": 200.0, "flags": "-",
			"cluster": "lake_service", "route": "lake_service", "upstream": lake.Inbound(), "upstream_peer": meshID("lake_service"), "attempts": 1.0,
		})
		one("a call to nobody", map[string]any{"authority": "nobody", "status": 404.0, "flags": "NR", "details": "route_not_found", "upstream": nil})
		served := one("a call at the callee", map[string]any{
			"path": "/ok", "protocol": "HTTP/1.1", "status": 200.0, "peer": meshID("nexus"), "cluster": "local_app", "upstream": local(lake.AppPort), "upstream_peer": nil,
		})
		one("a denied call", map[string]any{"path": "/admin/x", "status": 403.0, "peer": meshID("nexus"), "details": "rbac_access_denied_matched_policy[no-admin]", "upstream": nil})
		for what, l := range map[string]map[string]any{"the caller": call, "the callee": served} {
			for _, name := range []string{"ts", "ms", "rx", "tx", "request_id"} {
				if l != nil && (l[name] == nil || l[name] == "") {
					t.Errorf("%s's line has no %s: %v", what, name, l)
				}
			}
		}
		if call != nil {
			if began, err := time.Parse(time.RFC3339Nano, fmt.Sprint(call["ts"])); err != nil || time.Since(began) > time.Minute {
				t.Errorf("ts is %v: %v", call["ts"], err)
			}
		}
	})
	t.Run("as text", func(t *testing.T) {
		text, err := os.ReadFile(asText)
		noError(t, err)
		if strings.Count(string(text), "\n") != 1 {
			t.Fatalf("not one line: %s", text)
		}
		for _, want := range []string{"method=GET path=/admin/x authority=lake_service protocol=HTTP/1.1 upgrade=- status=403 ", " flags=- details=rbac_access_denied_matched_policy[no-admin] ", " peer=" + meshID("nexus") + " "} {
			if !strings.Contains(string(text), want) {
				t.Errorf("no %q in %s", want, text)
			}
		}
	})
	t.Run("from a status on", func(t *testing.T) {
		if lines := logged(t, filtered); len(lines) != 1 || lines[0]["status"] != 403.0 {
			t.Errorf("%d lines, want that of the 403: %v", len(lines), lines)
		}
	})
	t.Run("and a sample of the rest", func(t *testing.T) {
		// The callee logs its part of each call too, from a kept connection that
		// may belong to the listener of before.
		ok, failed := 0, 0
		for _, l := range logged(t, sampled) {
			switch {
			case l["status"] == 404.0:
				failed++
			case l["cluster"] == "lake_service":
				ok++
			}
		}
		// Five standard deviations.
		if failed != 5 || ok < requests/2-36 || ok > requests/2+36 {
			t.Errorf("%d of %d requests of 200 and %d of 5 of 404 are logged", ok, requests, failed)
		}
	})
}
