package xds

import (
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/resource"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// connected returns a delta client that has everything of the world.
func connected(t *testing.T, w *world) deltaClient {
	t.Helper()
	c := openDelta(t, w.server)
	c.subscribe(cds)
	c.expect("cluster a@1 b@1")
	c.subscribe(eds, "a", "b")
	c.expect("endpoint a@1 b@1")
	c.subscribe(lds)
	c.expect("listener in@1 out@1")
	c.subscribe(rds, "out")
	c.expect("route out@1")
	c.silence("connected")
	return c
}

func TestOrder(t *testing.T) {
	protocolTest("additions go clusters, endpoints, listeners, routes", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(route("out", "2", "a"), listener("in", "2"), endpoint("a", "2"), cluster("a", "2")).publish()
		c.expect("cluster a@2")
		c.expect("endpoint a@2")
		c.expect("listener in@2")
		c.expect("route out@2")
		c.silence("done")
	})
	protocolTest("a route to a new cluster waits for the cluster's ACK", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(cluster("c", "1"), endpoint("c", "1"), route("out", "2", "a", "b", "c")).publish()
		m := c.peek("cluster c@1")
		c.silence("the route waits")
		c.subscribe(eds, "c")
		c.expect("endpoint c@1")
		c.silence("the route waits until the cluster is warm")
		c.ack(m)
		c.expect("route out@2")
	})
	protocolTest("a route to a changed cluster does not wait", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(cluster("a", "2"), route("out", "2", "a")).publish()
		c.peek("cluster a@2")
		c.expect("endpoint a@1")
		c.expect("route out@2")
	})
	protocolTest("a route waits not for ever", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(cluster("c", "1"), route("out", "2", "c")).publish()
		c.peek("cluster c@1")
		time.Sleep(15*time.Second - 1)
		c.silence("not yet")
		time.Sleep(time.Nanosecond)
		c.expect("route out@2")
	})
	protocolTest("a listener waits as a route does", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(cluster("c", "1"), listener("tcp", "1", cds.Ref("c"))).publish()
		m := c.peek("cluster c@1")
		c.silence("the listener waits")
		c.ack(m)
		c.expect("listener tcp@1")
	})
	protocolTest("a cluster is removed once the client has acknowledged the route that lacks it", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(route("out", "2", "a")).remove(cds, "b").remove(eds, "b").publish()
		m := c.peek("route out@2")
		c.silence("the cluster stays until the route is gone")
		c.ack(m)
		c.expect("cluster -b")
		c.expect("endpoint -b")
	})
	protocolTest("a cluster that no route named goes at once", t, func(t *testing.T, w *world) {
		w.put(cluster("c", "1")).publish()
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1 c@1")
		c.subscribe(lds)
		c.expect("listener in@1 out@1")
		w.remove(cds, "c").publish()
		c.expect("cluster -c")
	})
	protocolTest("a cluster stays while the route that lacks it is rejected", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(route("out", "2", "a")).remove(cds, "b").publish()
		c.nack(c.peek("route out@2"), "no")
		time.Sleep(time.Hour)
		c.silence("the client still routes to b")
		w.put(route("out", "3", "a")).publish()
		c.expect("route out@3")
		c.expect("cluster -b")
	})
	protocolTest("a cluster that comes back before it is removed is never removed", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(route("out", "2", "a")).remove(cds, "b").publish()
		m := c.peek("route out@2")
		w.put(cluster("b", "1")).publish()
		c.ack(m)
		c.silence("the client has b")
	})
	protocolTest("in SotW the removed cluster stays in the full state until then", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		c.subscribe(rds, "out")
		c.expect("route out")
		w.put(cluster("c", "1"), route("out", "2", "a", "c")).remove(cds, "b").publish()
		c.expect("cluster a@1 c@1 b@1")
		c.expect("route out")
		c.expect("cluster a@1 c@1")
	})
	protocolTest("after a changed cluster its assignment is sent again", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(cluster("b", "2")).publish()
		c.expect("cluster b@2")
		c.expect("endpoint b@1")
		c.silence("once")
	})
	protocolTest("a stream that was lost between CDS and EDS comes back with EDS first", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.reconnect(eds, []string{"a", "b"}, "a", "1", "b", "1")
		c.expect("endpoint a@1 b@1") // although the client says that it has them
	})
	protocolTest("changes gather while a response is unanswered", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a", "b")
		c.expect("endpoint a@1 b@1")
		w.put(endpoint("a", "2")).publish()
		m := c.peek("endpoint a@2")
		for _, version := range []string{"3", "4", "5"} {
			w.put(endpoint("a", version)).publish()
			synctest.Wait()
		}
		c.silence("a@2 is unanswered")
		c.ack(m)
		c.expect("endpoint a@5")
	})
	protocolTest("and wait for the answer no longer than half a second", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a")
		c.peek("endpoint a@1")
		w.put(endpoint("a", "2")).publish()
		c.silence("a@1 is unanswered")
		time.Sleep(500 * time.Millisecond)
		m := c.peek("endpoint a@2")
		c.ack(m) // stands for the answer to a@1 too
		w.put(endpoint("a", "3")).publish()
		c.expect("endpoint a@3")
	})
	protocolTest("a client that falls far behind compares whole sets", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a", "b")
		m := c.peek("endpoint a@1 b@1")
		for i := range 100 {
			w.put(endpoint("a", string(rune('A'+i)))).publish()
		}
		w.remove(eds, "b").publish()
		c.ack(m)
		c.expect("endpoint a@" + string(rune('A'+99)) + " -b")
	})
}

// endpointCluster is a cluster that has its endpoints from an assignment.
func endpointCluster(name, version string) *resource.Resource {
	return res(resource.Cluster, name, version, resource.Endpoint.Ref(name))
}

// An Envoy warms its first clusters before it asks for listeners. What it has is not
// replaced until then, whichever half or path a change takes; what is new comes, and
// assignments are answered.
func TestOrderWhileAnEnvoyInitializes(t *testing.T) {
	type client struct {
		subscribe func(t resource.Type, names ...string)
		expect    func(want string)
		silence   func(why string)
	}
	both := func(name string, f func(t *testing.T, w *world, c client, full func(delta, sotw string) string)) {
		for _, p := range []protocol{delta, sotw} {
			protocolTest(name+"/"+p.String(), t, func(t *testing.T, w *world) {
				if p == delta {
					c := openDelta(t, w.server)
					c.node = &corepb.Node{Id: "nexus-9", Cluster: "nexus", UserAgentName: "envoy"}
					f(t, w, client{c.subscribe, func(want string) { c.expect(want) }, c.silence}, func(d, _ string) string { return d })
					return
				}
				c := openSotw(t, w.server)
				c.node = &corepb.Node{Id: "nexus-9", Cluster: "nexus", UserAgentName: "envoy"}
				f(t, w, client{c.subscribe, func(want string) { c.expect(want) }, c.silence}, func(_, s string) string { return s })
			})
		}
	}
	both("a changed cluster waits until it asks for listeners", func(t *testing.T, w *world, c client, full func(string, string) string) {
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.put(cluster("a", "2"), endpoint("a", "2")).publish()
		c.silence("it waits")
		c.subscribe(eds, "a", "b")
		c.expect(full("endpoint a@2 b@1", "endpoint a b"))
		time.Sleep(10 * time.Second)
		c.silence("it waits still")
		c.subscribe(lds)
		c.expect(full("cluster a@2", "cluster a@2 b@1"))
		c.expect(full("endpoint a@2", "endpoint a"))
		c.expect("listener in@1 out@1")
	})
	both("a new cluster does not wait", func(t *testing.T, w *world, c client, full func(string, string) string) {
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.put(cluster("a", "2"), cluster("c", "1")).publish()
		c.expect(full("cluster c@1", "cluster a@1 b@1 c@1"))
		c.subscribe(lds)
		c.expect(full("cluster a@2", "cluster a@2 b@1 c@1"))
		c.expect("listener in@1 out@1")
	})
	both("a cluster that goes and comes back as it was is not sent", func(t *testing.T, w *world, c client, full func(string, string) string) {
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.put(cluster("a", "2")).publish()
		w.put(cluster("a", "1")).publish()
		c.subscribe(lds)
		c.expect("listener in@1 out@1")
	})
	both("what it has is given endpoints, none, though nothing has any more", func(t *testing.T, w *world, c client, full func(string, string) string) {
		w.put(endpointCluster("a", "1")).publish()
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.put(cluster("a", "2")).remove(eds, "a").publish()
		c.subscribe(eds, "a", "b", "c")
		c.expect(full("endpoint a@none b@1 -c", "endpoint a b"))
		c.silence("once")
		c.subscribe(lds)
		c.expect(full("cluster a@2", "cluster a@2 b@1"))
		if gone := full("endpoint -a", ""); gone != "" { // SotW has no word for it
			c.expect(gone)
		}
		c.expect("listener in@1 out@1")
		c.silence("done")
	})
	both("it is not waited for longer than a while", func(t *testing.T, w *world, c client, full func(string, string) string) {
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.put(cluster("a", "2")).publish()
		time.Sleep(20*time.Second - 1)
		c.silence("not yet")
		time.Sleep(time.Nanosecond)
		c.expect(full("cluster a@2", "cluster a@2 b@1"))
	})
	both("afterwards nothing waits", func(t *testing.T, w *world, c client, full func(string, string) string) {
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		c.subscribe(lds)
		c.expect("listener in@1 out@1")
		w.put(cluster("a", "2")).publish()
		c.expect(full("cluster a@2", "cluster a@2 b@1"))
	})
	protocolTest("nothing waits for one that asks for listeners first, or that is no Envoy", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.put(cluster("a", "2")).publish()
		c.expect("cluster a@2")
	})
}
