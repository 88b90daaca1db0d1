package xds

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/resource"
)

// closed reports whether a barrier is passed, now that the server has nothing left
// to do.
func closed(barrier <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-barrier:
		return true
	default:
		return false
	}
}

func wantClosed(t *testing.T, barrier <-chan struct{}, want bool, when string) {
	t.Helper()
	if got := closed(barrier); got != want {
		t.Errorf("%s: passed %t", when, got)
	}
}

// node opens a delta stream of a node.id of its own.
func (w *world) node(t *testing.T, id string) deltaClient {
	t.Helper()
	c := openDelta(t, w.server)
	c.node.Id = id
	return c
}

// Between two stages of the whole fleet its slowest proxy counts, and one that
// rejects what it got is not waited for.
func TestABarrierIsPassedWhenEveryProxyHasAnswered(t *testing.T) {
	all := func(t *testing.T, w *world) <-chan struct{} { return w.server.Acked(t.Context(), nil) }
	protocolTest("acknowledged or rejected", t, func(t *testing.T, w *world) {
		wantClosed(t, all(t, w), true, "without proxies")
		one, two := w.node(t, "1"), w.node(t, "2")
		one.subscribe(cds)
		one.expect("cluster a@1 b@1")
		wantClosed(t, all(t, w), true, "one has all, and the other has not asked")
		two.subscribe(cds)
		m := two.peek("cluster a@1 b@1")
		first := all(t, w)
		wantClosed(t, first, false, "the second has not answered")
		two.ack(m)
		wantClosed(t, first, true, "both have")
		w.put(cluster("a", "2")).publish()
		second := all(t, w)
		one.expect("cluster a@2")
		wantClosed(t, second, false, "one has it")
		two.nack(two.peek("cluster a@2"), "no")
		wantClosed(t, second, true, "the second rejects it")
		wantClosed(t, all(t, w), true, "and asked again")
	})
	protocolTest("what is published later does not hold it up", t, func(t *testing.T, w *world) {
		c := w.node(t, "1")
		c.subscribe(eds, "a")
		c.expect("endpoint a@1")
		w.put(endpoint("a", "2")).publish()
		b := all(t, w)
		m := c.peek("endpoint a@2")
		w.put(endpoint("a", "3")).publish()
		later := all(t, w)
		c.ack(m)
		wantClosed(t, b, true, "a@2 is acknowledged")
		wantClosed(t, later, false, "a@3 is not")
		c.expect("endpoint a@3")
		wantClosed(t, later, true, "a@3 is")
	})
	protocolTest("it waits for what waits", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(route("out", "2", "a")).remove(cds, "b").publish()
		b := all(t, w)
		c.expect("route out@2")
		wantClosed(t, b, false, "the cluster is still to be removed")
		c.expect("cluster -b")
		wantClosed(t, b, true, "done")
	})
	protocolTest("a response that is rejected whole is tried again, one by one", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(endpoint("a", "2"), endpoint("b", "2")).publish()
		b := all(t, w)
		c.nack(c.peek("endpoint a@2 b@2"), "refused")
		wantClosed(t, b, false, "which of the two is not known")
		c.expect("endpoint a@2")
		wantClosed(t, b, false, "b is left")
		c.nack(c.peek("endpoint b@2"), "refused")
		wantClosed(t, b, true, "b is the one")
	})
	protocolTest("proxies come and go", t, func(t *testing.T, w *world) {
		one, two := w.node(t, "1"), w.node(t, "2")
		one.subscribe(cds)
		one.peek("cluster a@1 b@1")
		two.subscribe(cds)
		two.expect("cluster a@1 b@1")
		w.put(cluster("a", "2")).publish()
		b := all(t, w)
		two.expect("cluster a@2")
		wantClosed(t, b, false, "the first has answered nothing")
		three := w.node(t, "3")
		three.reconnect(cds, nil, "a", "1", "b", "1")
		one.close()
		wantClosed(t, b, false, "one that comes with what was before counts")
		three.expect("cluster a@2")
		wantClosed(t, b, true, "it has all, and the first is gone")
	})
	protocolTest("only those that are selected count", t, func(t *testing.T, w *world) {
		one, two := w.node(t, "1"), w.node(t, "2")
		one.subscribe(cds)
		one.expect("cluster a@1 b@1")
		two.subscribe(cds)
		two.peek("cluster a@1 b@1")
		id := func(want string) func(string, resource.Profile) bool {
			return func(node string, p resource.Profile) bool { return node == want && p.Service == "nexus" }
		}
		wantClosed(t, w.server.Acked(t.Context(), id("1")), true, "the first has all")
		wantClosed(t, w.server.Acked(t.Context(), id("2")), false, "the second has not")
	})
	protocolTest("one that nobody waits at any more is dropped", t, func(t *testing.T, w *world) {
		c := w.node(t, "1")
		c.subscribe(cds)
		m := c.peek("cluster a@1 b@1")
		ctx, cancel := context.WithCancel(t.Context())
		b := w.server.Acked(ctx, nil)
		cancel()
		synctest.Wait()
		if n := len(w.server.barriers); n != 0 {
			t.Errorf("%d barriers are left", n)
		}
		c.ack(m)
		wantClosed(t, b, false, "too late")
	})
}

// How long a change takes is a matter of those that it is for.
func TestAChangeIsAcknowledgedByThoseThatItConcerns(t *testing.T) {
	protocolTest("and by nobody else", t, func(t *testing.T, w *world) {
		if b := w.server.ChangeAcked(t.Context()); b != nil {
			t.Error("a publication concerns somebody though nobody is connected")
		}
		one, frozen := w.node(t, "1"), w.node(t, "2")
		one.subscribe(cds)
		one.expect("cluster a@1 b@1")
		frozen.subscribe(cds)
		frozen.expect("cluster a@1 b@1")
		w.publish()
		if b := w.server.ChangeAcked(t.Context()); b != nil {
			t.Error("a publication without a change concerns somebody")
		}
		w.put(cluster("a", "2")).publish()
		b := w.server.ChangeAcked(t.Context())
		one.expect("cluster a@2")
		late := w.node(t, "3")
		late.subscribe(cds)
		late.peek("cluster a@2 b@1")
		wantClosed(t, b, false, "the second has not answered")
		frozen.expect("cluster a@2")
		wantClosed(t, b, true, "all have that were there: who came later does not count")
	})
}

// The states of proxies are in the metrics as in their status, without names.
func TestStatesOfProxiesAreMetrics(t *testing.T) {
	protocolTest("by type, and for how long one is behind", t, func(t *testing.T, w *world) {
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(states{w.server})
		gauge := func(name string, labels ...string) float64 {
			t.Helper()
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				for _, m := range f.Metric {
					var got []string
					for _, l := range m.Label {
						got = append(got, l.GetValue())
					}
					if f.GetName() == name && slices.Equal(got, labels) {
						return m.Gauge.GetValue()
					}
				}
			}
			t.Fatalf("no %s of %v", name, labels)
			return 0
		}
		one, two := w.node(t, "1"), w.node(t, "2")
		one.subscribe(cds)
		one.expect("cluster a@1 b@1")
		two.subscribe(cds)
		m := two.peek("cluster a@1 b@1")
		time.Sleep(5 * time.Second)
		if synced, pending := gauge("controlplane_xds_proxies", "SYNCED", "cluster"), gauge("controlplane_xds_proxies", "PENDING", "cluster"); synced != 1 || pending != 1 {
			t.Errorf("%v are SYNCED and %v PENDING, want one each", synced, pending)
		}
		if s := gauge("controlplane_xds_oldest_pending_seconds"); s != 5 {
			t.Errorf("one has not answered for %v s, want 5", s)
		}
		two.nack(m, "no")
		synctest.Wait()
		if s := gauge("controlplane_xds_oldest_pending_seconds"); s != 0 {
			t.Errorf("all have answered, and one is behind by %v s", s)
		}
	})
}

// A proxy that cannot open one of its listeners keeps the clusters that are gone, for that
// listener may need them. It has answered all the same.
func TestABarrierDoesNotWaitForWhatARefusalHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(testServer(), cluster("a", "1"), cluster("b", "1"), endpoint("a", "1"), endpoint("b", "1"),
			listener("in", "1"), listener("out", "1"), route("out", "1", "a", "b"))
		w.publish()
		c := connected(t, w)
		w.put(listener("in", "2")).publish()
		m := c.peek("listener in@2")
		c.nack(m, "Error adding/updating listener(s) in: cannot bind '10.0.0.1:9102': Address already in use")
		c.settle("listener in@2")
		wantClosed(t, w.server.Acked(t.Context(), nil), true, "it has refused a listener")
		w.put(route("out", "2", "a")).remove(resource.Cluster, "b").remove(resource.Endpoint, "b").publish()
		acked := w.server.Acked(t.Context(), nil)
		for range 70 {
			time.Sleep(time.Second)
			c.settle()
		}
		wantClosed(t, acked, true, "a service is gone from the catalog a minute ago")
		w.put(route("out", "3", "a")).publish() // an edit
		acked = w.server.Acked(t.Context(), nil)
		for range 70 {
			time.Sleep(time.Second)
			c.settle()
		}
		wantClosed(t, acked, true, "an edit that it has acknowledged, after a minute")
	})
}
