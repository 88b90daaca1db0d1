package xds

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"datapunk.dev/controlplane/resource"
)

// proxies returns n delta clients, each a node of its own, that have all
// clusters and assignments of the world.
func proxies(t *testing.T, w *world, n int) []deltaClient {
	t.Helper()
	all := make([]deltaClient, n)
	for i := range all {
		c := openDelta(t, w.server)
		c.node.Id = fmt.Sprint("nexus-", i+1)
		c.subscribe(cds)
		c.settle()
		c.subscribe(eds, "a", "b")
		c.settle()
		all[i] = c
	}
	return all
}

func (c deltaClient) wantSent(want string, bad ...string) {
	c.t.Helper()
	if got := strings.Join(c.settle(bad...), ", "); got != want {
		c.t.Errorf("sent %q, want %q", got, want)
	}
}

// clusters returns what the server shows of a node's clusters.
func (w *world) clusters(node string) TypeStatus {
	for _, p := range w.server.Proxies() {
		if p.Node == node {
			return p.Types["cluster"]
		}
	}
	return TypeStatus{}
}

func TestQuarantine(t *testing.T) {
	protocolTest("after three refusals the fleet has the last acknowledged content again", t, func(t *testing.T, w *world) {
		log := &bytes.Buffer{}
		w.server.options.Logger = slog.New(slog.NewTextHandler(log, nil))
		w.server.options.Locate = func(keys []string) string { return "mesh.yaml:28:7 " + keys[0] }
		all := proxies(t, w, 4)
		w.put(cluster("a", "2")).publish()
		for _, c := range all[:2] {
			c.wantSent("cluster a@2, endpoint a@1", "cluster a@2")
			c.wantSent("")
		}
		// The third decides. Those that refused it are sent the old one, which
		// they may have lost.
		all[2].wantSent("cluster a@2, endpoint a@1, cluster a@1, endpoint a@1", "cluster a@2")
		for _, c := range all[:2] {
			c.wantSent("cluster a@1, endpoint a@1")
		}
		// The fourth has not answered; what it has on its way is overtaken.
		all[3].wantSent("cluster a@2, endpoint a@1, cluster a@1, endpoint a@1", "cluster a@2")

		fresh := openDelta(t, w.server)
		fresh.node.Id = "nexus-5"
		fresh.subscribe(cds)
		fresh.expect("cluster a@1 b@1")

		for _, node := range []string{"nexus-1", "nexus-4", "nexus-5"} {
			ts := w.clusters(node)
			if ts.State != Synced || len(ts.Quarantined) != 1 {
				t.Fatalf("%s: %+v", node, ts)
			}
			q := ts.Quarantined[0]
			if q.Name != "a" || q.Version != "2" || q.Source != "mesh.yaml:28:7 key.a" || q.Message != "refused" || q.Since.IsZero() {
				t.Errorf("%s: %+v", node, q)
			}
		}
		if n := testutil.ToFloat64(w.server.metrics.quarantined); n != 1 {
			t.Errorf("gauge %v", n)
		}
		// /readyz says it.
		if q := w.server.Quarantines(); len(q) != 1 || q[0].Name != "cluster a" || q[0].Source != "mesh.yaml:28:7 key.a" || q[0].Message != "refused" {
			t.Errorf("%+v", q)
		}
		if n := strings.Count(log.String(), "in quarantine"); n != 1 {
			t.Errorf("%d lines about the quarantine:\n%s", n, log)
		}

		w.put(cluster("b", "2")).publish()
		fresh.wantSent("cluster b@2")
		w.put(cluster("a", "3")).publish()
		fresh.wantSent("cluster a@3")
		all[0].wantSent("cluster b@2, endpoint b@1, cluster a@3, endpoint a@1")
		if ts := w.clusters("nexus-5"); len(ts.Quarantined) != 0 || ts.State != Synced {
			t.Errorf("after other content: %+v", ts)
		}
		if n := testutil.ToFloat64(w.server.metrics.quarantined); n != 0 {
			t.Errorf("gauge %v", n)
		}
	})
	protocolTest("two refusals are not enough, and one proxy counts once", t, func(t *testing.T, w *world) {
		all := proxies(t, w, 2)
		w.put(cluster("a", "2")).publish()
		for _, c := range all {
			c.wantSent("cluster a@2, endpoint a@1", "cluster a@2")
		}
		for range 5 { // it comes back as a new process
			c := openDelta(t, w.server)
			c.subscribe(cds)
			c.settle("cluster a@2")
		}
		fresh := openDelta(t, w.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(cds)
		fresh.expect("cluster a@2 b@1")
	})
	protocolTest("the number of proxies is an option", t, func(t *testing.T, _ *world) {
		w := newWorld(testServer(func(o *Options) { o.Quorum = 1 }), cluster("a", "1"), cluster("b", "1"), endpoint("a", "1"), endpoint("b", "1"))
		w.publish()
		c := proxies(t, w, 1)[0]
		w.put(cluster("a", "2")).publish()
		c.wantSent("cluster a@2, endpoint a@1, cluster a@1, endpoint a@1", "cluster a@2")
	})
	typeTest("a refusal of several resources at once blames none of them", t, func(t *testing.T, w *world) {
		all := proxies(t, w, 3)
		w.put(endpoint("a", "2"), endpoint("b", "2")).publish()
		for _, c := range all {
			c.nack(c.peek("endpoint a@2 b@2"), "refused")
		}
		for _, c := range all {
			c.wantSent("endpoint a@2, endpoint b@2")
		}
		if n := len(w.server.Quarantines()); n != 0 {
			t.Errorf("%d in quarantine", n)
		}
	})
	protocolTest("content that as many proxies acknowledged is never taken away", t, func(t *testing.T, w *world) {
		all := proxies(t, w, 7)
		w.put(cluster("a", "2")).publish()
		for _, c := range all[:3] {
			c.wantSent("cluster a@2, endpoint a@1")
		}
		for _, c := range all[3:] {
			c.wantSent("cluster a@2, endpoint a@1", "cluster a@2")
			if got := c.settle(); len(got) != 0 {
				t.Errorf("sent %q", got)
			}
		}
		if ts := w.clusters("nexus-7"); ts.State != Rejected || len(ts.Quarantined) != 0 {
			t.Errorf("%+v", ts)
		}
	})
	protocolTest("and comes back when they acknowledge it later", t, func(t *testing.T, w *world) {
		all := proxies(t, w, 6)
		w.put(cluster("a", "2")).publish()
		var unanswered []string
		for _, c := range all[3:] {
			unanswered = append(unanswered, c.peek("cluster a@2").Nonce)
		}
		for _, c := range all[:3] {
			c.settle("cluster a@2")
		}
		if n := len(w.server.Quarantines()); n != 1 {
			t.Fatalf("%d in quarantine", n)
		}
		for i, c := range all[3:] {
			m := c.peek("endpoint a@1")
			m.TypeUrl, m.Nonce = cds.URL(), unanswered[i]
			c.ack(m)
		}
		if n := len(w.server.Quarantines()); n != 0 {
			t.Errorf("%d in quarantine", n)
		}
		fresh := openDelta(t, w.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(cds)
		fresh.expect("cluster a@2 b@1")
	})
	typeTest("without anything before, a fresh client is served nothing and the others keep what they have", t, func(t *testing.T, w *world) {
		all := proxies(t, w, 3)
		w.put(cluster("c", "1"), cluster("d", "1")).publish()
		for _, c := range all {
			c.settle("cluster c@1")
		}
		for i, c := range all {
			if i < 2 { // the third was told in the course of its refusal
				c.wantSent("cluster -c")
			}
			if ts := w.clusters(fmt.Sprint("nexus-", i+1)); ts.State != Synced || len(ts.Quarantined) != 1 {
				t.Errorf("%+v", ts)
			}
		}
		fresh := openDelta(t, w.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(cds)
		fresh.expect("cluster a@1 b@1 d@1")
		w.put(cluster("c", "2")).publish()
		fresh.expect("cluster c@2")
	})
	protocolTest("a client keeps what it has where nothing can take its place", t, func(t *testing.T, w *world) {
		// Another service has the very bytes that nexus refuses, made apart: for
		// it nothing came before them.
		lake := newWorld(w.server, cluster("a", "2"))
		lake.be(resource.Profile{Service: "lake"}).publish()
		publish(w.server, w, lake)
		c := openDelta(t, w.server)
		c.node.Id, c.node.Cluster = "lake-1", "lake"
		c.subscribe(cds)
		c.expect("cluster a@2")
		c.subscribe(eds, "a")
		c.expect("endpoint -a")

		quarantined(t, w)
		c.silence("it keeps a@2, although nobody else is served it")
		if ts := w.clusters("lake-1"); ts.State != Synced || len(ts.Quarantined) != 1 {
			t.Errorf("%+v", ts)
		}
		c.subscribe(cds, "a")
		c.expect("cluster a@2") // what is asked for is answered
		c.expect("endpoint -a") // as after any cluster
		lake.remove(cds, "a").publish()
		c.expect("cluster -a")
	})
	typeTest("in SotW too", t, func(t *testing.T, w *world) {
		var all []sotwClient
		for i := range 3 {
			c := openSotw(t, w.server)
			c.node.Id = fmt.Sprint("nexus-", i)
			c.subscribe(cds)
			c.expect("cluster a@1 b@1")
			all = append(all, c)
		}
		w.put(cluster("a", "2"), cluster("c", "1")).publish()
		for _, c := range all {
			c.nack(c.peek("cluster a@2 b@1 c@1"), "refused")
			c.nack(c.peek("cluster a@2 b@1"), "refused")
			c.expect("cluster a@1 b@1 c@1")
		}
		for _, c := range all {
			c.expect("cluster a@1 b@1 c@1")
			c.silence("a@1 is what there is")
		}
		fresh := openSotw(t, w.server)
		fresh.node.Id = "fresh"
		fresh.subscribe(cds)
		fresh.expect("cluster a@1 b@1 c@1")
		w.put(cluster("c", "2")).publish()
		fresh.expect("cluster a@1 b@1 c@2")
		w.put(cluster("a", "3")).publish()
		fresh.expect("cluster a@3 b@1 c@2")
	})
	protocolTest("a listener leaves quarantine when its secret changes", t, func(t *testing.T, w *world) {
		in := listener("in", "2", sds.Ref("ROOTCA"))
		w.put(secret("ROOTCA", "1")).publish()
		var all []deltaClient
		for i := range 3 {
			c := openDelta(t, w.server)
			c.node.Id = fmt.Sprint("nexus-", i)
			c.subscribe(sds, "ROOTCA")
			c.subscribe(lds)
			c.settle()
			all = append(all, c)
		}
		w.put(in).publish()
		for _, c := range all {
			c.settle("listener in@2")
		}
		for _, c := range all[:2] {
			c.wantSent("listener in@1")
		}
		w.put(secret("ROOTCA", "2")).publish()
		for _, c := range all {
			c.wantSent("secret ROOTCA@2, listener in@2")
		}
	})
	typeTest("new proxies of new profiles are served the last acknowledged content too", t, func(t *testing.T, w *world) {
		for _, c := range quarantined(t, w) {
			c.close()
		}
		synctest.Wait()
		second := w.beside(resource.Profile{Service: "nexus", Address: "10.0.0.2"})
		second.publish()
		fresh := openDelta(t, w.server)
		fresh.node.Metadata = metadataOf(t, map[string]any{"address": "10.0.0.2"})
		fresh.subscribe(cds)
		fresh.expect("cluster a@1 b@1")
	})
	typeTest("profiles with the same resources share what they have in its place", t, func(t *testing.T, w *world) {
		quarantined(t, w)
		other := w.beside(resource.Profile{Service: "nexus", Address: "10.0.0.2"})
		publish(w.server, w, other)
		fresh := openDelta(t, w.server)
		fresh.node.Id, fresh.node.Metadata = "nexus-9", metadataOf(t, map[string]any{"address": "10.0.0.2"})
		fresh.subscribe(cds)
		fresh.expect("cluster a@1 b@1")
		if w.view().of(cds) != other.view().of(cds) {
			t.Error("each has a served set of its own: every response would be encoded for each")
		}
	})
	typeTest("and it is forgotten ten minutes after the last proxy", t, func(t *testing.T, w *world) {
		for _, c := range quarantined(t, w) {
			c.close()
		}
		time.Sleep(10 * time.Minute)
		w.publish()
		if n := len(w.server.Quarantines()); n != 0 {
			t.Errorf("%d in quarantine", n)
		}
	})
}

// quarantined returns three clients, after they refused cluster a@2.
func quarantined(t *testing.T, w *world) []deltaClient {
	t.Helper()
	all := proxies(t, w, 3)
	w.put(cluster("a", "2")).publish()
	for _, c := range all {
		c.settle("cluster a@2")
	}
	for _, c := range all {
		c.settle()
	}
	if n := len(w.server.Quarantines()); n != 1 {
		t.Fatalf("%d in quarantine", n)
	}
	return all
}
