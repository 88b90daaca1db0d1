package xds

import (
	"testing"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"datapunk.dev/controlplane/resource"
)

func TestSotw(t *testing.T) {
	typeTest("an initial request without names is a subscription to everything", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		c.silence("an ACK is not answered")
		w.put(cluster("b", "2")).publish()
		c.expect("cluster a@1 b@2") // full state: what is not in it is deleted
		w.remove(cds, "a").publish()
		c.expect("cluster b@2")
	})
	typeTest("a request for * is a subscription to everything", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(lds, "*")
		c.expect("listener in@1 out@1")
		c.subscribe(lds, "*", "none")
		c.expect("listener in@1 out@1") // tells that there is none
	})
	typeTest("after any name an empty list is an unsubscription from all", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(cds, "a")
		c.expect("cluster a@1")
		c.subscribe(cds)
		c.silence("nothing is subscribed to")
		w.put(cluster("a", "2")).publish()
		c.silence("nothing is subscribed to")
		c.subscribe(cds, "a")
		c.expect("cluster a@2")
	})
	typeTest("the SotW example of the protocol's text", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(cds) // "Server interprets this as a subscription to "*"."
		c.expect("cluster a@1 b@1")
		// "continuing the existing subscription to "*" and adding a new subscription to "A""
		c.subscribe(cds, "*", "a")
		c.expect("cluster a@1 b@1")
		// "unsubscribing to "*" and continuing the existing subscription to "A""
		c.subscribe(cds, "a")
		c.silence("the client has it")
		w.put(cluster("a", "2"), cluster("b", "2")).publish()
		c.expect("cluster a@2")
		c.subscribe(cds) // "the client has now unsubscribed to all resources"
		w.put(cluster("a", "3")).publish()
		c.silence("nothing is subscribed to")
	})
	typeTest("gRPC has no legacy wildcard", t, func(t *testing.T, w *world) {
		w.profile.Kind = resource.Proxyless
		w.publish()
		c := openSotw(t, w.server)
		c.node = &corepb.Node{Id: "app-1", Cluster: "nexus", UserAgentName: "gRPC Go"}
		c.subscribe(cds)
		c.silence("it named nothing")
		c.subscribe(cds, "b")
		c.expect("cluster b@1")
	})
	typeTest("a wildcard is answered even if there is nothing", t, func(t *testing.T, w *world) {
		w.remove(lds, "in", "out").publish()
		c := openSotw(t, w.server)
		c.subscribe(lds)
		c.expect("listener")
	})
	typeTest("a named resource that does not exist yet is sent when it does", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(eds, "later")
		c.silence("SotW cannot say that there is none")
		w.put(endpoint("later", "1")).publish()
		c.expect("endpoint later")
		c.subscribe(cds, "later")
		c.expect("cluster") // full state can
	})
	typeTest("for the other types only what changed is sent", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(eds, "a", "b")
		c.expect("endpoint a b")
		w.put(endpoint("b", "2")).publish()
		c.expect("endpoint b")
		w.put(endpoint("c", "1")).publish()
		c.silence("c was not asked for")
		c.subscribe(eds, "a", "b", "c")
		c.expect("endpoint c")
	})
	typeTest("a removed resource of these types is kept by the client", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(eds, "a")
		c.expect("endpoint a")
		w.remove(eds, "a").publish()
		c.silence("SotW cannot remove it")
		w.put(endpoint("a", "1")).publish()
		c.expect("endpoint a")
	})
	typeTest("a request with a stale nonce is not processed", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(eds, "a")
		old := c.expect("endpoint a")
		w.put(endpoint("a", "2")).publish()
		m := c.peek("endpoint a")
		c.names[eds] = []string{"a", "b"}
		c.ack(old)
		c.silence("the client is about to see a newer response")
		c.ack(m)
		c.expect("endpoint b")
	})
	typeTest("unsubscribe and resubscribe", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(eds, "a", "b")
		c.expect("endpoint a b")
		c.subscribe(eds, "a")
		c.silence("an unsubscription is not answered")
		c.subscribe(eds, "a", "b")
		c.expect("endpoint b")
	})
	protocolTest("a client that comes back with the current version has it all", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(cds)
		version := c.expect("cluster a@1 b@1").VersionInfo
		c.close()

		c = openSotw(t, w.server)
		c.accepted[cds] = version
		c.subscribe(cds)
		c.silence("it has them")
		c.accepted[eds] = "whatever"
		c.subscribe(eds, "a", "b")
		c.expect("endpoint a b") // a cluster may wait for it
		w.put(cluster("a", "2")).publish()
		c.expect("cluster a@2 b@1")
		c.expect("endpoint a")
	})
	typeTest("after a NACK a subscription carries the rejected nonce and is no ACK", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(rds, "out")
		c.nack(c.peek("route out"), "no")
		c.send(&discovery.DiscoveryRequest{TypeUrl: rds.URL(), ResponseNonce: "1", ResourceNames: []string{"out", "other"}})
		empty := c.peek("route other") // out is nacked; what does not exist has nothing in it
		if got := w.server.Proxies()[0].Types["route"]; got.State == Synced || got.Acknowledged != "" {
			t.Errorf("state %+v", got)
		}
		c.send(&discovery.DiscoveryRequest{TypeUrl: rds.URL(), ResponseNonce: empty.Nonce, VersionInfo: empty.VersionInfo, ResourceNames: []string{"out", "other"}})
		w.put(route("other", "1")).publish()
		c.expect("route other")
	})
}
