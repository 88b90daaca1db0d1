package xds

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/resource"
)

// Two services, or two machines, with one node.id end each other's streams for
// as long as they live. That is an error which is said once, and shown until it
// is over.
func TestTwoProxiesWithOneNodeIDAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := New(Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		nexus, lake := newWorld(s, cluster("a", "1")), newWorld(s, cluster("b", "1"))
		lake.be(resource.Profile{Service: "lake"})
		publish(s, nexus, lake)
		open := func(service, host, want string) deltaClient {
			c := deltaClient{newClient(t)}
			c.ctx = peer.NewContext(c.ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(host)}})
			go func() {
				c.ended <- s.serve(delta, c.pipe, "")
				c.close()
			}()
			c.node.Id, c.node.Cluster = "proxy-1", service
			c.subscribe(cds)
			c.expect(want)
			return c
		}
		last := open("nexus", "10.0.0.1", "cluster a@1")
		for i := range 10 {
			service, host, want := "lake", "10.0.0.2", "cluster b@1"
			if i%2 == 1 {
				service, host, want = "nexus", "10.0.0.1", "cluster a@1"
			}
			next := open(service, host, want)
			err := last.end()
			if status.Code(err) != codes.Aborted {
				t.Fatalf("the older stream ends with %v", err)
			}
			if told := strings.Contains(err.Error(), "two proxies have this node.id"); told != (i >= 2) {
				t.Errorf("after %d: %v", i+1, err)
			}
			if shown := len(s.Contests()) == 1; shown != (i >= 2) {
				t.Errorf("after %d it is shown: %v", i+1, shown)
			}
			last = next
			time.Sleep(time.Second)
		}
		const want = `two proxies have the node.id "proxy-1" (lake on 10.0.0.2 and nexus on 10.0.0.1) and end each other's streams: give each its own`
		if c := s.Contests(); c[0].String() != want {
			t.Errorf("got  %s\nwant %s", c[0], want)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d errors in\n%s", n, log.String())
		}
		if n := strings.Count(log.String(), "stream ended"); n >= contestedAt {
			t.Errorf("%d lines of ten ends:\n%s", n, log.String())
		}
		time.Sleep(contestRest)
		if c := s.Contests(); len(c) != 0 {
			t.Errorf("%v goes on", c)
		}
		last.close()
	})
}

// A proxy that loses its connection now and then ends streams too: its own.
func TestAProxyThatComesBackIsNoContest(t *testing.T) {
	protocolTest("now and then", t, func(t *testing.T, w *world) {
		for range 10 {
			connected(t, w)
			time.Sleep(contestRest / 2)
			connected(t, w)
			time.Sleep(contestRest)
			if c := w.server.Contests(); len(c) != 0 {
				t.Fatal(c)
			}
		}
	})
}

// Ever new node.ids do not fill the memory.
func TestContestsAreBounded(t *testing.T) {
	cs, now := make(contests), time.Now()
	for i := range 3 * maxContests {
		cs.ended(strings.Repeat("n", i+1), side{}, side{}, now)
	}
	if len(cs) > maxContests {
		t.Errorf("%d are kept", len(cs))
	}
	cs.ended("new", side{}, side{}, now.Add(contestRest))
	if len(cs) != 1 {
		t.Errorf("%d are kept after they were over", len(cs))
	}
}
