package xds

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/resource"
)

// restarted returns the world at a server that has taken over what the last one
// kept, and nothing else.
func (w *world) restarted(t *testing.T) *world {
	t.Helper()
	data, err := w.server.Refusals()
	if err != nil {
		t.Fatal(err)
	}
	next := *w
	next.server = testServer()
	if err := next.server.Recall(data); err != nil {
		t.Fatalf("%v of\n%s", err, data)
	}
	next.publish()
	return &next
}

func TestRefusalsOutliveTheProcess(t *testing.T) {
	protocolTest("a proxy that is new after a restart has the last acknowledged content", t, func(t *testing.T, w *world) {
		quarantined(t, w)
		n := w.restarted(t)
		if q := n.server.Quarantines(); len(q) != 1 || q[0].Name != "cluster a" || q[0].Message != "refused" {
			t.Errorf("in quarantine: %+v", q)
		}
		fresh := openDelta(t, n.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(cds)
		fresh.expect("cluster a@1 b@1")
		// Of another profile too, of which the last process knew nothing.
		other := newWorld(n.server, cluster("a", "2"), cluster("b", "1"))
		other.be(resource.Profile{Service: "lake"})
		publish(n.server, n, other)
		lake := openDelta(t, n.server)
		lake.node.Id, lake.node.Cluster = "lake-1", "lake"
		lake.subscribe(cds)
		lake.expect("cluster a@1 b@1")
		// One that comes back with it is sent nothing.
		back := openDelta(t, n.server)
		back.reconnect(cds, nil, "a", "1", "b", "1")
		back.wantSent("")
		// And again: what is served instead is kept for the next start.
		n = n.restarted(t)
		fresh = openDelta(t, n.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(cds)
		fresh.expect("cluster a@1 b@1")
		// Other content ends it.
		n.put(cluster("a", "3")).publish()
		fresh.wantSent("cluster a@3")
		if q := n.server.Quarantines(); len(q) != 0 {
			t.Errorf("in quarantine still: %+v", q)
		}
	})
	protocolTest("what is served instead depends on what the proxy is served", t, func(t *testing.T, w *world) {
		w.put(cluster("a", "1"), route("out", "1", "a")).publish()
		all := proxies(t, w, 3)
		for _, c := range all {
			c.subscribe(rds, "out")
			c.settle()
		}
		w.put(route("out", "2", "b")).publish()
		for range 2 {
			for _, c := range all {
				c.settle("route out@2")
			}
		}
		n := w.restarted(t)
		fresh := openDelta(t, n.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(cds)
		fresh.settle()
		fresh.subscribe(rds, "out")
		fresh.expect("route out@1")
	})
	protocolTest("a proxy that refused alone, and is new too, has what it had", t, func(t *testing.T, w *world) {
		c := connected(t, w)
		w.put(cluster("a", "2")).publish()
		c.wantSent("cluster a@2, endpoint a@1", "cluster a@2")
		n := w.restarted(t)
		again := openDelta(t, n.server)
		again.subscribe(cds)
		again.wantSent("cluster a@1 b@1")
		if ts := n.clusters("nexus-1"); ts.State != Rejected || ts.LastNack == nil || ts.LastNack.Message != "refused" {
			t.Errorf("%+v %+v", ts, ts.LastNack)
		}
	})
	protocolTest("refusals before a restart and after it count together", t, func(t *testing.T, w *world) {
		all := proxies(t, w, 2)
		w.put(cluster("a", "2")).publish()
		for _, c := range all {
			c.settle("cluster a@2")
		}
		n := w.restarted(t)
		third := openDelta(t, n.server)
		third.node.Id = "third"
		third.subscribe(cds)
		third.settle("cluster a@2")
		third.settle("cluster a@2")
		if q := n.server.Quarantines(); len(q) != 1 {
			t.Fatalf("in quarantine: %+v", q)
		}
		fresh := openDelta(t, n.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(cds)
		fresh.expect("cluster a@1 b@1")
	})
	protocolTest("it ends when nobody of whom it is comes back", t, func(t *testing.T, w *world) {
		quarantined(t, w)
		n := w.restarted(t)
		time.Sleep(11 * time.Minute)
		n.put(cluster("b", "2")).publish()
		if q := n.server.Quarantines(); len(q) != 0 {
			t.Errorf("in quarantine: %+v", q)
		}
	})
}

// What cannot be what was kept is not believed in part.
func TestRefusalsThatAreNoneAreNotTaken(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		w.put(secret("ROOTCA", "1")).publish()
		quarantined(t, w)
		good, err := w.server.Refusals()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(good, []byte(`"secret"`)) {
			t.Errorf("a secret is kept:\n%s", good)
		}
		for name, bad := range map[string]string{
			"no JSON":         "{",
			"a secret":        strings.ReplaceAll(string(good), `"type":"cluster"`, `"type":"secret"`),
			"an unknown type": strings.ReplaceAll(string(good), `"type":"cluster"`, `"type":"filter"`),
			"no fallback":     strings.Replace(string(good), `"instead":["1"]`, `"instead":["7"]`, 1),
			"no state":        strings.Replace(string(good), `"depends":"`, `"depends":"z`, 1),
			"another kind":    strings.Replace(string(good), `"kind":0`, `"kind":9`, 1),
		} {
			s := testServer()
			if bad == string(good) {
				t.Fatalf("%s changes nothing in\n%s", name, good)
			}
			if err := s.Recall([]byte(bad)); err == nil || len(s.Quarantines()) != 0 {
				t.Errorf("%s: %v, %d in quarantine", name, err, len(s.Quarantines()))
			}
		}
	})
}
