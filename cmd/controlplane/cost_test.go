//go:build component

package main

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What a client that has shown no token may cost: each test attacks a control
// plane over TLS, and meanwhile a good client asks for its configuration.

const (
	adsMethod   = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
	renewMethod = "/controlplane.v1.Tokens/Renew"
)

// bound fails the test if the control plane had more memory, in MB, or CPU.
func (u spent) bound(t *testing.T, memory int, cpu time.Duration) {
	t.Helper()
	if u.memory > memory {
		t.Errorf("%d MB, want at most %d", u.memory, memory)
	}
	if cpu > 0 && u.cpu > cpu {
		t.Errorf("%s of CPU, want at most %s", u.cpu, cpu)
	}
}

func TestCostOfARapidReset(t *testing.T) {
	v := startVictim(t, 0)
	v.attack("rapid reset by 4 connections", func() {
		stop := time.Now().Add(5 * time.Second)
		var attackers sync.WaitGroup
		for range 4 {
			attackers.Go(func() {
				for sent := 0; time.Now().Before(stop) && sent < 2_000_000; {
					r, err := v.raw()
					if err != nil {
						time.Sleep(10 * time.Millisecond)
						continue
					}
					_ = r.SetWriteDeadline(stop)
					for ; time.Now().Before(stop); sent++ {
						id, err := r.open(adsMethod, false)
						if err == nil {
							err = r.framer.WriteRSTStream(id, http2.ErrCodeCancel)
						}
						if err != nil {
							break
						}
					}
					_ = r.Close()
				}
			})
		}
		time.Sleep(2 * time.Second)
		v.serves()
		attackers.Wait()
	}).bound(t, 300, 0)
}

func TestCostOfAFetch(t *testing.T) {
	v := startVictim(t, 0)
	body := &discoveryv3.DiscoveryRequest{TypeUrl: clusterType, ResourceNames: make([]string, 31<<19)}
	fetch := func(ctx context.Context, token string, want codes.Code) {
		conn := v.dial("127.0.0.1", token, grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
		defer func() { _ = conn.Close() }()
		_, err := clusterservicev3.NewClusterDiscoveryServiceClient(conn).FetchClusters(ctx, body)
		if got := status.Code(err); got != want {
			t.Errorf("a fetch of 31 MB: %v, want %s", err, want)
		}
	}
	v.attack("unary fetches of 31 MB by 6 clients", func() {
		timed, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var attackers sync.WaitGroup
		for range 2 {
			attackers.Go(func() { fetch(t.Context(), "", codes.Unauthenticated) })
			attackers.Go(func() { fetch(timed, "", codes.Unauthenticated) })
			attackers.Go(func() { fetch(timed, v.token("web-2"), codes.Unimplemented) })
		}
		v.serves()
		attackers.Wait()
	}).bound(t, 150, 2*time.Second)
}

func TestCostOfBodiesThatDoNotEnd(t *testing.T) {
	for _, method := range []string{renewMethod, adsMethod, "/no.such.Service/Method"} {
		t.Run(method, func(t *testing.T) {
			v := startVictim(t, 0)
			v.attack("bodies that do not end", func() {
				stop := time.Now().Add(6 * time.Second)
				var attackers sync.WaitGroup
				for range 4 {
					attackers.Go(func() {
						r, err := v.raw()
						if err != nil {
							t.Error(err)
							return
						}
						defer func() { _ = r.Close() }()
						_ = r.SetWriteDeadline(stop)
						head := binary.BigEndian.AppendUint32([]byte{0}, 31<<20)
						piece := make([]byte, 16<<10)
						var ids []uint32
						for range 50 {
							id, err := r.open(method, false)
							if err != nil {
								return
							}
							ids = append(ids, id)
							_ = r.framer.WriteData(id, false, head)
						}
						for range 60 { // within the windows, and a little more
							for _, id := range ids {
								if r.framer.WriteData(id, false, piece) != nil {
									return
								}
							}
							if r.out.Flush() != nil {
								return
							}
						}
						time.Sleep(time.Until(stop))
					})
				}
				time.Sleep(2 * time.Second)
				v.serves()
				attackers.Wait()
			}).bound(t, 200, 0)
		})
	}
}

func TestCostOfLongHeaders(t *testing.T) {
	v := startVictim(t, 0)
	v.attack("headers of 8 MB", func() {
		var attackers sync.WaitGroup
		for range 4 {
			attackers.Go(func() {
				for range 8 {
					r, err := v.raw()
					if err != nil {
						continue
					}
					_ = r.SetWriteDeadline(time.Now().Add(5 * time.Second))
					for range 4 {
						if _, err = r.open(adsMethod, false, "authorization", "Bearer "+strings.Repeat("x", 8<<20)); err != nil {
							break
						}
					}
					_ = r.out.Flush()
					_ = r.Close()
				}
			})
		}
		v.serves()
		attackers.Wait()
	}).bound(t, 300, 0)
}

// Connections that say nothing leave descriptors for proxies, for the admin
// address and for the mesh file, and are closed.
func TestCostOfConnectionsThatShowNoToken(t *testing.T) {
	v := startVictim(t, 1024)
	var mu sync.Mutex
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	v.attack("1100 connections to each port", func() {
		for _, addr := range []string{v.xds, strings.TrimPrefix(v.admin, "http://")} {
			var attackers sync.WaitGroup
			for i := range 20 {
				attackers.Go(func() {
					for range 55 {
						c, err := net.DialTimeout("tcp", addr, time.Second)
						if err != nil {
							continue
						}
						if i%2 == 0 && addr == v.xds { // half say something, to no end
							_, _ = c.Write([]byte{0x16, 3, 1})
						}
						mu.Lock()
						held = append(held, c)
						mu.Unlock()
					}
				})
			}
			attackers.Wait()
		}
		v.serves()
		if ready := v.get("/readyz"); !strings.Contains(ready, `"ready":true`) {
			t.Errorf("/readyz says %s", ready)
		}
		reloads := v.metric("controlplane_mesh_reloads_total")
		v.write("mesh.yaml", strings.Replace(inFile, "name: datapunk,", "name: datapunk, version: '2',", 1))
		v.eventually("the mesh file is read", func() bool { return v.metric("controlplane_mesh_reloads_total") > reloads })
	})
	v.eventually("idle connections are closed", func() bool { return v.usage().files < 100 })
	if n := v.metric("controlplane_connections_closed_total"); n < 1000 {
		t.Errorf("%v connections counted as closed", n)
	}
}

func TestCostOfRefusedClientsInTheLog(t *testing.T) {
	v := startVictim(t, 0)
	v.attack("refused clients", func() {
		stop := time.Now().Add(5 * time.Second)
		var attackers sync.WaitGroup
		var tried atomic.Int64
		for i := range 4 {
			attackers.Go(func() {
				token := ""
				if i%2 == 1 {
					token = "no.token.atall"
				}
				conn := v.dial("127.0.0.1", token)
				defer func() { _ = conn.Close() }()
				for ; time.Now().Before(stop); tried.Add(1) {
					if stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context()); err == nil {
						_, _ = stream.Recv()
					}
				}
			})
		}
		v.serves()
		attackers.Wait()
		lines := strings.Count(v.log(), "\n")
		t.Logf("%d streams, %d lines of log", tried.Load(), lines)
		if lines > 30 {
			t.Errorf("%d lines of log", lines)
		}
		if n := v.metric("controlplane_xds_clients_refused_total"); n < float64(tried.Load()) {
			t.Errorf("%v refusals counted of %d", n, tried.Load())
		}
	})
}
