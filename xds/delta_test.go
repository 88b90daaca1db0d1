package xds

import (
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/resource"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

const (
	cds = resource.Cluster
	eds = resource.Endpoint
	sds = resource.Secret
	lds = resource.Listener
	rds = resource.Route
)

// protocolTest runs a test in a bubble with a published world, over ADS: once
// for each transport.
func protocolTest(name string, t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		for _, tr := range transports {
			if !tr.separate {
				tr.run(t, f)
			}
		}
	})
}

// typeTest is a protocolTest that looks at each type alone, so that it holds
// for separate streams too.
func typeTest(name string, t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		for _, tr := range transports {
			tr.run(t, f)
		}
	})
}

func (tr transport) run(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run(tr.name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			via = tr
			defer func() { via = transports[0] }()
			w := newWorld(testServer(),
				cluster("a", "1"), cluster("b", "1"),
				endpoint("a", "1"), endpoint("b", "1"),
				listener("in", "1"), listener("out", "1"),
				route("out", "1", "a", "b"))
			w.publish()
			f(t, w)
			synctest.Wait()
		})
	})
}

func TestDelta(t *testing.T) {
	typeTest("an initial request without names is a subscription to everything", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.put(cluster("b", "2")).publish()
		c.expect("cluster b@2")
		w.put(cluster("c", "1")).publish()
		c.expect("cluster c@1")
		w.remove(cds, "a").publish()
		c.expect("cluster -a")
		c.silence("all is acknowledged")
	})
	typeTest("only Listener and Cluster have the legacy wildcard", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds)
		c.silence("an assignment must be named")
	})
	typeTest("a request for * is a subscription to everything", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds, "*")
		c.expect("cluster a@1 b@1")
		w.put(cluster("c", "1")).publish()
		c.expect("cluster c@1")
		c.unsubscribe(cds, "*")
		w.put(cluster("c", "2")).publish()
		c.silence("it unsubscribed from *")
	})
	typeTest("a wildcard is answered even if there is nothing", t, func(t *testing.T, w *world) {
		w.remove(lds, "in", "out").publish()
		c := openDelta(t, w.server)
		c.subscribe(lds)
		c.expect("listener")
		c.silence("answered")
	})
	typeTest("a stream that has named a resource has no legacy wildcard", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds, "a")
		c.expect("cluster a@1")
		c.unsubscribe(cds, "a")
		c.request(cds)
		c.silence("an empty list is an empty list")
		w.put(cluster("a", "2")).publish()
		c.silence("it unsubscribed")
	})
	typeTest("a client gets what it named and only that", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "b")
		c.expect("endpoint b@1")
		w.put(endpoint("a", "2")).publish()
		c.silence("a was not asked for")
		c.subscribe(eds, "a")
		c.expect("endpoint a@2")
		w.put(endpoint("a", "3"), endpoint("b", "3")).publish()
		c.expect("endpoint a@3 b@3")
	})
	typeTest("a missing name is reported as removed, and sent when it appears", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a", "later")
		c.expect("endpoint a@1 -later")
		c.silence("once")
		w.put(endpoint("later", "1")).publish()
		c.expect("endpoint later@1")
		w.remove(eds, "later").publish()
		c.expect("endpoint -later")
	})
	typeTest("a name that is subscribed to again is sent again", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a", "b")
		c.expect("endpoint a@1 b@1")
		c.subscribe(eds, "a")
		c.expect("endpoint a@1")
		c.subscribe(eds, "none")
		c.expect("endpoint -none")
		c.subscribe(eds, "none")
		c.expect("endpoint -none")
	})
	typeTest("unsubscribe is not answered; resubscribe is", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a", "b")
		c.expect("endpoint a@1 b@1")
		c.unsubscribe(eds, "a")
		c.silence("no answer to an unsubscription")
		w.put(endpoint("a", "2")).publish()
		c.silence("a is not subscribed to")
		c.subscribe(eds, "a")
		c.expect("endpoint a@2")
	})
	typeTest("unsubscribing a name under a wildcard is answered", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds, "*", "a", "zz")
		c.expect("cluster a@1 b@1 -zz")
		c.unsubscribe(cds, "a")
		c.expect("cluster a@1")
		c.unsubscribe(cds, "zz")
		c.expect("cluster -zz")
		w.put(cluster("a", "2")).publish()
		c.expect("cluster a@2")
	})
	typeTest("a wildcard can be added to names", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds, "a")
		c.expect("cluster a@1")
		c.subscribe(cds, "*")
		c.expect("cluster b@1")
	})
	typeTest("the incremental example of the protocol's text", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds) // "Server interprets this as a subscription to "*"."
		c.expect("cluster a@1 b@1")
		// "continuing the existing subscription to "*" and adding a new subscription to "A""
		c.subscribe(cds, "a")
		c.expect("cluster a@1")
		w.put(cluster("b", "2")).publish()
		c.expect("cluster b@2")
		// "unsubscribing to "*" and continuing the existing subscription to "A""
		c.unsubscribe(cds, "*")
		w.put(cluster("a", "3"), cluster("b", "3")).publish()
		c.expect("cluster a@3")
		// "the client has now unsubscribed to all resources [...] it is not
		// interpreted as a wildcard subscription"
		c.unsubscribe(cds, "a")
		c.request(cds)
		w.put(cluster("a", "4")).publish()
		c.silence("nothing is subscribed to")
	})
	typeTest("a phantom unsubscription is ignored", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a")
		c.expect("endpoint a@1")
		c.unsubscribe(eds, "never", "*")
		c.silence("the server must cleanly process such a request")
		w.put(endpoint("a", "2")).publish()
		c.expect("endpoint a@2")
	})
	protocolTest("initial_resource_versions: what the client has is not sent, what is gone is removed", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.reconnect(cds, nil, "a", "1", "b", "0", "gone", "1")
		c.expect("cluster b@1 -gone")
		c.reconnect(eds, []string{"a", "b"}, "a", "1", "b", "1")
		c.expect("endpoint b@1") // b's cluster changed: it warms again
		c.reconnect(lds, nil, "in", "1", "out", "1")
		c.silence("the client has them")
		c.reconnect(rds, []string{"out"}, "out", "1")
		c.silence("the client has it")
		w.put(route("out", "2", "a")).publish()
		c.expect("route out@2")
	})
	typeTest("a fresh client of another replica is sent nothing that it has", t, func(t *testing.T, w *world) {
		other := newWorld(testServer(), cluster("b", "1"), cluster("a", "1"))
		other.publish()
		c := openDelta(t, other.server)
		c.reconnect(cds, nil, "a", "1", "b", "1")
		c.silence("it has them")
		other.put(cluster("a", "2")).publish()
		c.expect("cluster a@2")
	})
	typeTest("a client that comes with nothing is answered, be it with nothing", t, func(t *testing.T, w *world) {
		empty := newWorld(testServer())
		empty.publish()
		c := openDelta(t, empty.server)
		c.reconnect(cds, nil)
		c.expect("cluster") // Envoy starts when it is told that there are none
	})
	typeTest("a stale nonce makes a subscription no less valid", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a")
		c.peek("endpoint a@1")
		c.request(eds, func(r *discovery.DeltaDiscoveryRequest) {
			r.ResponseNonce = "of another age"
			r.ResourceNamesSubscribe = []string{"b"}
		})
		c.expect("endpoint b@1")
	})
	typeTest("an ACK may change the subscription too", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a")
		m := c.peek("endpoint a@1")
		c.request(eds, func(r *discovery.DeltaDiscoveryRequest) {
			r.ResponseNonce = m.Nonce
			r.ResourceNamesSubscribe = []string{"b"}
			r.ResourceNamesUnsubscribe = []string{"a"}
		})
		c.expect("endpoint b@1")
		w.put(endpoint("a", "2")).publish()
		c.silence("a is not subscribed to")
	})
	typeTest("nonces differ, and the version of a type moves with its content", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds)
		one := c.expect("cluster a@1 b@1")
		w.put(cluster("a", "2")).publish()
		two := c.expect("cluster a@2")
		w.put(cluster("a", "1")).publish()
		three := c.expect("cluster a@1")
		if one.Nonce == two.Nonce || two.Nonce == three.Nonce {
			t.Error("a nonce came twice")
		}
		if one.SystemVersionInfo == two.SystemVersionInfo || one.SystemVersionInfo != three.SystemVersionInfo {
			t.Errorf("versions %s, %s, %s: the third content is the first", one.SystemVersionInfo, two.SystemVersionInfo, three.SystemVersionInfo)
		}
	})
	typeTest("a request of an unknown type ends nothing", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.send(&discovery.DeltaDiscoveryRequest{Node: c.takeNode(), TypeUrl: "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"})
		c.silence("not served")
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
	})
	typeTest("a request without a type on ADS is an error", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.send(&discovery.DeltaDiscoveryRequest{Node: c.takeNode()})
		if got := status.Code(c.end()); got != codes.InvalidArgument {
			t.Errorf("code %v", got)
		}
	})
	typeTest("a separate service needs no type and serves only its own", t, func(t *testing.T, w *world) {
		c := deltaClient{open(t, w.server, delta, eds.URL())}
		c.send(&discovery.DeltaDiscoveryRequest{Node: c.takeNode(), ResourceNamesSubscribe: []string{"a"}})
		c.expect("endpoint a@1")
		c.subscribe(cds)
		if got := status.Code(c.end()); got != codes.InvalidArgument {
			t.Errorf("code %v", got)
		}
	})
}
