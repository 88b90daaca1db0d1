package e2e

import (
	"fmt"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// Before, all calls of lake go to one subset; after, to another that is new, and to a
// service that the caller had no cluster of.
const (
	orderBefore = `mesh:
  name: order
  security: {mtls: {mode: permissive}, authorization: {enabled: false}}
  services:
    nexus: {upstreams: [lake]}
    lake: {subsets: {stable: {}}, default_subset: stable}
`
	orderAfter = `mesh:
  name: order
  security: {mtls: {mode: permissive}, authorization: {enabled: false}}
  services:
    nexus: {upstreams: [lake]}
    lake: {subsets: {stable: {}, canary: {}}, default_subset: stable}
  routes:
    - {name: onwards, service: lake, split: [{subset: canary, weight: 50}, {service: dome, weight: 50}]}
`
)

// TestChangesOfSeveralTypesArriveInOrder: a new subset, its endpoints and the routes to it
// come, and go, without a failed request, whichever variant of the protocol is spoken.
// Nothing is retried.
func TestChangesOfSeveralTypesArriveInOrder(t *testing.T) {
	const noRetries = "  policies: {retry: {attempts: 0}}\n"
	m := harness.Start(t, harness.Options{Mesh: orderBefore + noRetries})
	bare(t, m, "lake", "stable", "stable")
	bare(t, m, "lake", "canary", "canary")
	bare(t, m, "dome", "dome")
	callers := map[string]func(*harness.Sidecar, string) string{"nexus-delta": nil, "nexus-sotw": speaksSotW}
	loads := make(map[string]*traffic.Running)
	for id, bootstrap := range callers {
		m.Add(harness.Spec{Service: "nexus", ID: id, Bootstrap: bootstrap, Unregistered: true})
	}
	m.Ready()
	lake := traffic.Request{Host: "lake"}
	for id := range callers {
		servedFrom(t, m, id, lake, "stable")
		loads[id] = m.Load(id, "lake", traffic.Load{Concurrency: 4, Rate: 200})
	}
	for range 5 {
		m.Edit(orderAfter + noRetries)
		for id := range callers {
			servedFrom(t, m, id, lake, "canary", "dome")
		}
		m.Edit(orderBefore + noRetries)
		for id := range callers {
			servedFrom(t, m, id, lake, "stable")
		}
	}
	for id, load := range loads {
		if r := load.Stop(); r.Failed() > 0 || r.Requests < 200 || r.Instances["canary"] == 0 || r.Instances["dome"] == 0 {
			t.Errorf("%s: %s", id, r)
		}
		harness.Eventually(t, "what nothing leads to is gone", 20*time.Second, func() error {
			for _, name := range []string{"lake|canary", "dome"} {
				if m.Dump(id).Get("cluster", name) != nil {
					return fmt.Errorf("%s has cluster %s", id, name)
				}
			}
			return nil
		})
	}
}
