package xds

import (
	"testing"

	"datapunk.dev/controlplane/resource"
)

// An Envoy whose bootstrap has a runtime layer asks for that first, and for
// nothing else until it is answered.
func TestTheRuntimeLayerIsServed(t *testing.T) {
	layer := func(version string) *resource.Resource {
		return res(resource.Runtime, resource.RuntimeMesh, version)
	}
	typeTest("delta: at once, and again when it changes", t, func(t *testing.T, w *world) {
		w.put(layer("1")).publish()
		c := openDelta(t, w.server)
		c.subscribe(resource.Runtime, resource.RuntimeMesh)
		c.expect("runtime mesh@1")
		w.put(cluster("a", "2")).publish()
		c.silence("another type changed")
		w.put(layer("2")).publish()
		c.expect("runtime mesh@2")
	})
	typeTest("delta: who has it is not sent it again", t, func(t *testing.T, w *world) {
		w.put(layer("1")).publish()
		c := openDelta(t, w.server)
		c.reconnect(resource.Runtime, []string{resource.RuntimeMesh}, resource.RuntimeMesh, "1")
		c.silence("it has the layer")
	})
	typeTest("delta: that there is none is said at once", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(resource.Runtime, resource.RuntimeMesh)
		c.expect("runtime -mesh")
	})
	typeTest("state of the world", t, func(t *testing.T, w *world) {
		w.put(layer("1")).publish()
		c := openSotw(t, w.server)
		c.subscribe(resource.Runtime, resource.RuntimeMesh)
		c.expect("runtime mesh")
		w.put(layer("2")).publish()
		c.expect("runtime mesh")
	})
	protocolTest("a rejected one holds up no other type", t, func(t *testing.T, w *world) {
		w.put(layer("1")).publish()
		c := openDelta(t, w.server)
		c.subscribe(resource.Runtime, resource.RuntimeMesh)
		c.nack(c.peek("runtime mesh@1"), "no")
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
	})
}
