package xds

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// What a client does to itself must be its own affair.

func TestRequestsThatAreTooMuch(t *testing.T) {
	names := make([]string, wire.MaxNames+1)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	for _, tt := range []struct {
		name string
		send func(c *client, p protocol)
		want codes.Code
	}{
		{"bytes that are no message", func(c *client, _ protocol) { c.in <- []byte{0x0a, 0xff} }, codes.InvalidArgument},
		{"a node that is none", func(c *client, p protocol) {
			field := byte(0x0a) // field 1, a message
			if p == sotw {
				field = 0x12
			}
			c.in <- []byte{field, 2, 0x0a, 0xff}
		}, codes.InvalidArgument},
		{"too many names", func(c *client, p protocol) {
			if p == delta {
				c.send(&discovery.DeltaDiscoveryRequest{Node: c.takeNode(), TypeUrl: eds.URL(), ResourceNamesSubscribe: names})
			} else {
				c.send(&discovery.DiscoveryRequest{Node: c.takeNode(), TypeUrl: eds.URL(), ResourceNames: names})
			}
		}, codes.ResourceExhausted},
		{"an empty name", func(c *client, p protocol) {
			if p == delta {
				c.send(&discovery.DeltaDiscoveryRequest{Node: c.takeNode(), TypeUrl: eds.URL(), ResourceNamesSubscribe: []string{"a", ""}})
			} else {
				c.send(&discovery.DiscoveryRequest{Node: c.takeNode(), TypeUrl: eds.URL(), ResourceNames: []string{""}})
			}
		}, codes.InvalidArgument},
		{"a name too many in all of its requests", func(c *client, p protocol) {
			if p == delta {
				c.send(&discovery.DeltaDiscoveryRequest{Node: c.takeNode(), TypeUrl: eds.URL(), ResourceNamesSubscribe: names[:wire.MaxNames]})
				c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: rds.URL(), ResourceNamesSubscribe: names[:1]})
			} else {
				c.send(&discovery.DiscoveryRequest{Node: c.takeNode(), TypeUrl: eds.URL(), ResourceNames: names[:wire.MaxNames]})
				c.send(&discovery.DiscoveryRequest{TypeUrl: rds.URL(), ResourceNames: names[:1]})
			}
		}, codes.ResourceExhausted},
		{"nothing", func(c *client, _ protocol) { time.Sleep(30 * time.Second) }, codes.DeadlineExceeded},
	} {
		for _, p := range []protocol{delta, sotw} {
			protocolTest(tt.name+", "+p.String(), t, func(t *testing.T, w *world) {
				good := openDelta(t, w.server)
				good.node.Id = "good"
				good.subscribe(eds, "a")
				good.expect("endpoint a@1")
				c := open(t, w.server, p, "")
				tt.send(c, p)
				if got := status.Code(c.end()); got != tt.want {
					t.Errorf("code %v, want %v", got, tt.want)
				}
				w.put(endpoint("a", "2")).publish()
				good.expect("endpoint a@2")
				good.close()
				c.close()
				w.server.wantEmpty(t)
			})
		}
	}
	t.Run("a message over the limit", func(t *testing.T) {
		transports[1].run(t, func(t *testing.T, w *world) {
			c := openDelta(t, w.server)
			c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: strings.Repeat("x", maxMessage)})
			if got := status.Code(c.end()); got != codes.ResourceExhausted {
				t.Errorf("code %v", got)
			}
			w.server.wantEmpty(t)
		})
	})
}

// A client that does not read fills the windows of HTTP/2, and no more.
func TestASlowReaderOverGRPC(t *testing.T) {
	for _, p := range []protocol{delta, sotw} {
		for _, tr := range transports[1:3] {
			t.Run(p.String(), func(t *testing.T) {
				tr.run(t, func(t *testing.T, w *world) {
					conn := tr.dial(t, w.server)
					slow, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method(p, ""))
					if err != nil {
						t.Fatal(err)
					}
					w.put(large("big", "1")).publish()
					var m proto.Message = &discovery.DeltaDiscoveryRequest{
						Node: &corepb.Node{Id: "slow", Cluster: "nexus"}, TypeUrl: eds.URL(), ResourceNamesSubscribe: []string{"big"},
					}
					if p == sotw {
						m = &discovery.DiscoveryRequest{
							Node: &corepb.Node{Id: "slow", Cluster: "nexus"}, TypeUrl: eds.URL(), ResourceNames: []string{"big"},
						}
					}
					b, err := proto.Marshal(m)
					if err != nil {
						t.Fatal(err)
					}
					if err := slow.SendMsg(&b); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					good := openDelta(t, w.server)
					good.subscribe(eds, "big")
					good.expect("endpoint big@1")
					for i := range 5 {
						w.put(large("big", fmt.Sprint("x", i))).publish()
						good.expect(fmt.Sprint("endpoint big@x", i))
					}
					// gRPC takes one response whatever its size; the second one, half a
					// second later, waits.
					time.Sleep(20*time.Second + 500*time.Millisecond)
					synctest.Wait()
					if n := testutil.ToFloat64(w.server.metrics.slow); n != 0 {
						t.Error("a response of a megabyte has more time")
					}
					time.Sleep(((1<<20)/slowest + 1) * time.Second)
					synctest.Wait()
					if n := testutil.ToFloat64(w.server.metrics.slow); n != 1 {
						t.Errorf("%v slow clients", n)
					}
					if n := len(w.server.Proxies()); n != 1 {
						t.Errorf("%d proxies", n)
					}
					good.close()
					w.server.wantEmpty(t)
				})
			})
		}
	}
}

// large returns a resource of more than a window.
func large(name, version string) *resource.Resource {
	r := endpoint(name, version)
	r.Body = append(r.Body, 0xfa, 0x3f, 0x80, 0x80, 0x40) // field 1023, 1 MiB
	r.Body = append(r.Body, make([]byte, 1<<20)...)
	return r
}

// A peer that vanished without closing is noticed by keepalive, whether there
// is something to send or not.
func TestAHalfOpenConnection(t *testing.T) {
	for _, tr := range transports[1:3] {
		tr.run(t, func(t *testing.T, w *world) {
			server, client := insecure.NewCredentials(), insecure.NewCredentials()
			if strings.Contains(tr.name, "TLS") {
				server, client = throwAway()
			}
			var cable *halfOpen
			conn := dialThrough(t, w.server, server, client, func(c net.Conn) net.Conn {
				cable = &halfOpen{Conn: c}
				return cable
			})
			far := deltaClient{newClient(t)}
			go far.pump(conn, delta, "")
			far.subscribe(eds, "a")
			far.expect("endpoint a@1")
			cable.cut.Store(true)
			w.put(endpoint("a", "2")).publish()
			time.Sleep(41 * time.Second)
			w.server.wantEmpty(t)
		})
	}
}

// Clients that send anything in any order, and come and go, hold up nobody and
// leave nothing behind.
func TestHostileClients(t *testing.T) {
	for seed := range uint64(20) {
		for _, tr := range transports[:2] {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				tr.run(t, func(t *testing.T, w *world) {
					random := rand.New(rand.NewPCG(seed, 0))
					found := watchStates(w.server)
					var good []deltaClient
					for i := range 3 {
						c := openDelta(t, w.server)
						c.node.Id = fmt.Sprint("good-", i)
						c.subscribe(cds)
						c.settle()
						c.subscribe(eds, "a", "b")
						c.settle()
						good = append(good, c)
					}
					var hostile sync.WaitGroup
					for i := range 8 {
						r := rand.New(rand.NewPCG(seed, uint64(i+1)))
						hostile.Go(func() { harass(t, w.server, r, i) })
					}
					version := ""
					for i := range 20 {
						version = fmt.Sprint("x", i)
						w.put(res(cds, "a", version), res(eds, "b", version)).publish()
						for _, c := range good {
							c.settle()
						}
						found.check(t)
						time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
					}
					hostile.Wait()
					for range 10 {
						for _, c := range good {
							c.settle()
						}
						time.Sleep(time.Minute)
					}
					for i, c := range good {
						node := fmt.Sprint("good-", i)
						if ts := w.clusters(node); ts.State != Synced || len(ts.Quarantined) != 0 {
							t.Errorf("%s: %+v", node, ts)
						}
						c.subscribe(eds, "b")
						c.expect("endpoint b@" + version)
						c.close()
					}
					w.server.wantEmpty(t)
				})
			})
		}
	}
}

// harass opens streams and sends up to a hundred requests on each.
func harass(t *testing.T, s *Server, r *rand.Rand, id int) {
	for range 5 {
		p := protocol(r.IntN(2))
		c := open(t, s, p, "")
		reads := r.IntN(3) > 0
		nonce := ""
		for range r.IntN(100) {
			for reads && len(c.out) > 0 {
				m := &discovery.DeltaDiscoveryResponse{}
				if proto.Unmarshal(<-c.out, m) == nil && r.IntN(4) > 0 {
					nonce = m.Nonce
				}
			}
			select {
			case c.in <- anything(r, p, id, nonce):
			case <-c.ctx.Done():
			}
			time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		}
		if r.IntN(2) == 0 {
			select {
			case c.in <- nil: // it says that it has no more to ask
			case <-c.ctx.Done():
			}
			time.Sleep(time.Duration(r.IntN(60)) * time.Second)
		}
		c.close()
	}
}

// anything returns a request, sense or nonsense.
func anything(r *rand.Rand, p protocol, id int, nonce string) []byte {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	names := func() (list []string) {
		for range r.IntN(5) {
			list = append(list, pick("a", "b", "c", "*", "", "in", "out", "default", "ROOTCA", "callers/nexus", strings.Repeat("n", 1000)))
		}
		return list
	}
	if r.IntN(20) == 0 {
		b := make([]byte, r.IntN(50))
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		return b
	}
	var node *corepb.Node
	if r.IntN(3) > 0 {
		node = &corepb.Node{Id: fmt.Sprint("bad-", id), Cluster: "nexus"}
		if r.IntN(20) == 0 {
			node.Id = pick("", "good-0x", "other")
		}
	}
	var failure *rpcstatus.Status
	if r.IntN(3) == 0 {
		failure = &rpcstatus.Status{Message: pick("a", "b: bad", "")}
	}
	typeURL := pick(cds.URL(), eds.URL(), lds.URL(), rds.URL(), sds.URL(), cds.URL(), "", "type.googleapis.com/nothing")
	if typeURL == "" && r.IntN(10) > 0 {
		typeURL = cds.URL() // an empty one ends the stream
	}
	nonce = pick(nonce, nonce, nonce, "", "1", "77")
	var m proto.Message
	if p == delta {
		m = &discovery.DeltaDiscoveryRequest{
			Node: node, TypeUrl: typeURL, ResponseNonce: nonce, ErrorDetail: failure,
			ResourceNamesSubscribe: names(), ResourceNamesUnsubscribe: names(),
			InitialResourceVersions: map[string]string{pick("a", "b", "gone"): pick("1", "x1", "")},
		}
	} else {
		m = &discovery.DiscoveryRequest{
			Node: node, TypeUrl: typeURL, ResponseNonce: nonce, ErrorDetail: failure,
			ResourceNames: names(), VersionInfo: pick("", "1", "00"),
		}
	}
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}
