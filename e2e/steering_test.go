package e2e

import (
	"net/http"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestNobodySteersAProxyByItsHeaders: an Envoy obeys x-envoy-* headers of requests that come
// from inside, as x-forwarded-for says, which anybody may write. No application has its
// calls retried by them, nor another timeout, whatever it says of where it is.
func TestNobodySteersAProxyByItsHeaders(t *testing.T) {
	t.Parallel()
	m := harness.Start(t, harness.Options{Mesh: "mesh:\n  name: datapunk\n  policies: {retry: {attempts: 0}}\n  security: {authorization: {default_action: ALLOW}}\n"})
	lake := m.Add(harness.Spec{Service: "lake", ID: "lake-1"})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	call := func(from string, steer http.Header) traffic.Response {
		t.Helper()
		if from != "" {
			steer.Set("X-Forwarded-For", from)
		}
		r, err := traffic.Raw(t.Context(), m.Sidecar(caller).Outbound(), traffic.Request{Host: "lake", Header: steer})
		noError(t, err)
		return r
	}
	for _, from := range []string{"", "127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd00::1", "1.2.3.4", "1.2.3.4, 10.0.0.1", "255.255.255.255"} {
		lake.App.Behave(app.Behavior{FailRate: 1})
		before := lake.App.Count()
		call(from, http.Header{"X-Envoy-Retry-On": {"5xx"}, "X-Envoy-Max-Retries": {"3"}})
		if n := lake.App.Count() - before; n != 1 {
			t.Errorf("from %q: the application was asked %d times", from, n)
		}
		lake.App.Behave(app.Behavior{Delay: 100 * time.Millisecond})
		if r := call(from, http.Header{"X-Envoy-Upstream-Rq-Timeout-Ms": {"1"}}); r.Status != http.StatusOK {
			t.Errorf("from %q with a timeout of its own: %v", from, r)
		}
	}
}
