package xds

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// settle answers responses until there are none: it rejects each that holds
// one of the bad resources ("cluster c@1"). It returns what was sent.
func (c deltaClient) settle(bad ...string) []string {
	c.t.Helper()
	var sent []string
	for {
		m := c.quiet()
		if m == nil {
			return sent
		}
		s := summary(m)
		sent = append(sent, s)
		typ, rest, _ := strings.Cut(s, " ")
		refused := ""
		for _, name := range strings.Fields(rest) {
			for _, b := range bad {
				if typ+" "+name == b {
					refused = b
				}
			}
		}
		if refused != "" {
			c.nack(m, "refused")
		} else {
			c.ack(m)
		}
		if len(sent) > 100 {
			c.t.Fatalf("a loop: %q", sent[len(sent)-5:])
		}
	}
}

// quiet returns the next response, nil if there is none.
func (c deltaClient) quiet() *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	synctest.Wait()
	if len(c.out) == 0 {
		return nil
	}
	return c.next()
}

func TestNack(t *testing.T) {
	typeTest("the good ones are sent again one by one, the bad one is nacked", t, func(t *testing.T, w *world) {
		w.put(cluster("c", "1"), cluster("d", "1")).publish()
		c := openDelta(t, w.server)
		c.subscribe(cds)
		m := c.peek("cluster a@1 b@1 c@1 d@1")
		c.nack(m, "refused")
		got := c.settle("cluster c@1")
		want := []string{"cluster a@1", "cluster b@1", "cluster c@1", "cluster d@1"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("sent %q, want %q", got, want)
		}
		time.Sleep(time.Hour)
		c.silence("the content is nacked")

		w.put(cluster("a", "2")).publish()
		c.expect("cluster a@2")
		w.put(cluster("c", "2")).publish()
		c.expect("cluster c@2")
		c.silence("all is well")
	})
	protocolTest("the assignment of each cluster goes beside it", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(cluster("a", "2"), cluster("b", "2")).publish()
		m := c.peek("cluster a@2 b@2")
		c.expect("endpoint a@1 b@1")
		c.nack(m, "refused")
		got := c.settle("cluster b@2")
		want := "[cluster a@2 cluster b@2 endpoint a@1 b@1]"
		if fmt.Sprint(got) != want {
			t.Errorf("sent %v, want %v", got, want)
		}
	})
	typeTest("a revert is sent although the client reported it before", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(endpoint("a", "2")).publish()
		c.nack(c.peek("endpoint a@2"), "refused")
		c.silence("it is nacked")
		w.put(endpoint("a", "1")).publish()
		c.expect("endpoint a@1") // it may run a part of a@2
	})
	protocolTest("other types and other resources go on", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(listener("in", "2")).publish()
		c.nack(c.peek("listener in@2"), "refused")
		w.put(cluster("a", "2"), listener("out", "2"), route("out", "2", "a")).publish()
		c.expect("cluster a@2")
		c.expect("endpoint a@1")
		c.expect("listener out@2")
		c.expect("route out@2")
	})
	typeTest("other proxies go on", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		other := openDelta(t, w.server)
		other.node.Id = "nexus-2"
		other.subscribe(eds, "a")
		other.expect("endpoint a@1")
		w.put(endpoint("a", "2")).publish()
		c.nack(c.peek("endpoint a@2"), "refused")
		other.expect("endpoint a@2")
	})
	protocolTest("a listener that was refused for its secret is sent again with a good secret", t, func(t *testing.T, w *world) {
		w.put(secret("ROOTCA", "bad"), listener("in", "2", sds.Ref("ROOTCA"))).publish()
		c := openDelta(t, w.server)
		c.subscribe(lds)
		in := c.peek("listener in@2 out@1")
		c.subscribe(sds, "ROOTCA")
		root := c.peek("secret ROOTCA@bad")
		c.nack(root, "Failed to load trusted CA")
		w.put(secret("ROOTCA", "good")).publish() // before the NACK of the listener is in
		m := c.peek("secret ROOTCA@good")
		c.nack(in, "refused")
		got := c.settle("listener in@2") // the secret is not acknowledged yet
		if want := "[listener in@2 listener out@1]"; fmt.Sprint(got) != want {
			t.Fatalf("sent %v, want %v", got, want)
		}
		c.ack(m)
		c.silence("in@2 was refused after the good secret was sent")
		w.put(secret("ROOTCA", "better")).publish()
		c.expect("secret ROOTCA@better")
		c.expect("listener in@2")
		c.silence("done")
	})
	typeTest("a client that refuses everything is asked once for each content", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.subscribe(eds, "a", "b")
		c.subscribe(lds)
		refusals := 0
		for m := c.quiet(); m != nil; m = c.quiet() {
			c.nack(m, "no")
			if refusals++; refusals > 50 {
				t.Fatal("a loop")
			}
		}
		if refusals != 9 { // two clusters, assignments and listeners: once together, once each
			t.Errorf("%d refusals", refusals)
		}
		time.Sleep(time.Hour)
		c.silence("every content is nacked")
	})
	typeTest("a rejected removal is tried alone and then nacked", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		w.remove(cds, "a", "b").publish()
		c.nack(c.peek("cluster -a -b"), "CDS update attempts to reduce clusters below configured minimum.")
		if got, want := fmt.Sprint(c.settle("cluster -b")), "[cluster -a cluster -b]"; got != want {
			t.Errorf("sent %v, want %v", got, want)
		}
	})
	typeTest("in SotW the full state grows by halves until the bad one is alone", t, func(t *testing.T, w *world) {
		w.put(cluster("c", "1"), cluster("d", "1")).publish()
		c := openSotw(t, w.server)
		c.subscribe(cds)
		c.nack(c.peek("cluster a@1 b@1 c@1 d@1"), "refused")
		c.expect("cluster a@1 b@1")
		c.nack(c.peek("cluster a@1 b@1 c@1 d@1"), "refused")
		c.nack(c.peek("cluster a@1 b@1 c@1"), "refused")
		c.expect("cluster a@1 b@1 d@1")
		c.silence("c is nacked")
		w.put(cluster("a", "2")).publish()
		c.expect("cluster a@2 b@1 d@1")
		w.put(cluster("c", "2")).publish()
		c.expect("cluster a@2 b@1 c@2 d@1")
	})
	typeTest("in SotW a rejected change leaves the accepted content in the full state", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(lds)
		c.expect("listener in@1 out@1")
		w.put(listener("in", "2")).publish()
		c.nack(c.peek("listener in@2 out@1"), "refused")
		w.put(listener("out", "2")).publish()
		c.expect("listener in@1 out@2")
	})
}

func TestNackIsReported(t *testing.T) {
	typeTest("with its resource and the line of the mesh file", t, func(t *testing.T, w *world) {
		w.server.options.Locate = func(keys []string) string { return "mesh.yaml:28:7 " + keys[0] }
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.nack(c.peek("cluster a@1 b@1"), "goo.gle/debugonly  Error adding/updating  cluster(s) b: bad")
		n := w.server.Proxies()[0].Types["cluster"].LastNack
		if n == nil {
			t.Fatal("no NACK recorded")
		}
		if n.Resource != "b" || n.Source != "mesh.yaml:28:7 key.b" {
			t.Errorf("blamed %q at %q", n.Resource, n.Source)
		}
		if n.Message != "Error adding/updating cluster(s) b: bad" {
			t.Errorf("message %q", n.Message)
		}
	})
}

func TestMentions(t *testing.T) {
	for _, tt := range []struct {
		text, name string
		want       bool
	}{
		{"cluster(s) lake: bad", "lake", true},
		{"cluster(s) lake_service: bad", "lake", false},
		{"cluster(s) data_lake and lake", "lake", true},
		{"", "lake", false},
	} {
		if got := mentions(tt.text, tt.name); got != tt.want {
			t.Errorf("mentions(%q, %q) = %v", tt.text, tt.name, got)
		}
	}
}
