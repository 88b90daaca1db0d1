package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// held are requests that an app has and does not answer.
type held struct {
	t       *testing.T
	answers chan traffic.Response
	n       int
}

// hold sends n requests at once to a service.
func hold(t *testing.T, m *harness.Mesh, service string, n int) *held {
	t.Helper()
	h := &held{t: t, answers: make(chan traffic.Response, n), n: n}
	client := m.Client(caller)
	for range n {
		go func() {
			r, err := client.Get(t.Context(), service, "/held")
			if err != nil && t.Context().Err() == nil {
				t.Errorf("a held call to %s: %v", service, err)
			}
			h.answers <- r
		}()
	}
	return h
}

// answered collects the answers, once the app gives them.
func (h *held) answered() (statuses map[int]int) {
	h.t.Helper()
	statuses = make(map[int]int)
	for range h.n {
		select {
		case r := <-h.answers:
			statuses[r.Status]++
		case <-time.After(10 * time.Second):
			h.t.Fatalf("of %d held requests only these have an answer: %v", h.n, statuses)
		}
	}
	return statuses
}

// reached waits until an app has n requests.
func reached(t *testing.T, a *app.App, n int) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%d requests are at %s", n, a.Instance()), 5*time.Second, func() error {
		if got := a.Count(); got != n {
			return fmt.Errorf("%d are", got)
		}
		return nil
	})
}

// checkOverflow is true of a request above a limit: the caller's own sidecar
// answers, at once, says why, and does not try again.
func checkOverflow(t *testing.T, r traffic.Response) {
	t.Helper()
	if r.Status != http.StatusServiceUnavailable || r.Header.Get("x-envoy-overloaded") != "true" || r.Reply.Instance != "" || r.Took > time.Second {
		t.Errorf("above the limit: %s, x-envoy-overloaded %q; want a 503 at once, by the sidecar", r, r.Header.Get("x-envoy-overloaded"))
	}
}

// accessLog returns the flags that an access log has of a service's requests.
func accessLog(t *testing.T, path, service string) (flags map[string]int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flags = make(map[string]int)
	for line := range strings.Lines(string(text)) {
		var entry struct{ Authority, Flags string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("access log: %v: %s", err, line)
		}
		if entry.Authority == service {
			flags[entry.Flags]++
		}
	}
	return flags
}

// TestServiceAtItsCustomLimitOverflowsAndNotBelow: between sidecars, on HTTP/2,
// max_requests is the limit that bites.
func TestServiceAtItsCustomLimitOverflowsAndNotBelow(t *testing.T) {
	const limit = 5
	logFile := filepath.Join(harness.Dir(t), "access.log")
	m := harness.Start(t, harness.Options{Allowed: []string{"caught ENVOY_SIGTERM"}, Overlay: fmt.Sprintf(`mesh:
  circuit_breakers:
    custom:
      lake_service: {max_requests: %d}
  policies:
    retry: {timeout: 10s}
  telemetry:
    access_logs: {path: %s}
`, limit, logFile)})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	stream := m.Add(harness.Spec{Service: "stream_service", ID: "stream-1"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1")
	inRotation(t, m, "stream_service", "stream-1")
	overflows := func(service string) uint64 {
		return m.Stats(caller)["cluster."+service+".upstream_rq_active_overflow"]
	}
	for _, a := range []*app.App{lake.App, stream.App} {
		a.Forget()
		a.Behave(app.Behavior{Hang: true})
	}

	// As many as the limit are let through, all at once.
	atLimit := hold(t, m, "lake_service", limit)
	reached(t, lake.App, limit)
	if n := overflows("lake_service"); n != 0 {
		t.Errorf("%d overflows below the limit", n)
	}
	// One more is not, and the service without a limit of its own takes it.
	checkOverflow(t, m.Call(caller, "lake_service", "/one-more"))
	if n := overflows("lake_service"); n != 1 {
		t.Errorf("upstream_rq_active_overflow is %d after one request above the limit", n)
	}
	others := hold(t, m, "stream_service", limit+1)
	reached(t, stream.App, limit+1)
	if n := overflows("stream_service"); n != 0 {
		t.Errorf("the limit of lake_service stopped %d requests to stream_service", n)
	}

	for _, a := range []*app.App{lake.App, stream.App} {
		a.Behave(app.Behavior{})
	}
	if got := atLimit.answered(); got[http.StatusOK] != limit {
		t.Errorf("the requests at the limit: %v", got)
	}
	if got := others.answered(); got[http.StatusOK] != limit+1 {
		t.Errorf("the requests to stream_service: %v", got)
	}
	// The limit is of requests at one time.
	if r := m.Call(caller, "lake_service", "/after"); r.Status != http.StatusOK {
		t.Errorf("after the others are answered: %s", r)
	}
	if lake.App.Count() != limit+1 {
		t.Errorf("%d requests reached the app, want %d and the one after", lake.App.Count(), limit)
	}
	// Envoy writes its access log each 10 s, and when it ends.
	if err := m.Sidecar(caller).Envoy.Stop(); err != nil {
		t.Fatal(err)
	}
	if flags := accessLog(t, logFile, "lake_service"); flags["UO"] != 1 {
		t.Errorf("the access log has the flags %v, want UO for one request", flags)
	}
}

// TestServiceAtItsCustomConnectionLimitsOverflows: on HTTP/1 each request has a
// connection to itself, so max_connections and max_pending_requests bite.
func TestServiceAtItsCustomConnectionLimitsOverflows(t *testing.T) {
	m := harness.Start(t, harness.Options{Plaintext: true, Overlay: harness.MTLSOff + `
  circuit_breakers:
    custom:
      lake_service: {max_connections: 2, max_pending_requests: 3}
  policies:
    retry: {timeout: 10s}
`})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	if r := m.Call(caller, "lake_service", "/"); r.Status != http.StatusOK {
		t.Fatalf("before all: %s", r)
	}
	stat := func(name string) uint64 { return m.Stats(caller)["cluster.lake_service."+name] }
	lake.App.Forget()
	lake.App.Behave(app.Behavior{Hang: true})

	// A request whose connection is being made counts as pending too, so the
	// first two come first.
	open := hold(t, m, "lake_service", 2)
	reached(t, lake.App, 2)
	waiting := hold(t, m, "lake_service", 3)
	harness.Eventually(t, "two requests are open and three wait", 5*time.Second, func() error {
		if active, pending := stat("upstream_cx_active"), stat("upstream_rq_pending_active"); active != 2 || pending != 3 {
			return fmt.Errorf("%d connections, %d pending", active, pending)
		}
		return nil
	})
	if n := stat("upstream_rq_pending_overflow"); n != 0 {
		t.Errorf("%d overflows below the limit", n)
	}
	checkOverflow(t, m.Call(caller, "lake_service", "/one-more"))
	if n := stat("upstream_rq_pending_overflow"); n != 1 {
		t.Errorf("upstream_rq_pending_overflow is %d after one request above the limit", n)
	}
	if n := lake.App.Count(); n != 2 {
		t.Errorf("%d requests are at the app over 2 connections", n)
	}
	lake.App.Behave(app.Behavior{})
	if got := open.answered(); got[http.StatusOK] != 2 {
		t.Errorf("the requests with a connection: %v", got)
	}
	if got := waiting.answered(); got[http.StatusOK] != 3 {
		t.Errorf("the requests that waited: %v", got)
	}
}

// TestServiceAtItsCustomRetryLimitGivesUpRetries: max_retries counts retries at
// one time. What is above it gets the app's own answer.
func TestServiceAtItsCustomRetryLimitGivesUpRetries(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: `mesh:
  circuit_breakers:
    default: {outlier_detection: {consecutive_5xx: 0, consecutive_gateway_failure: 0}}
    custom:
      lake_service: {max_retries: 2}
  policies:
    retry: {attempts: 1, timeout: 10s}
`})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	inRotation(t, m, "lake_service", "lake-1")
	lake.App.Forget()

	// Each of five requests is answered 503 while the others wait for that
	// too: two may be tried again, and three not.
	lake.App.Behave(app.Behavior{FailRate: 1, Delay: 500 * time.Millisecond})
	if got := hold(t, m, "lake_service", 5).answered(); got[http.StatusServiceUnavailable] != 5 {
		t.Errorf("answers %v, want five 503", got)
	}
	stats := m.Stats(caller)
	if retries, given := stats["cluster.lake_service.upstream_rq_retry"], stats["cluster.lake_service.upstream_rq_retry_overflow"]; retries != 2 || given != 3 {
		t.Errorf("%d retries and %d given up, want 2 and 3", retries, given)
	}
	if n := lake.App.Count(); n != 7 {
		t.Errorf("the app got %d requests, want five and two retries", n)
	}
}
