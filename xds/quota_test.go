package xds

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/resource"
)

// limitTest runs a test with a published world, under the limits.
func limitTest(name string, t *testing.T, l Limits, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			via = transports[0]
			w := newWorld(testServer(func(o *Options) { o.Limits = l }), cluster("a", "1"))
			w.publish()
			f(t, w)
			synctest.Wait()
		})
	})
}

func (s *Server) wantRefused(t *testing.T, reason string, want int) {
	t.Helper()
	if n := testutil.ToFloat64(s.metrics.refused.WithLabelValues(reason)); n != float64(want) {
		t.Errorf("%v streams refused by %s, want %d", n, reason, want)
	}
}

// begin opens a stream of a node and asks for clusters.
func (w *world) begin(t *testing.T, node string) deltaClient {
	c := openDelta(t, w.server)
	c.node.Id = node
	c.subscribe(cds)
	return c
}

func TestLimits(t *testing.T) {
	limitTest("streams in all", t, Limits{Streams: 3}, func(t *testing.T, w *world) {
		var open []deltaClient
		for i := range 3 {
			c := w.begin(t, fmt.Sprint("n", i))
			c.expect("cluster a@1")
			open = append(open, c)
		}
		if got := status.Code(w.begin(t, "late").end()); got != codes.ResourceExhausted {
			t.Errorf("code %v", got)
		}
		open[0].close()
		synctest.Wait()
		w.begin(t, "late").expect("cluster a@1")
		w.server.wantRefused(t, "streams", 1)
	})
	limitTest("new streams a second", t, Limits{StreamRate: 2, StreamBurst: 3}, func(t *testing.T, w *world) {
		refused := 0
		for i := range 5 {
			c := w.begin(t, fmt.Sprint("n", i))
			if i < 3 {
				c.expect("cluster a@1")
			} else if got := status.Code(c.end()); got == codes.Unavailable {
				refused++
			}
		}
		if refused != 2 {
			t.Errorf("%d refused", refused)
		}
		time.Sleep(time.Second)
		for i := range 2 { // those come again
			w.begin(t, fmt.Sprint("n", 3+i)).expect("cluster a@1")
		}
		w.server.wantRefused(t, "rate", 2)
	})
	limitTest("streams of a node", t, Limits{}, func(t *testing.T, w *world) {
		w.profile.Kind = resource.Proxyless
		w.publish()
		begin := func() sotwClient {
			c := openSotw(t, w.server)
			c.node.UserAgentName = "gRPC Go"
			c.subscribe(cds, "a")
			return c
		}
		for range maxNodeStreams {
			begin().expect("cluster a@1")
		}
		if got := status.Code(begin().end()); got != codes.Unavailable {
			t.Errorf("too fast: code %v", got)
		}
		time.Sleep(time.Second)
		if got := status.Code(begin().end()); got != codes.ResourceExhausted {
			t.Errorf("too many: code %v", got)
		}
		w.server.wantRefused(t, "node_rate", 1)
		w.server.wantRefused(t, "node_streams", 1)
		w.profile.Kind = resource.Sidecar
		w.publish()
		w.begin(t, "other").expect("cluster a@1")
	})
	limitTest("a node that comes back too often", t, Limits{}, func(t *testing.T, w *world) {
		for range maxNodeStreams {
			c := w.begin(t, "n")
			c.expect("cluster a@1")
			c.close()
			synctest.Wait()
		}
		if got := status.Code(w.begin(t, "n").end()); got != codes.Unavailable {
			t.Errorf("code %v", got)
		}
		w.server.wantRefused(t, "node_rate", 1)
		// Nothing is known of it once it may come as often again.
		time.Sleep(2*forgetRate + time.Second)
		w.begin(t, "other").expect("cluster a@1")
		if n := len(w.server.rates.nodes); n != 1 {
			t.Errorf("%d rates are kept", n)
		}
	})
}
