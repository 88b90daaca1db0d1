package xds

import (
	"slices"
	"testing"

	"datapunk.dev/controlplane/resource"
)

// What a proxy is to have is what it would ask for: all clusters and listeners, and of
// the rest what they refer to.
func TestWhatAProxyIsServed(t *testing.T) {
	protocolTest("once its node is known", t, func(t *testing.T, w *world) {
		w.put(listener("in", "2", resource.Route.Ref("used")), route("used", "1", "lake"), cluster("lake", "1"), secret("nobody", "1")).publish()
		if _, ok := w.server.Served("nexus-1"); ok {
			t.Error("something is served to a proxy that is not there")
		}
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.ack(c.next())
		served, ok := w.server.Served("nexus-1")
		var names []string
		for _, s := range served {
			names = append(names, s.Type.String()+" "+s.Name)
			if s.Instead {
				t.Errorf("%s stands in for another one", s.Name)
			}
		}
		for _, want := range []string{"cluster lake", "listener in", "route used"} {
			if !slices.Contains(names, want) {
				t.Errorf("%s is not among %v", want, names)
			}
		}
		if !ok || slices.Contains(names, "secret nobody") {
			t.Errorf("served %v", names)
		}
	})
}
