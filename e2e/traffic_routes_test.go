package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// What only an Envoy can show of the matches of routes: a host in capitals is a route's
// like any other, with its faults, and a header may stand in several lines.
func TestWhatTheMatchesOfRoutesTake(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: besidesTheExamples, Overlay: `mesh:
  name: shop
  services: {lake_service: {}}
  routes:
    - {name: broken, service: lake_service, match: [{path: {exact: /broken}}], fault: {abort: {status: 418, percent: 100}}}
    - {name: one, service: lake_service, match: [{path: {exact: /one}, headers: [{name: x-a, exact: two}]}], direct_response: {status: 299}}
    - {name: none, service: lake_service, match: [{path: {exact: /none}, headers: [{name: x-a, exact: two, invert: true}]}], direct_response: {status: 298}}
`})
	a, err := app.Start("lake_service", "lake-1", 0)
	noError(t, err)
	t.Cleanup(a.Die)
	noError(t, m.Registry.Register(run.Instance{Service: "lake_service", ID: "lake-1", Port: a.Port()}))
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	for _, test := range []struct {
		host, path string
		header     http.Header
		want       int
	}{
		{"lake_service", "/broken", nil, 418},
		{"LAKE_Service", "/broken", nil, 418},
		{"LAKE_Service", "/fine", nil, 200},
		{"lake_service", "/one", http.Header{"X-A": {"two"}}, 299},
		{"lake_service", "/one", http.Header{"X-A": {"one", "two"}}, 299},
		{"lake_service", "/one", http.Header{"X-A": {"one"}}, 200},
		{"lake_service", "/none", http.Header{"X-A": {"one"}}, 298},
		{"lake_service", "/none", http.Header{"X-A": {"one", "two"}}, 200},
	} {
		t.Run(fmt.Sprint(test.host, test.path, test.header), func(t *testing.T) {
			harness.Eventually(t, "the route decides", 10*time.Second, func() error {
				if r := m.Do(caller, traffic.Request{Host: test.host, Path: test.path, Header: test.header}); r.Status != test.want {
					return fmt.Errorf("%s, want %d", r, test.want)
				}
				return nil
			})
		})
	}
}
