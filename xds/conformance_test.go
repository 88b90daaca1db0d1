package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// What holds for both protocols, word for word.

// speaker is a client that does not show which protocol it speaks.
type speaker interface {
	on() *client
	subscribe(t resource.Type, names ...string)
	// come is the first request of a stream for a type, from a client that has
	// the world.
	come(w *world, t resource.Type, names ...string)
	take(w *world, ack bool) string
}

func (c *client) on() *client { return c }

func (c deltaClient) come(w *world, t resource.Type, names ...string) {
	var versions []string
	for _, r := range w.all(t) {
		if len(names) == 0 || slices.Contains(names, r.Name) {
			versions = append(versions, r.Name, r.Version)
		}
	}
	c.reconnect(t, names, versions...)
}

func (c deltaClient) take(_ *world, ack bool) string {
	m := c.next()
	if ack {
		c.ack(m)
	} else {
		c.nack(m, "refused")
	}
	return summary(m)
}

func (c sotwClient) come(w *world, t resource.Type, names ...string) {
	state := digest(0)
	for _, r := range w.all(t) {
		state = state.toggle(r.Name, r.Version)
	}
	c.accepted[t] = state.String()
	c.subscribe(t, names...)
}

func (c sotwClient) take(w *world, ack bool) string {
	m := c.next()
	t, _ := resource.TypeOf(m.TypeUrl)
	parts := []string{t.String()}
	for _, r := range m.Resources {
		name, version := w.identify(c.t, t, r.Value)
		parts = append(parts, name+"@"+version)
	}
	if ack {
		c.ack(m)
	} else {
		c.nack(m, "refused")
	}
	return strings.Join(parts, " ")
}

// bothTest runs a test with either protocol over every transport.
func bothTest(name string, t *testing.T, on func(string, *testing.T, func(*testing.T, *world)), f func(t *testing.T, w *world, open func() speaker)) {
	t.Helper()
	on(name+", delta", t, func(t *testing.T, w *world) {
		f(t, w, func() speaker { return openDelta(t, w.server) })
	})
	on(name+", SotW", t, func(t *testing.T, w *world) {
		f(t, w, func() speaker { return openSotw(t, w.server) })
	})
}

func expect(c speaker, w *world, want ...string) {
	c.on().t.Helper()
	for _, one := range want {
		if got := c.take(w, true); got != one {
			c.on().t.Fatalf("got %q, want %q", got, one)
		}
	}
}

func TestBothProtocols(t *testing.T) {
	bothTest("the life of a subscription to named resources", t, typeTest, func(_ *testing.T, w *world, open func() speaker) {
		c := open()
		c.subscribe(rds, "out", "later")
		// A listener waits for each that it asks for: one with nothing in it will do.
		if got := c.take(w, true); !strings.HasPrefix(got, "route later@") || !strings.HasSuffix(got, " out@1") {
			t.Errorf("got %q", got)
		}
		w.put(route("other", "1")).publish()
		c.on().silence("not asked for")
		w.put(route("later", "1")).publish()
		expect(c, w, "route later@1")
		w.put(route("out", "2"), route("later", "2")).publish()
		expect(c, w, "route later@2 out@2")
		w.put(route("out", "1")).publish() // back to what it was
		expect(c, w, "route out@1")
	})
	bothTest("types are answered apart, each in its own time", t, protocolTest, func(_ *testing.T, w *world, open func() speaker) {
		c := open()
		c.subscribe(lds)
		expect(c, w, "listener in@1 out@1")
		c.subscribe(rds, "out")
		expect(c, w, "route out@1")
		c.subscribe(cds)
		expect(c, w, "cluster a@1 b@1")
		c.subscribe(eds, "b")
		expect(c, w, "endpoint b@1")
	})
	// "CDS updates (if any) must always be pushed first. EDS updates (if any)
	// must arrive after CDS updates [...]. LDS updates must arrive after
	// corresponding CDS/EDS updates. RDS updates related to the newly added
	// listeners must arrive after CDS/EDS/LDS updates."
	bothTest("additions in order, each type after the ACK of new clusters", t, protocolTest, func(_ *testing.T, w *world, open func() speaker) {
		c := everything(w, open())
		w.put(cluster("a", "2"), endpoint("a", "2"), listener("in", "2"), route("out", "2", "a", "b")).publish()
		expect(c, w, "cluster a@2"+rest(c, " b@1"), "endpoint a@2", "listener in@2"+rest(c, " out@1"), "route out@2")
		c.on().silence("done")
	})
	// "Stale CDS clusters and related EDS endpoints (ones no longer being
	// referenced) can then be removed."
	bothTest("removals after what referred to them is acknowledged", t, protocolTest, func(_ *testing.T, w *world, open func() speaker) {
		c := everything(w, open())
		w.put(route("out", "2", "a")).remove(cds, "b").publish()
		expect(c, w, "route out@2")
		if _, ok := c.(deltaClient); ok {
			expect(c, w, "cluster -b")
		} else {
			expect(c, w, "cluster a@1")
		}
		c.on().silence("done")
	})
	bothTest("a new route waits for the ACK of its clusters, not for ever", t, protocolTest, func(_ *testing.T, w *world, open func() speaker) {
		c := everything(w, open())
		w.put(cluster("c", "1"), route("out", "2", "c")).publish()
		c.on().receive()
		c.on().silence("unanswered")
		time.Sleep(15*time.Second - 1)
		c.on().silence("unanswered")
		time.Sleep(time.Nanosecond)
		expect(c, w, "route out@2")
	})
	bothTest("EDS again after a changed cluster", t, protocolTest, func(_ *testing.T, w *world, open func() speaker) {
		c := everything(w, open())
		w.put(cluster("a", "2")).publish()
		expect(c, w, "cluster a@2"+rest(c, " b@1"), "endpoint a@1")
	})
	bothTest("a NACK ends nothing, and what was refused is not sent again", t, typeTest, func(t *testing.T, w *world, open func() speaker) {
		c := open()
		c.subscribe(rds, "out")
		if got := c.take(w, false); got != "route out@1" {
			t.Fatalf("got %q", got)
		}
		time.Sleep(time.Hour)
		c.on().silence("it is nacked")
		c.subscribe(lds)
		expect(c, w, "listener in@1 out@1")
		w.put(route("out", "2")).publish()
		expect(c, w, "route out@2")
	})
	// "the server should treat that identically to how it would treat the client
	// having explicitly subscribed to "*"", and is to answer even with nothing.
	bothTest("the first answer of an empty wildcard is empty", t, typeTest, func(_ *testing.T, w *world, open func() speaker) {
		w.remove(cds, "a", "b").remove(lds, "in", "out").publish()
		c := open()
		c.subscribe(cds)
		expect(c, w, "cluster")
		c.subscribe(lds, "*")
		expect(c, w, "listener")
		c.on().silence("once")
		w.put(listener("in", "2")).publish()
		expect(c, w, "listener in@2")
	})
	bothTest("a client that comes back with everything is not sent clusters and listeners", t, protocolTest, func(_ *testing.T, w *world, open func() speaker) {
		everything(w, open()).on().close()
		c := open()
		c.come(w, cds)
		c.on().silence("it has them")
		c.come(w, lds)
		c.on().silence("it has them")
		w.put(cluster("a", "2"), listener("in", "2")).publish()
		expect(c, w, "cluster a@2"+rest(c, " b@1"), "listener in@2"+rest(c, " out@1"))
	})
	// Versions come from the content alone.
	protocolTest("nor by another replica with the same content", t, func(t *testing.T, w *world) {
		replica := newWorld(testServer(), cluster("b", "1"), cluster("a", "0"), listener("out", "1"), listener("in", "0"), listener("gone", "1"))
		replica.publish()
		first := openDelta(t, replica.server)
		first.node.Id = "nexus-2"
		first.subscribe(cds)
		first.settle()
		replica.put(cluster("a", "1"), listener("in", "1")).remove(lds, "gone").publish()
		for _, c := range []speaker{openDelta(t, replica.server), openSotw(t, replica.server)} {
			c.on().node.Id = "nexus-3"
			c.come(w, cds)
			c.come(w, lds)
			c.on().silence("it has them from the other replica")
			c.on().close()
			synctest.Wait()
		}
	})
	bothTest("a request of an unknown type is no error on ADS", t, protocolTest, func(_ *testing.T, w *world, open func() speaker) {
		c := open()
		const unknown = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
		if _, ok := c.(deltaClient); ok {
			c.on().send(&discovery.DeltaDiscoveryRequest{Node: c.on().takeNode(), TypeUrl: unknown})
		} else {
			c.on().send(&discovery.DiscoveryRequest{Node: c.on().takeNode(), TypeUrl: unknown})
		}
		c.on().silence("not served")
		c.subscribe(cds)
		expect(c, w, "cluster a@1 b@1")
	})
	bothTest("changes are not lost on a client that answers late", t, typeTest, func(_ *testing.T, w *world, open func() speaker) {
		c := open()
		c.subscribe(eds, "a", "b")
		expect(c, w, "endpoint a@1 b@1")
		for i := range 100 {
			w.put(endpoint("a", fmt.Sprint("x", i))).publish()
			time.Sleep(20 * time.Millisecond)
		}
		last := ""
		for range 100 {
			synctest.Wait()
			if len(c.on().out) == 0 {
				break
			}
			last = c.take(w, true)
		}
		if last != "endpoint a@x99" {
			t.Errorf("ends with %q", last)
		}
	})
}

// everything returns a client that has everything of the world.
func everything(w *world, c speaker) speaker {
	c.subscribe(cds)
	expect(c, w, "cluster a@1 b@1")
	c.subscribe(eds, "a", "b")
	expect(c, w, "endpoint a@1 b@1")
	c.subscribe(lds)
	expect(c, w, "listener in@1 out@1")
	c.subscribe(rds, "out")
	expect(c, w, "route out@1")
	c.on().silence("all is there")
	return c
}

// rest is what a full state holds besides.
func rest(c speaker, s string) string {
	if _, ok := c.(sotwClient); ok {
		return s
	}
	return ""
}

// "Only the first request on a stream is guaranteed to carry the node
// identifier. [...] The node identifier should always be identical if present
// more than once on the stream."
func TestNode(t *testing.T) {
	for _, tt := range []struct {
		name   string
		first  *corepb.Node
		second *corepb.Node
		want   codes.Code // of the end; OK: the stream goes on
	}{
		{"in the first request alone", &corepb.Node{Id: "n", Cluster: "nexus"}, nil, codes.OK},
		{"in every request", &corepb.Node{Id: "n", Cluster: "nexus"}, &corepb.Node{Id: "n", Cluster: "nexus"}, codes.OK},
		{"missing", nil, nil, codes.InvalidArgument},
		{"without an id", &corepb.Node{Cluster: "nexus"}, nil, codes.InvalidArgument},
		{"without a cluster", &corepb.Node{Id: "n"}, nil, codes.InvalidArgument},
		{"another id later", &corepb.Node{Id: "n", Cluster: "nexus"}, &corepb.Node{Id: "m", Cluster: "nexus"}, codes.InvalidArgument},
		{"another cluster later", &corepb.Node{Id: "n", Cluster: "nexus"}, &corepb.Node{Id: "n", Cluster: "lake"}, codes.InvalidArgument},
		{"with metadata that is too large", &corepb.Node{Id: "n", Cluster: "nexus", Metadata: metadataOf(t, map[string]any{
			"x": strings.Repeat("x", 64<<10),
		})}, nil, codes.ResourceExhausted},
		{"with an id that is too long", &corepb.Node{Id: strings.Repeat("n", 257), Cluster: "nexus"}, nil, codes.ResourceExhausted},
	} {
		for _, p := range []protocol{delta, sotw} {
			protocolTest(tt.name+", "+p.String(), t, func(t *testing.T, w *world) {
				c := open(t, w.server, p, "")
				request := func(n *corepb.Node, typ resource.Type) {
					if p == delta {
						c.send(&discovery.DeltaDiscoveryRequest{Node: n, TypeUrl: typ.URL()})
					} else {
						c.send(&discovery.DiscoveryRequest{Node: n, TypeUrl: typ.URL()})
					}
				}
				request(proto.CloneOf(tt.first), cds)
				if tt.want == codes.OK || tt.second != nil {
					c.receive()
					request(proto.CloneOf(tt.second), lds)
				}
				if tt.want == codes.OK {
					c.receive()
				} else if got := status.Code(c.end()); got != tt.want {
					t.Errorf("code %v, want %v", got, tt.want)
				}
			})
		}
	}
}
