package xds

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"
)

func TestRefusalsAreRemembered(t *testing.T) {
	// refuse has a delta client refuse cluster a@2 and then lose its connection.
	refuse := func(t *testing.T, w *world) {
		t.Helper()
		c := connected(t, w)
		w.put(cluster("a", "2")).publish()
		c.wantSent("cluster a@2, endpoint a@1", "cluster a@2")
		c.close()
		synctest.Wait()
	}
	wantRejected := func(t *testing.T, w *world) {
		t.Helper()
		ts := w.clusters("nexus-1")
		if ts.State != Rejected || ts.LastNack == nil || ts.LastNack.Resource != "a" || ts.LastNack.Message != "refused" {
			t.Errorf("%+v %+v", ts, ts.LastNack)
		}
	}
	protocolTest("a client that comes back is not sent what it refused", t, func(t *testing.T, w *world) {
		refuse(t, w)
		c := openDelta(t, w.server)
		c.reconnect(cds, nil, "a", "1", "b", "1")
		c.wantSent("")
		wantRejected(t, w)
		w.put(cluster("b", "2")).publish()
		c.wantSent("cluster b@2")
		w.put(cluster("a", "3")).publish()
		c.wantSent("cluster a@3")
		if ts := w.clusters("nexus-1"); ts.State != Synced {
			t.Errorf("%+v", ts)
		}
	})
	protocolTest("nor is one that restarted: it gets what it had before", t, func(t *testing.T, w *world) {
		refuse(t, w)
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.wantSent("cluster a@1 b@1")
		wantRejected(t, w)
		w.remove(cds, "a").publish()
		c.wantSent("cluster -a")
	})
	protocolTest("in SotW it is not told to delete what it had", t, func(t *testing.T, w *world) {
		c := openSotw(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1 b@1")
		c.subscribe(rds, "out")
		c.expect("route out")
		w.put(cluster("a", "2"), route("out", "2", "b")).publish()
		c.nack(c.peek("cluster a@2 b@1"), "refused")
		c.nack(c.peek("route out"), "refused")
		c.close()

		d := openSotw(t, w.server)
		d.accepted = c.accepted
		d.subscribe(cds)
		d.expect("cluster a@1 b@1")
		wantRejected(t, w)
		d.subscribe(rds, "out")
		name, version := w.identify(t, rds, d.expect("route out").Resources[0].Value)
		if name != "out" || version != "1" {
			t.Errorf("%s@%s", name, version)
		}
		w.put(cluster("b", "2")).publish()
		d.expect("cluster a@1 b@2")
		d.expect("route out") // it depends on b
		w.put(cluster("a", "3")).publish()
		d.expect("cluster a@3 b@2")
	})
	typeTest("a change of what it depends on ends it", t, func(t *testing.T, w *world) {
		w.put(secret("ROOTCA", "1")).publish()
		c := connected(t, w)
		w.put(listener("in", "2", sds.Ref("ROOTCA"))).publish()
		c.wantSent("listener in@2", "listener in@2")
		c.close()
		w.put(secret("ROOTCA", "2")).publish()
		d := openDelta(t, w.server)
		d.reconnect(lds, nil, "in", "1", "out", "1")
		d.wantSent("listener in@2")
	})
	protocolTest("what it has taken since is forgotten", t, func(t *testing.T, w *world) {
		refuse(t, w)
		w.put(cluster("a", "3")).publish()
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.wantSent("cluster a@3 b@1")
		w.put(cluster("a", "2")).publish()
		c.wantSent("cluster a@2") // it may be good now
		c.close()
		d := openDelta(t, w.server)
		d.subscribe(cds)
		d.wantSent("cluster a@2 b@1")
	})
	protocolTest("for ten minutes after its last stream, and only its own", t, func(t *testing.T, w *world) {
		refuse(t, w)
		other := openDelta(t, w.server)
		other.node.Id = "nexus-2"
		other.subscribe(cds)
		other.wantSent("cluster a@2 b@1")
		time.Sleep(10*time.Minute - 1)
		c := openDelta(t, w.server)
		node := proto.CloneOf(c.node)
		c.subscribe(cds)
		c.wantSent("cluster a@1 b@1")
		time.Sleep(time.Hour)
		c.close()
		synctest.Wait()
		time.Sleep(10 * time.Minute)
		c = openDelta(t, w.server)
		c.node = node
		c.subscribe(cds)
		c.wantSent("cluster a@2 b@1")
	})
	typeTest("a route does not wait for a cluster that its proxy refused", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(cluster("c", "1")).publish()
		c.wantSent("cluster c@1", "cluster c@1")
		w.put(route("out", "2", "a", "b", "c")).publish()
		c.wantSent("route out@2")
	})
}

// The memory does not grow without bound, whatever clients call themselves.
func TestTheMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newNackMemory()
		for i := range maxNackingNodes + 100 {
			m.add(fmt.Sprint("node-", i), resource.Ref{Name: "a"}, &pastNack{})
		}
		for i := range 2 * maxNacksOfNode {
			m.add("one", resource.Ref{Name: fmt.Sprint(i)}, &pastNack{})
		}
		if len(m.nodes) != maxNackingNodes || len(m.queue) != maxNackingNodes || len(m.nodes["one"].refused) != maxNacksOfNode {
			t.Errorf("%d nodes, %d in the queue, %d refusals of one", len(m.nodes), len(m.queue), len(m.nodes["one"].refused))
		}
		time.Sleep(rememberNacks)
		m.extend("node-10000")
		m.expire(func(node string) bool { return node == "node-9999" })
		if len(m.nodes) != 2 || len(m.queue) != 2 {
			t.Errorf("%d nodes, %d in the queue", len(m.nodes), len(m.queue))
		}
	})
}
