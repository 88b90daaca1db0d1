package features

import (
	"fmt"
	"strings"
	"testing"
)

// TestAnEditOfRoutesCostsAProxyWhatItSays, and not what the mesh has. What a
// proxy is sent for the first time grows with the mesh.
func TestAnEditOfRoutesCostsAProxyWhatItSays(t *testing.T) {
	const services = 1000
	var names strings.Builder
	for i := range services {
		fmt.Fprintf(&names, "    service-%d: {}\n", i)
	}
	bare := "mesh:\n  name: large\n  security: {mtls: {enabled: false}, authorization: {enabled: false}}\n  services:\n" + names.String()
	for _, world := range []struct {
		what, file string
		most       int // bytes
	}{
		{"a service without routes", bare, 900},
		{"a service with six", strings.Replace(bare+sixRoutes("service-77"), "service-77: {}", "service-77: {subsets: {v0: {version: \"0\"}, v1: {version: \"1\"}}, default_subset: v0}", 1), 4800},
	} {
		for protocol, connect := range map[string]func(*mesh, proxy) *client{"delta": (*mesh).delta, "sotw": (*mesh).sotw} {
			t.Run(world.what+", "+protocol, func(t *testing.T) {
				inMesh(t, world.file, "services: {}", func(m *mesh) {
					c := connect(m, sidecar("service-0"))
					defer c.stop()
					first := c.sent()
					m.edit(strings.Replace(world.file, "service-77: {", "service-77: {timeout: {request: 1m}, ", 1))
					if n := c.sent(); n == 0 || n > world.most || first < 100*n {
						t.Errorf("it was sent %d bytes for an edit of one service's routes, and %d at first", n, first)
					} else {
						t.Logf("%d bytes; at first %d", n, first)
					}
				})
			})
		}
	}
}

// sixRoutes are routes to a service that split their requests, and retries of what may
// be done twice.
func sixRoutes(service string) string {
	var b strings.Builder
	b.WriteString("  policies: {retry: {attempts: 3, timeout: 2s, conditions: [5xx, connect-failure, refused-stream], methods: [GET, HEAD, OPTIONS, PUT, DELETE]}}\n  routes:\n")
	for i := range 6 {
		fmt.Fprintf(&b, "    - {name: api-%d, service: %s, match: [{path: {prefix: /api/%[1]d}, headers: [{name: x-tenant, exact: t%[1]d}]}], split: [{subset: v0, weight: 95}, {subset: v1, weight: 5}], timeout: {request: 3s}}\n", i, service)
	}
	return b.String()
}
