package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/policy"
)

// wellKnown are headers that a proxy has an interest in, with a value that a
// caller may send. What a sidecar does with them is its own affair, but a policy
// that names one has to hold or to be refused.
var wellKnown = map[string]string{
	"accept": "x", "accept-encoding": "gzip", "authorization": "Bearer x", "cache-control": "no-cache", "connection": "x-other", "content-encoding": "gzip",
	"content-type": "text/plain", "cookie": "a=b", "date": "x", "early-data": "1", "expect": "100-continue", "forwarded": "for=1.2.3.4",
	"from": "x", "grpc-timeout": "1S", "http2-settings": "AAMAAABkAAQAAP__", "if-match": "x", "keep-alive": "timeout=5", "max-forwards": "3", "origin": "http://x",
	"pragma": "x", "proxy-authenticate": "x", "proxy-authorization": "x", "proxy-connection": "keep-alive", "range": "bytes=0-1", "referer": "http://x",
	"server": "x", "te": "trailers", "trailer": "x-t", "transfer-encoding": "chunked", "upgrade": "h2c", "upgrade-insecure-requests": "1", "user-agent": "x", "via": "1.1 x",
	"b3": "0", "baggage": "a=b", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b", "x-b3-traceid": "463ac35c9f6413ad",
	"x-b3-sampled": "1", "x-b3-spanid": "a2fb4a1d1a96d312", "x-b3-parentspanid": "a2fb4a1d1a96d312", "x-b3-flags": "1", "x-client-trace-id": "x", "x-request-id": "x",
	"x-forwarded-client-cert": "x", "x-forwarded-for": "1.2.3.4", "x-forwarded-host": "x", "x-forwarded-port": "1", "x-forwarded-prefix": "/x", "x-forwarded-proto": "https",
	"x-real-ip": "1.2.3.4", "x-ot-span-context": "x", "x-tenant": "x", "x-ratelimit-limit": "1", "x-accel-buffering": "no",
	"x-envoy-attempt-count": "7", "x-envoy-decorator-operation": "x", "x-envoy-downstream-service-cluster": "x", "x-envoy-downstream-service-node": "x",
	"x-envoy-expected-rq-timeout-ms": "1", "x-envoy-external-address": "1.2.3.4", "x-envoy-force-trace": "1", "x-envoy-hedge-on-per-try-timeout": "1",
	"x-envoy-internal": "true", "x-envoy-ip-tags": "x", "x-envoy-is-timeout-retry": "1", "x-envoy-local-overloaded": "1", "x-envoy-max-retries": "1", "x-envoy-orig-path": "/x",
	"x-envoy-original-dst-host": "1.2.3.4:1", "x-envoy-original-host": "x", "x-envoy-original-method": "x", "x-envoy-original-path": "/x", "x-envoy-original-url": "/x",
	"x-envoy-overloaded": "1", "x-envoy-peer-metadata": "x", "x-envoy-retriable-header-names": "x", "x-envoy-retriable-status-codes": "500",
	"x-envoy-retry-grpc-on": "internal", "x-envoy-retry-on": "5xx", "x-envoy-upstream-alt-stat-name": "x", "x-envoy-upstream-rq-per-try-timeout-ms": "1000",
	"x-envoy-upstream-rq-timeout-alt-response": "1", "x-envoy-upstream-rq-timeout-ms": "9000", "x-envoy-upstream-stream-duration-ms": "9000", "x-envoy-anything": "x",
}

// TestADenyOnAHeaderHoldsOrIsRefused: a policy on what a sidecar takes out of a
// request, or writes itself, would load and never match. Each header that loads
// is sent by an application, and denied by its value; each without it passes.
func TestADenyOnAHeaderHoldsOrIsRefused(t *testing.T) {
	const file = `mesh:
  name: datapunk
  telemetry: {tracing: {endpoint: "127.0.0.1:4317", sampling_rate: 1}}
  policies: {retry: {attempts: 0}}
  security:
    authorization:
      default_action: ALLOW
      policies:
`
	deny := func(name, value string) string {
		return fmt.Sprintf("        - {name: %q, action: DENY, headers: [{name: %q, exact: %q}]}\n", name, name, value)
	}
	whole := file
	held := make(map[string]bool)
	for name, value := range wellKnown {
		one := file + deny(name, value)
		if _, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(one)}}, policy.Options{LookupEnv: os.LookupEnv}); err == nil {
			held[name], whole = true, whole+deny(name, value)
		} else if !strings.Contains(err.Error(), "mesh.yaml:9:") {
			t.Errorf("%s: %v: not at its line", name, err)
		}
	}
	m := harness.Start(t, harness.Options{Mesh: whole})
	m.Add(harness.Spec{Service: "lake", ID: "lake-1"})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	outbound := m.Sidecar(caller).Outbound()
	if r := m.Call(caller, "lake", "/"); r.Status != 200 {
		t.Fatalf("a request without any of the headers: %s", r)
	}
	if r, err := traffic.Raw(t.Context(), outbound, traffic.Request{Host: "lake", Header: http.Header{"X-Other": {"x"}}}); err != nil || r.Status != 200 {
		t.Fatalf("a request with another header: %s, %v", r, err)
	}
	for name := range held {
		header := http.Header{http.CanonicalHeaderKey(name): {wellKnown[name]}}
		r, err := traffic.Raw(t.Context(), outbound, traffic.Request{Host: "lake", Header: header})
		if err != nil || r.Status != 403 {
			t.Errorf("%s: %s: %v, want 403, or an error in the file", name, wellKnown[name], fmt.Sprint(r, err))
		}
	}
	for name := range wellKnown {
		if !held[name] {
			t.Logf("refused in the file: %s", name)
		}
	}
}

// TestADenyOnTheHostHoldsHoweverItIsWritten: hosts have no case, a port says
// nothing, and a service has two names. Whatever leads to lake is lake.
func TestADenyOnTheHostHoldsHoweverItIsWritten(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: `mesh:
  name: datapunk
  policies: {retry: {attempts: 0}}
  security:
    authorization:
      default_action: ALLOW
      policies:
        - {name: exact, action: DENY, paths: [/exact], headers: [{name: ":authority", exact: Lake}]}
        - {name: exact-mesh, action: DENY, paths: [/exact-mesh], headers: [{name: ":authority", exact: lake.mesh}]}
        - {name: prefix, action: DENY, paths: [/prefix], headers: [{name: ":Authority", prefix: LA}]}
        - {name: suffix, action: DENY, paths: [/suffix], headers: [{name: ":authority", suffix: ake}]}
        - {name: suffix-mesh, action: DENY, paths: [/suffix-mesh], headers: [{name: ":authority", suffix: ake.mesh}]}
        - {name: present, action: DENY, paths: [/present], headers: [{name: ":authority", present: true}]}
        - {name: others, action: DENY, paths: [/others], not_headers: [{name: ":authority", exact: lake}]}
`})
	m.Add(harness.Spec{Service: "lake", ID: "lake-1"})
	m.Add(harness.Spec{Service: "pond", ID: "pond-1"})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	call := func(host, path string, want int) {
		t.Helper()
		r, err := traffic.Raw(t.Context(), m.Sidecar(caller).Outbound(), traffic.Request{Host: host, Path: path})
		if err != nil || r.Status != want {
			t.Errorf("%s%s: %d, %v, want %d", host, path, r.Status, err, want)
		}
	}
	for _, host := range []string{"lake", "LAKE", "Lake:80", "lake:15001", "lake.mesh", "Lake.MESH", "lake.mesh:8080", "lake.", "lake.mesh.", "lake.:80"} {
		for _, path := range []string{"/exact", "/exact-mesh", "/prefix", "/suffix", "/suffix-mesh", "/present", "/exact?x", "//exact", "/./exact", "/EXACT"} {
			call(host, path, 403)
		}
		call(host, "/others", 200)
		call(host, "/", 200)
	}
	for _, path := range []string{"/exact", "/exact-mesh", "/prefix", "/suffix", "/suffix-mesh", "/"} {
		call("pond", path, 200)
	}
	call("pond", "/others", 403)
}
