package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// conditions has a path for each condition, so that one file has them all. The
// port is that of lake-1's application.
const conditions = `
        - {name: present, action: ALLOW, sources: [nexus], paths: [/present], headers: [{name: X-Team, present: true}]}
        - {name: absent, action: ALLOW, sources: [nexus], paths: [/absent], headers: [{name: X-Team, present: false}]}
        - {name: exact, action: ALLOW, sources: [nexus], paths: [/exact], headers: [{name: X-Team, exact: blue}]}
        - {name: prefix, action: ALLOW, sources: [nexus], paths: [/prefix], headers: [{name: X-Team, prefix: bl}]}
        - {name: suffix, action: ALLOW, sources: [nexus], paths: [/suffix], headers: [{name: X-Team, suffix: ue}]}
        - {name: regex, action: ALLOW, sources: [nexus], paths: [/regex], headers: [{name: X-Team, regex: "bl(ue|ack)"}]}
        - {name: one-of, action: ALLOW, sources: [nexus], paths: [/one-of], headers: [{name: X-Team, exact: red}, {name: X-Role, exact: admin}]}
        - {name: not-headers, action: ALLOW, sources: [nexus], paths: [/not-headers], not_headers: [{name: X-Team, exact: red}, {name: X-Role, present: true}]}
        - {name: not-paths, action: ALLOW, sources: [nexus], paths: ["/tree/*"], not_paths: ["/tree/secret/*", /tree/leaf]}
        - {name: not-methods, action: ALLOW, sources: [nexus], paths: [/not-methods], not_methods: [DELETE, PUT]}
        - {name: not-sources, action: ALLOW, not_sources: [reports], paths: [/not-sources]}
        - {name: not-principals, action: ALLOW, not_principals: ["spiffe://datapunk/re*"], paths: [/not-principals]}
        - {name: either, action: ALLOW, principals: ["spiffe://datapunk/rep*"], sources: [nexus], paths: [/either]}
        - {name: but, action: ALLOW, principals: ["spiffe://datapunk/*"], not_sources: [reports], paths: [/but]}
        - {name: ports, action: ALLOW, sources: [nexus], ports: [%[1]d], paths: [/ports]}
        - {name: not-ports, action: ALLOW, sources: [nexus], not_ports: [%[1]d], paths: [/not-ports]}
        - {name: destinations, action: ALLOW, sources: [nexus], destinations: [lake_service], paths: [/destinations]}
        - {name: not-destinations, action: ALLOW, sources: [nexus], not_destinations: [lake_service], paths: [/not-destinations]}
        - {name: everything, action: ALLOW, sources: [nexus], paths: ["/both/*"]}
        - {name: nothing, action: DENY, paths: ["/both/*"], methods: [POST], headers: [{name: X-Team, exact: red}]}
`

// TestEachConditionOfAPolicyDecidesAlone: of two calls that differ in what the
// condition is about, one passes.
func TestEachConditionOfAPolicyDecidesAlone(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: withPolicies(admitTheMesh)})
	one := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	two := m.Add(harness.Spec{Service: "lake_service", ID: "lake-2"})
	stream := m.Add(harness.Spec{Service: "stream_service", ID: "stream-1"})
	m.Ready()
	before := m.Proxies()
	m.Edit(withPolicies(fmt.Sprintf(conditions, one.AppPort)))
	for _, s := range m.Sidecars() {
		acknowledged(t, m, s.ID, "route", before[s.ID].Types["route"].Acknowledged)
	}
	ours := meshAuthority(t, m)
	callers := make(map[string]*tls.Config)
	for _, service := range []string{"nexus", "reports", "stream_service"} {
		callers[service] = ours.caller(ours.issue(t, []string{meshID(service)}))
	}
	team := func(name string) http.Header { return http.Header{"X-Team": {name}} }

	for _, c := range []struct {
		path   string
		from   string           // nexus
		to     *harness.Sidecar // lake-1
		method string
		header http.Header
		want   int
	}{
		{path: "/present", header: team("any"), want: 200},
		{path: "/present", header: team(""), want: 200},
		{path: "/present", want: 403},
		{path: "/absent", want: 200},
		{path: "/absent", header: team("any"), want: 403},
		{path: "/exact", header: team("blue"), want: 200},
		{path: "/exact", header: http.Header{"x-TEAM": {"blue"}}, want: 200},
		{path: "/exact", header: team("Blue"), want: 403},
		{path: "/exact", header: team("blue2"), want: 403},
		{path: "/exact", header: team("red, blue"), want: 403},
		{path: "/exact", header: http.Header{"X-Team": {"red", "blue"}}, want: 200},
		{path: "/exact", want: 403},
		{path: "/prefix", header: team("black"), want: 200},
		{path: "/prefix", header: team("a black"), want: 403},
		{path: "/prefix", want: 403},
		{path: "/suffix", header: team("blue"), want: 200},
		{path: "/suffix", header: team("blues"), want: 403},
		{path: "/regex", header: team("black"), want: 200},
		{path: "/regex", header: team("blacker"), want: 403},
		{path: "/regex", header: team("a blue"), want: 403},
		{path: "/regex", want: 403},
		{path: "/one-of", header: team("red"), want: 200},
		{path: "/one-of", header: http.Header{"X-Role": {"admin"}}, want: 200},
		{path: "/one-of", header: team("admin"), want: 403},
		{path: "/not-headers", want: 200},
		{path: "/not-headers", header: team("blue"), want: 200},
		{path: "/not-headers", header: team("red"), want: 403},
		{path: "/not-headers", header: http.Header{"X-Role": {"any"}}, want: 403},
		{path: "/not-headers", header: http.Header{"X-Team": {"blue", "red"}}, want: 403},
		{path: "/tree", want: 200},
		{path: "/tree/a/b", want: 200},
		{path: "/tree/leaf", want: 403},
		{path: "/tree/LEAF", want: 403},
		{path: "/tree/leaf/x", want: 200},
		{path: "/tree/secret", want: 403},
		{path: "/tree/Secret/x?y", want: 403},
		{path: "/tree/./secret/x", want: 403},
		{path: "/tree/secrets", want: 200},
		{path: "/not-methods", want: 200},
		{path: "/not-methods", method: "PATCH", want: 200},
		{path: "/not-methods", method: "DELETE", want: 403},
		{path: "/not-methods", method: "PUT", want: 403},
		{path: "/not-sources", want: 200},
		{path: "/not-sources", from: "stream_service", want: 200},
		{path: "/not-sources", from: "reports", want: 403},
		{path: "/not-principals", want: 200},
		{path: "/not-principals", from: "reports", want: 403},
		{path: "/either", want: 200},
		{path: "/either", from: "reports", want: 200},
		{path: "/either", from: "stream_service", want: 403},
		{path: "/but", from: "stream_service", want: 200},
		{path: "/but", from: "reports", want: 403},
		{path: "/ports", want: 200},
		{path: "/ports", to: two, want: 403},
		{path: "/not-ports", want: 403},
		{path: "/not-ports", to: two, want: 200},
		{path: "/destinations", want: 200},
		{path: "/destinations", to: stream, want: 403},
		{path: "/not-destinations", want: 403},
		{path: "/not-destinations", to: stream, want: 200},
		{path: "/both/x", method: "POST", want: 200},
		{path: "/both/x", header: team("red"), want: 200},
		{path: "/both/x", method: "POST", header: team("red"), want: 403},
		{path: "/BOTH/x", header: team("red"), want: 403}, // an ALLOW is not widened
		{path: "/", want: 403},
	} {
		from, to := c.from, c.to
		if from == "" {
			from = "nexus"
		}
		if to == nil {
			to = one
		}
		r, err := callTLS(t.Context(), to.Inbound(), callers[from], traffic.Request{Host: to.Service, Method: c.method, Path: c.path, Header: c.header})
		if err != nil || r.Status != c.want {
			t.Errorf("%s %s %v of %s to %s: %s, %v; want %d", c.method, c.path, c.header, from, to.ID, r, err, c.want)
		}
	}
}

// logged are the lines of an access log in JSON.
func logged(t *testing.T, path string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	noError(t, err)
	var lines []map[string]any
	for line := range strings.Lines(string(text)) {
		entry := make(map[string]any)
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("access log: %v: %s", err, line)
		}
		lines = append(lines, entry)
	}
	return lines
}

// TestWhatOnlyRecordsDecidesNothing: AUDIT and mode: shadow are in statistics
// and access logs, where they can be told from what decides.
func TestWhatOnlyRecordsDecidesNothing(t *testing.T) {
	logFile := filepath.Join(harness.Dir(t), "access.log")
	overlay := func(defaultAction string) string {
		return fmt.Sprintf(`mesh:
  load_balancing: {health_checks: null}
  telemetry:
    tracing: {enabled: false}
    access_logs: {path: %s, filter: {min_status: 599}}
  security:
    mtls: {trust_domain: datapunk}
    authorization:
      default_action: %s
      policies:
        - {name: audited, action: AUDIT, paths: ["/audited/*"]}
        - {name: would-deny, action: DENY, mode: shadow, paths: ["/open/*"]}
        - {name: would-allow, action: ALLOW, mode: shadow, sources: [reports]}
        - {name: allow-nexus, action: ALLOW, sources: [nexus]}
        - {name: deny-closed, action: DENY, paths: ["/closed/*"]}
`, logFile, defaultAction)
	}
	m := harness.Start(t, harness.Options{Overlay: overlay("DENY"), Allowed: []string{"caught ENVOY_SIGTERM"}})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	ours := meshAuthority(t, m)
	call := func(service, path string) int {
		t.Helper()
		r, err := callTLS(t.Context(), lake.Inbound(), ours.caller(ours.issue(t, []string{meshID(service)})), traffic.Request{Host: "lake_service", Path: path})
		noError(t, err)
		return r.Status
	}
	// moved calls and returns what the statistics of policies moved by.
	moved := func(service, path string, want int) map[string]uint64 {
		t.Helper()
		before := m.Stats("lake-1")
		if got := call(service, path); got != want {
			t.Errorf("%s to %s: %d, want %d", service, path, got, want)
		}
		out := make(map[string]uint64)
		for name, n := range m.Stats("lake-1").Prefix("http.inbound.rbac.") {
			if n != before[name] {
				out[strings.TrimPrefix(name, "http.inbound.rbac.")] = n - before[name]
			}
		}
		return out
	}
	expect := func(got map[string]uint64, names ...string) {
		t.Helper()
		for _, name := range names {
			if got[name] != 1 {
				t.Errorf("%s is not counted: %v", name, got)
			}
		}
	}

	t.Run("a DENY in shadow passes", func(t *testing.T) {
		got := moved("nexus", "/open/x", 200)
		expect(got, "deny.shadow_denied", "deny.policy.would-deny.shadow_denied", "allow.policy.allow-nexus.allowed")
	})
	t.Run("an ALLOW in shadow admits nobody", func(t *testing.T) {
		got := moved("reports", "/", 403)
		expect(got, "allow.denied", "allow.shadow_allowed", "allow.policy.would-allow.shadow_allowed")
	})
	t.Run("an AUDIT neither admits nor denies", func(t *testing.T) {
		moved("nexus", "/audited/x", 200)
		moved("reports", "/audited/x", 403)
	})
	t.Run("default_action ALLOW admits what no DENY matches", func(t *testing.T) {
		moved("stranger", "/", 403)
		version := m.Proxies()["lake-1"].Types["route"].Acknowledged
		m.Edit(overlay("ALLOW"))
		acknowledged(t, m, "lake-1", "route", version)
		moved("stranger", "/", 200)
		moved("stranger", "/closed/x", 403)
		moved("nexus", "/closed/x", 403)
	})
	t.Run("the access log has what was audited, whatever its filter", func(t *testing.T) {
		noError(t, lake.Envoy.Stop())
		lines := logged(t, logFile)
		if len(lines) != 2 {
			t.Fatalf("%d lines, want the two audited requests: %v", len(lines), lines)
		}
		for i, want := range []struct {
			peer   string
			status float64
		}{{meshID("nexus"), 200}, {meshID("reports"), 403}} {
			if l := lines[i]; l["audit"] != true || l["peer"] != want.peer || l["status"] != want.status {
				t.Errorf("audit %v, peer %v, status %v; want true, %s, %v", l["audit"], l["peer"], l["status"], want.peer, want.status)
			}
		}
		if got := lines[1]["shadow_allow"]; got != "would-allow" {
			t.Errorf("shadow_allow is %v, want would-allow", got)
		}
	})
}

// TestDeniedGRPCCallEndsWithStatus7.
func TestDeniedGRPCCallEndsWithStatus7(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: withPolicies(`
        - {name: unary, action: ALLOW, sources: [nexus], paths: [`+app.Unary+`]}
`) + "  services: {echo_service: {protocol: grpc}}\n"})
	echo := m.Add(harness.Spec{Service: "echo_service", ID: "echo-1"})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	ctx := harness.Context(t, 10*time.Second)
	conn := dialGRPC(t, m.Sidecar("nexus-1").Outbound(), "echo_service")
	if got, err := app.CallUnary(ctx, conn, "hello"); err != nil || got != "echo-1: hello" {
		t.Errorf("admitted: %q, %v", got, err)
	}
	before := echo.App.Count()
	_, err := app.CallQuiet(ctx, conn, 0)
	if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "RBAC: access denied: echo_service does not admit this call (MC3005)" {
		t.Errorf("denied: %v, want status 7 and why", err)
	}
	if n := echo.App.Count() - before; n != 0 {
		t.Errorf("%d denied calls reached the app", n)
	}
}

// TestConditionsOfHTTPAdmitNoTCPCallerAndDenyThemAll.
func TestConditionsOfHTTPAdmitNoTCPCallerAndDenyThemAll(t *testing.T) {
	m, ports, overlay := bankMesh(t, nexusToBank+reportsToBank)
	answers := func(caller string) bool {
		back, err := traffic.Echo(t.Context(), ports[caller], "how much?", len(banner))
		return err == nil && back == "how much?"
	}
	if !answers("nexus") || !answers("reports") {
		t.Fatal("an ALLOW without conditions of HTTP admits nobody: what follows shows nothing")
	}
	for _, c := range []struct {
		name, policies string
		nexus, reports bool
	}{
		{"an ALLOW with methods admits no TCP caller", reportsToBank + "        - {name: get, action: ALLOW, sources: [nexus], destinations: [bank], methods: [GET]}\n", false, true},
		{"one with paths neither", nexusToBank + "        - {name: all-paths, action: ALLOW, sources: [reports], destinations: [bank], not_paths: [/x]}\n", true, false},
		{"one with headers neither", reportsToBank + "        - {name: header, action: ALLOW, sources: [nexus], destinations: [bank], headers: [{name: x, present: false}]}\n", false, true},
		{"a DENY denies in spite of its paths", nexusToBank + reportsToBank + "        - {name: no-admin, action: DENY, sources: [reports], destinations: [bank], paths: [/admin], methods: [POST]}\n", true, false},
		{"one in shadow denies nobody", nexusToBank + reportsToBank + "        - {name: no-one, action: DENY, mode: shadow, destinations: [bank]}\n", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			version := m.Proxies()["bank-1"].Types["secret"].Acknowledged
			m.Edit(overlay(c.policies))
			acknowledged(t, m, "bank-1", "secret", version)
			if got := answers("nexus"); got != c.nexus {
				t.Errorf("nexus is admitted: %t", got)
			}
			if got := answers("reports"); got != c.reports {
				t.Errorf("reports is admitted: %t", got)
			}
		})
	}
}
