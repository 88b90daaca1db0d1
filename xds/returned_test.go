package xds

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"datapunk.dev/controlplane/resource"
)

const portTaken = "Error adding/updating listener(s) out: cannot bind '127.0.0.1:15001': Address already in use"

// settleAs is settle, but the proxy says why it refuses out@2.
func (c deltaClient) settleAs(message string) {
	c.t.Helper()
	for m := c.quiet(); m != nil; m = c.quiet() {
		if strings.Contains(summary(m), "out@2") {
			c.nack(m, message)
		} else {
			c.ack(m)
		}
	}
}

// What only some machines cannot do is no reason to take it from the others.
func TestARefusalForItsOwnMachineIsThatProxysAlone(t *testing.T) {
	protocolTest("three proxies whose port is taken", t, func(t *testing.T, w *world) {
		w.put(listener("out", "2")).publish()
		for i := range 3 {
			c := openDelta(t, w.server)
			c.node.Id = fmt.Sprint("busy-", i)
			c.subscribe(lds)
			c.settleAs(portTaken)
		}
		if n := len(w.server.Quarantines()); n != 0 {
			t.Fatalf("%d in quarantine", n)
		}
		healthy := openDelta(t, w.server)
		healthy.node.Id = "healthy"
		healthy.subscribe(lds)
		healthy.expect("listener in@1 out@2")
		for _, p := range w.server.Proxies() {
			ts := p.Types["listener"]
			if p.Node == "healthy" {
				if ts.State != Synced {
					t.Errorf("%+v", ts)
				}
				continue
			}
			if ts.State != Rejected || ts.LastNack.Cause != causeAddressInUse || ts.LastNack.Resource != "out" {
				t.Errorf("%s: %+v %+v", p.Node, ts, ts.LastNack)
			}
		}
		if n := testutil.ToFloat64(w.server.metrics.own.WithLabelValues(causeAddressInUse)); n != 3 {
			t.Errorf("%v counted", n)
		}
	})
	protocolTest("it is tried once on each stream, for the port may be free by then", t, func(t *testing.T, w *world) {
		w.put(listener("out", "2")).publish()
		c := openDelta(t, w.server)
		c.subscribe(lds)
		c.settleAs(portTaken)
		c.silence("not twice")
		c.close()
		c = openDelta(t, w.server)
		c.subscribe(lds)
		c.expect("listener in@1 out@2")
		if ts := w.server.Proxies()[0].Types["listener"]; ts.State != Synced {
			t.Errorf("%+v", ts)
		}
	})
	protocolTest("an unknown text counts, and one that takes it after all does no more", t, func(t *testing.T, w *world) {
		w.put(listener("out", "2")).publish()
		var all []deltaClient
		for i := range 2 {
			c := openDelta(t, w.server)
			c.node.Id = fmt.Sprint("odd-", i)
			c.subscribe(lds)
			c.settleAs("words that nobody has seen")
			all = append(all, c)
		}
		all[0].close()
		again := openDelta(t, w.server)
		again.node.Id = "odd-0"
		again.reconnect(lds, nil, "in", "1", "out", "2")
		third := openDelta(t, w.server)
		third.node.Id = "odd-2"
		third.subscribe(lds)
		third.settleAs("words that nobody has seen")
		if n := len(w.server.Quarantines()); n != 0 {
			t.Errorf("%d in quarantine, by two that refuse it", n)
		}
	})
}

// Who comes back with a content has taken it: the proofs outlive a restart of
// the control plane, whoever comes back first.
func TestClientsThatComeBackSpeakForWhatTheyHave(t *testing.T) {
	// refused has three proxies refuse out@2 on a control plane that has just
	// started.
	refused := func(t *testing.T, w *world) {
		t.Helper()
		w.put(listener("out", "2")).publish()
		for i := range 3 {
			c := openDelta(t, w.server)
			c.node.Id = fmt.Sprint("odd-", i)
			c.reconnect(lds, nil, "in", "1")
			c.settleAs("words that nobody has seen")
		}
		if n := len(w.server.Quarantines()); n != 1 {
			t.Fatalf("%d in quarantine", n)
		}
	}
	protocolTest("before those that refuse it", t, func(t *testing.T, w *world) {
		w.put(listener("out", "2")).publish()
		for i := range 3 {
			c := openDelta(t, w.server)
			c.node.Id = fmt.Sprint("good-", i)
			c.reconnect(lds, nil, "in", "1", "out", "2")
			c.silence("it has all")
		}
		for i := range 3 {
			c := openDelta(t, w.server)
			c.node.Id = fmt.Sprint("odd-", i)
			c.reconnect(lds, nil, "in", "1")
			c.settleAs("words that nobody has seen")
		}
		if n := len(w.server.Quarantines()); n != 0 {
			t.Errorf("%d in quarantine", n)
		}
	})
	protocolTest("and after them", t, func(t *testing.T, w *world) {
		refused(t, w)
		for i := range 3 {
			c := openDelta(t, w.server)
			c.node.Id = fmt.Sprint("good-", i)
			c.reconnect(lds, nil, "in", "1", "out", "2")
			c.silence("nothing is taken from it")
		}
		if n := len(w.server.Quarantines()); n != 0 {
			t.Errorf("%d in quarantine", n)
		}
		fresh := openDelta(t, w.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(lds)
		fresh.expect("listener in@1 out@2")
	})
	protocolTest("in SotW by the version of all", t, func(t *testing.T, w *world) {
		first := openSotw(t, w.server)
		w.put(listener("out", "2")).publish()
		first.node.Id = "first"
		first.subscribe(lds)
		m := first.expect("listener in@1 out@2")
		refused(t, w)
		for i := range 3 {
			c := openSotw(t, w.server)
			c.node.Id = fmt.Sprint("good-", i)
			c.accepted[lds] = m.VersionInfo
			c.subscribe(lds)
			c.silence("nothing is taken from it")
		}
		if n := len(w.server.Quarantines()); n != 0 {
			t.Errorf("%d in quarantine", n)
		}
	})
	protocolTest("in SotW nothing is taken from a client that comes with another version", t, func(t *testing.T, w *world) {
		refused(t, w)
		c := openSotw(t, w.server)
		c.node.Id = "good"
		c.accepted[lds] = "of another control plane"
		c.subscribe(lds)
		c.expect("listener in@1 out@2") // without out it would delete that
		w.put(listener("in", "3")).publish()
		c.expect("listener in@3 out@2")
		if n := len(w.server.Quarantines()); n != 1 {
			t.Errorf("%d in quarantine", n)
		}
	})
	protocolTest("who may not have a secret does not speak for it", t, func(t *testing.T, w *world) {
		w.put(secret("callers/lake", "1")).publish()
		for i := range 3 {
			c := openDelta(t, w.server)
			c.node.Id = fmt.Sprint("liar-", i)
			c.reconnect(sds, []string{"callers/lake"}, "callers/lake", "1")
			c.settle()
		}
		// Had they spoken for it, it could not be taken from anyone any more.
		lake := newWorld(w.server, secret("callers/lake", "1")).be(resource.Profile{Service: "lake"})
		publish(w.server, w, lake)
		for i := range 3 {
			c := openDelta(t, w.server)
			c.node.Id, c.node.Cluster = fmt.Sprint("lake-", i), "lake"
			c.subscribe(sds, "callers/lake")
			c.nack(c.peek("secret callers/lake@1"), "refused")
		}
		if n := len(w.server.Quarantines()); n != 1 {
			t.Errorf("%d in quarantine", n)
		}
	})
}
