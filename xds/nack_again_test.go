package xds

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/resource"
)

// What a client is told after a NACK when it asks again, comes again, or falls
// silent.

func TestAskingAgainAfterANack(t *testing.T) {
	typeTest("a name that was refused and is asked for again is answered, once", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a")
		c.nack(c.peek("endpoint a@1"), "refused")
		c.silence("it is nacked")
		c.subscribe(eds, "a")
		c.expect("endpoint -a") // "the server will send [...] that resource's name in the removed_resources field"
		c.silence("answered")
		w.put(endpoint("a", "2")).publish()
		c.expect("endpoint a@2")
	})
	typeTest("it is answered with what the client has", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a")
		c.expect("endpoint a@1")
		w.put(endpoint("a", "2")).publish()
		c.nack(c.peek("endpoint a@2"), "refused")
		c.silence("it is nacked")
		c.subscribe(eds, "a")
		c.expect("endpoint a@1") // "the server *must* still provide those resources in the response"
		c.silence("a@2 is nacked")
	})
	typeTest("a client that comes again and asks for it is answered too", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(eds, "a")
		c.nack(c.peek("endpoint a@1"), "refused")
		c.silence("it is nacked")
		c.close()
		c = openDelta(t, w.server)
		c.subscribe(eds, "a")
		c.expect("endpoint -a")
	})
	protocolTest("a route that waits for its cluster is no reason not to answer with the last one", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		c.subscribe(rds, "out")
		c.expect("route out@1")
		w.put(cluster("c", "1"), route("out", "2", "c")).publish()
		late := c.peek("cluster c@1")
		c.silence("the route waits")
		c.subscribe(rds, "out")
		c.expect("route out@1")
		c.ack(late)
		c.expect("route out@2")
	})
}

func TestSotwStateAfterANack(t *testing.T) {
	typeTest("a client that came with a state is not sent a smaller one", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.put(cluster("c", "1")).publish()
		c.expect("cluster a@1 b@1 c@1")
		c.close()
		w.put(cluster("b", "bad")).publish()
		accepted := c.accepted
		c = openSotw(t, w.server)
		c.accepted = accepted
		c.subscribe(cds)
		c.nack(c.peek("cluster a@1 b@bad c@1"), "refused")
		c.silence("a response without b would delete the one that it works with")
		w.put(cluster("a", "2")).publish()
		c.nack(c.peek("cluster a@2 b@bad c@1"), "refused")
		c.silence("until something changes")
		w.put(cluster("b", "2")).publish()
		c.expect("cluster a@2 b@2 c@1")
	})
	typeTest("nor is gRPC, which has taken all but the bad one", t, func(t *testing.T, w *world) {
		w.profile.Kind = resource.Proxyless
		w.put(listener("new", "bad")).publish()
		c := openSotw(t, w.server)
		c.node.UserAgentName = "gRPC Go"
		c.subscribe(lds, "in", "new", "out")
		c.nack(c.peek("listener in@1 new@bad out@1"), "refused")
		c.silence("it works with in and out")
		w.put(listener("new", "2")).publish()
		c.expect("listener in@1 new@2 out@1")
	})
	typeTest("what it has after a NACK is not what its version says", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.put(cluster("a", "2"), cluster("b", "bad")).publish()
		c.nack(c.peek("cluster a@2 b@bad"), "refused")
		c.close()
		w.put(cluster("a", "1"), cluster("b", "1")).publish()
		accepted := c.accepted
		c = openSotw(t, w.server)
		c.accepted = accepted
		c.subscribe(cds)
		c.expect("cluster a@1 b@1") // it may have taken a@2
	})
	typeTest("one that the message names is tried last, and the others go on together", t, func(t *testing.T, w *world) {
		w.put(cluster("c", "1"), cluster("d", "1")).publish()
		c := openSotw(t, w.server)
		c.subscribe(cds)
		c.nack(c.peek("cluster a@1 b@1 c@1 d@1"), "Error adding/updating cluster(s) c: refused")
		c.expect("cluster a@1 b@1 d@1")
		c.nack(c.peek("cluster a@1 b@1 c@1 d@1"), "Error adding/updating cluster(s) c: refused")
		c.silence("c is nacked")
		w.put(cluster("c", "2")).publish()
		c.expect("cluster a@1 b@1 c@2 d@1")
	})
}

// On the fake clock a stream that looks again without pause never lets time
// pass.
func TestAClientThatFallsSilentCostsNothing(t *testing.T) {
	typeTest("after it rejected a hundred names", t, func(t *testing.T, w *world) {
		var names []string
		for i := range 100 {
			names = append(names, fmt.Sprintf("e%02d", i))
			w.put(endpoint(names[i], "1"))
		}
		w.publish()
		c := openDelta(t, w.server)
		c.subscribe(eds, names...)
		c.nack(c.next(), "refused")
		time.Sleep(time.Hour)
	})
	t.Run("while it does not read and changes wait", func(t *testing.T) {
		transports[0].run(t, func(t *testing.T, w *world) {
			c := openDelta(t, w.server)
			c.subscribe(cds)
			c.expect("cluster a@1 b@1")
			c.subscribe(eds, "a")
			c.peek("endpoint a@1") // not answered
			c.out = nil            // its reads stop: a send blocks for ever
			w.put(cluster("b", "2"), endpoint("a", "2")).publish()
			time.Sleep(time.Minute)
			if got := status.Code(c.end()); got != codes.ResourceExhausted {
				t.Errorf("code %v", got)
			}
		})
	})
}
