package xds

import (
	"testing"

	"datapunk.dev/controlplane/resource"
)

// A listener has places for filters, waits for none of them, and asks for each on
// every stream.
func TestExtensionsAreServed(t *testing.T) {
	filling := func(version string) *resource.Resource {
		return res(resource.Extension, "place", version)
	}
	protocolTest("delta: that nobody fills a place is not said", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(resource.Extension, "place")
		c.silence("nothing is there")
		w.put(filling("1")).publish()
		c.expect("extension place@1")
		w.put(filling("2")).publish()
		c.expect("extension place@2")
	})
	protocolTest("delta: who has it is not sent it again", t, func(t *testing.T, w *world) {
		w.put(filling("1")).publish()
		c := openDelta(t, w.server)
		c.reconnect(resource.Extension, []string{"place", "vacant"}, "place", "1")
		c.silence("it has the filling")
	})
	protocolTest("state of the world", t, func(t *testing.T, w *world) {
		w.put(filling("1")).publish()
		c := openSotw(t, w.server)
		c.subscribe(resource.Extension, "place", "vacant")
		c.expect("extension place")
		w.put(filling("2")).publish()
		c.expect("extension place")
	})
}
