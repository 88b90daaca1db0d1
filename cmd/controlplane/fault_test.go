//go:build component

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fleetOf opens the streams of so many proxies, and waits until each is whole. What
// each ended with comes out of the channel.
func (v *victim) fleetOf(ctx context.Context, n int) <-chan error {
	v.t.Helper()
	ended := make(chan error, n)
	var whole atomic.Int64
	for i := range n {
		node := fmt.Sprint("proxy-", i)
		token := v.token(node)
		go func() {
			conn := v.dial("127.0.0.1", token)
			defer func() { _ = conn.Close() }()
			stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
			if err == nil {
				err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: node, Cluster: "web"}, TypeUrl: clusterType})
			}
			for first := true; err == nil; first = false {
				var m *discoveryv3.DeltaDiscoveryResponse
				if m, err = stream.Recv(); err == nil {
					if first {
						whole.Add(1)
					}
					err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce})
				}
			}
			ended <- err
		}()
	}
	v.eventually(fmt.Sprint(n, " proxies are whole"), func() bool { return whole.Load() == int64(n) })
	return ended
}

// A SIGTERM with 200 streams: each is told that the server goes, none is cut, and the
// process ends with 0 in time.
func TestTheEndWithTwoHundredStreams(t *testing.T) {
	v := startVictim(t, 0)
	ended := v.fleetOf(t.Context(), 200)
	began := time.Now()
	if err := syscall.Kill(v.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	reasons := make(map[codes.Code]int)
	for range 200 {
		select {
		case err := <-ended:
			reasons[status.Code(err)]++
		case <-time.After(30 * time.Second):
			t.Fatalf("after 30 s %v of 200 streams have ended", reasons)
		}
	}
	if reasons[codes.Unavailable] != 200 {
		t.Errorf("they ended with %v", reasons)
	}
	code, err := v.wait(20 * time.Second)
	if err != nil || code != 0 {
		t.Errorf("it ended with %d, %v; the end of the log:\n%s", code, err, tail(v.log()))
	}
	t.Logf("measured: 200 streams were ended, and the process with %d, after %.1f s", code, time.Since(began).Seconds())
}

// Ten thousand streams that are opened, subscribe to anything, and are closed at any
// moment, a hundred at a time: nothing of them is left.
func TestTenThousandStreamsComeAndGo(t *testing.T) {
	v := startVictim(t, 0)
	v.serves()
	goroutines := v.metric("go_goroutines")
	var opened, refused atomic.Int64
	cost := v.attack("10,000 streams that come and go", func() {
		var all sync.WaitGroup
		for i := range 100 {
			node := fmt.Sprint("proxy-", i)
			token := v.token(node)
			all.Go(func() {
				random := rand.New(rand.NewPCG(7, uint64(i)))
				conn := v.dial("127.0.0.1", token)
				defer func() { _ = conn.Close() }()
				for range 100 {
					if random.IntN(10) == 0 {
						_ = conn.Close()
						conn = v.dial("127.0.0.1", token)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(100))*time.Millisecond)
					if err := anything(ctx, conn, node, random); status.Code(err) == codes.ResourceExhausted || status.Code(err) == codes.Unavailable {
						refused.Add(1)
						time.Sleep(500 * time.Millisecond) // a node may begin two a second, after the first 64
					}
					cancel()
					opened.Add(1)
				}
			})
		}
		all.Wait()
	})
	v.serves()
	v.eventually("no stream is left", func() bool { return v.metric("controlplane_xds_streams") == 0 })
	v.eventually("no goroutine is left", func() bool { return v.metric("go_goroutines") <= goroutines+20 })
	cost.bound(t, 300, 0)
	t.Logf("measured: %d streams, %d of them refused; %.0f goroutines, before %.0f", opened.Load(), refused.Load(), v.metric("go_goroutines"), goroutines)
}

// anything subscribes to what there is and is not, acknowledges or refuses what comes,
// and goes on until ctx ends.
func anything(ctx context.Context, conn *grpc.ClientConn, node string, random *rand.Rand) error {
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	request := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: node, Cluster: "web"}, TypeUrl: clusterType}
	for {
		if err := stream.Send(request); err != nil {
			_, err = stream.Recv() // which knows why
			return err
		}
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		request = &discoveryv3.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce}
		switch random.IntN(4) {
		case 0:
			request.ErrorDetail = &rpcstatus.Status{Code: 13, Message: "refused"}
		case 1:
			request.ResourceNamesUnsubscribe = []string{"*", "a"}
		case 2:
			request.ResourceNamesSubscribe = []string{"*", fmt.Sprint("none-", random.IntN(10))}
		}
	}
}

// Many who ask for the metrics at once, and many who begin a request and do not end it,
// cost the fleet nothing.
func TestAFloodOfTheAdminAddress(t *testing.T) {
	v := startVictim(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := v.fleetOf(ctx, 20)
	addr := strings.TrimPrefix(v.admin, "http://")
	var answers atomic.Int64
	cost := v.attack("a flood of the admin address", func() {
		stop := time.Now().Add(5 * time.Second)
		var all sync.WaitGroup
		for range 200 { // who send a byte a second
			all.Go(func() {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				for _, b := range []byte("GET /metrics HTTP/1.1\r\n") {
					if _, err := conn.Write([]byte{b}); err != nil || time.Now().After(stop) {
						return
					}
					time.Sleep(time.Second)
				}
			})
		}
		for range 20 {
			all.Go(func() {
				client := http.Client{Timeout: 5 * time.Second}
				for time.Now().Before(stop) {
					for _, path := range []string{"/metrics", "/api/v1/proxies", "/readyz", "/no/such"} {
						if resp, err := client.Get(v.admin + path); err == nil {
							_ = resp.Body.Close()
							answers.Add(1)
						}
					}
				}
			})
		}
		v.serves() // a new proxy, meanwhile
		all.Wait()
	})
	cost.bound(t, 300, 0)
	select {
	case err := <-ended:
		t.Errorf("a stream ended: %v", err)
	default:
	}
	v.eventually("it answers", func() bool { return strings.Contains(v.get("/readyz"), `"ready":true`) })
	t.Logf("measured: %d answers in 5 s, 20 of 20 streams go on", answers.Load())
}
