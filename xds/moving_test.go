package xds

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// hasEnded reports whether the server has ended the stream.
func hasEnded(c deltaClient) bool {
	synctest.Wait()
	return len(c.ended) > 0
}

// Proxies that are sent away end up where they are served, and are sent nothing there
// that they have.
func TestProxiesThatAreSentAwayAreSentNothingElsewhere(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		all := proxies(t, w, 4)
		if n := w.server.Envoys(); n != 4 {
			t.Fatalf("%d Envoys", n)
		}
		if n := w.server.Move(2); n != 2 || w.server.Moved() != 2 {
			t.Fatalf("%d were sent away", n)
		}
		other := *w
		other.server = testServer()
		other.publish()
		away := 0
		for i, c := range all {
			if !hasEnded(c) {
				continue
			}
			away++
			next := openDelta(t, other.server)
			next.node.Id = fmt.Sprint("nexus-", i+1)
			next.reconnect(cds, nil, "a", "1", "b", "1")
			next.wantSent("")
		}
		if away != 2 || w.server.Envoys() != 2 || other.server.Envoys() != 2 {
			t.Errorf("%d streams have ended, %d Envoys are left, and %d elsewhere", away, w.server.Envoys(), other.server.Envoys())
		}
	})
}

// One that comes back may know of no other replica: it is not sent away again and
// again.
func TestAProxyThatComesBackIsLeftAlone(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		proxies(t, w, 2)
		if n := w.server.Move(5); n != 2 {
			t.Fatalf("%d of 2 were sent away", n)
		}
		for i := range 2 {
			c := openDelta(t, w.server)
			c.node.Id = fmt.Sprintf("nexus-%d", i+1)
			c.subscribe(cds)
			c.settle()
		}
		if n := w.server.Move(5); n != 0 {
			t.Errorf("%d were sent away again", n)
		}
		// It is tried again, ever less often.
		for _, rest := range []time.Duration{movedRest, 2 * movedRest, 4 * movedRest, 8 * movedRest} {
			time.Sleep(rest - time.Second)
			if n := w.server.Move(5); n != 0 {
				t.Errorf("%d were sent away before %s are over", n, rest)
			}
			time.Sleep(time.Second)
			if n := w.server.Move(5); n != 2 {
				t.Errorf("after %s %d were sent away", rest, n)
			}
			for i := range 2 {
				c := openDelta(t, w.server)
				c.node.Id = fmt.Sprintf("nexus-%d", i+1)
				c.subscribe(cds)
				c.settle()
			}
		}
	})
}

// A drain in steps refuses who comes, and serves those that it has not ended yet.
func TestADrainInSteps(t *testing.T) {
	protocolTest("", t, func(t *testing.T, w *world) {
		all := proxies(t, w, 3)
		w.server.Close()
		late := openDelta(t, w.server)
		late.node.Id = "late"
		late.subscribe(cds)
		if !hasEnded(late) {
			t.Error("a stream began")
		}
		w.server.End(2)
		w.put(cluster("a", "2")).publish()
		served := 0
		for _, c := range all {
			if !hasEnded(c) {
				served++
				c.wantSent("cluster a@2, endpoint a@1")
			}
		}
		if served != 1 {
			t.Errorf("%d are served", served)
		}
		w.server.End(2)
		synctest.Wait()
		if n := w.server.Envoys(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// A connection ends at its age, and each at another time: a fleet that came at once
// does not go at once.
func TestAConnectionHasAnAge(t *testing.T) {
	const age = 30 * time.Minute
	var ends []time.Duration
	for _, tr := range transports[1:3] { // by gRPC
		for range 10 {
			tr.run(t, func(t *testing.T, w *world) {
				aged := *w
				aged.server = testServer(func(o *Options) { o.Limits.ConnectionAge = age })
				aged.publish()
				c := openDelta(t, aged.server)
				c.subscribe(cds)
				c.settle()
				time.Sleep(age * 9 / 10)
				aged.put(cluster("a", "2")).publish()
				c.wantSent("cluster a@2")
				began := time.Now()
				for !hasEnded(c) {
					if time.Since(began) > age/5+connectionGrace {
						t.Fatal("it is older than it may be")
					}
					time.Sleep(time.Second)
				}
				ends = append(ends, time.Since(began))
			})
		}
	}
	if first, last := slices.Min(ends), slices.Max(ends); last-first < time.Minute {
		t.Errorf("twenty connections end within %s", last-first)
	}
}
