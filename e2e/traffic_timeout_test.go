package e2e

import (
	"net/http"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestARoutesOwnTimeHoldsForEveryRequest, whether it is tried again or not,
// and where streams have a bound of their own: Envoy takes no notice of a route's
// timeout where there is a max_stream_duration.
func TestARoutesOwnTimeHoldsForEveryRequest(t *testing.T) {
	t.Parallel() // it waits, most of the time
	m := harness.Start(t, harness.Options{Overlay: noEjection + `
  policies:
    retry: {timeout: 400ms, attempts: 1, conditions: [5xx], methods: [GET]}
  routes:
    - {name: short, service: lake_service, match: [{path: {prefix: /short}}], timeout: {request: 500ms}}
    - {name: both, service: lake_service, match: [{path: {prefix: /both}}], timeout: {request: 500ms, max_stream_duration: 1m}}
    - {name: never, service: lake_service, match: [{path: {prefix: /never-again}}], timeout: {request: 500ms}, retry: {attempts: 0}}
`})
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	lake.App.Behave(app.Behavior{Hang: true})
	for _, path := range []string{"/short", "/both", "/never-again"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r := m.Do(caller, traffic.Request{Host: "lake_service", Method: method, Path: path})
			if r.Status != http.StatusGatewayTimeout || r.Took < 400*time.Millisecond || r.Took > 5*time.Second {
				t.Errorf("%s %s: %s, want 504 after 500ms", method, path, r)
			}
		}
	}
}
