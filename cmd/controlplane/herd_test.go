//go:build component

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// A fleet that comes back at once, as after a restart of the control plane, is
// let in within the limits: who is refused comes again, as an Envoy does.
func TestAFleetThatComesBackAtOnce(t *testing.T) {
	v := startVictim(t, 0)
	v.herd(1500)
	if n, want := v.metric("controlplane_xds_streams"), 0; n != float64(want) {
		v.eventually("the streams are gone", func() bool { return v.metric("controlplane_xds_streams") == float64(want) })
	}
}

// BenchmarkAFleetThatComesBackAtOnce is the same with ten thousand proxies.
//
//	go test -tags component ./cmd/controlplane -run '^$' -bench ComesBack -benchtime 1x
func BenchmarkAFleetThatComesBackAtOnce(b *testing.B) {
	v := startVictim(b, 0)
	for b.Loop() {
		b.ReportMetric(v.herd(10_000).Seconds(), "s-to-whole")
	}
}

// herd has so many proxies connect at the same moment, and returns how long it
// took until each had its clusters and its certificate, all at the same time.
func (v *victim) herd(n int) time.Duration {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	var whole, tries atomic.Int64
	all := make(chan struct{})
	var proxies sync.WaitGroup
	defer proxies.Wait()
	defer cancel()
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = v.token(fmt.Sprint("proxy-", i))
	}
	before := v.usage()
	began := time.Now()
	for i := range n {
		proxies.Go(func() {
			conn := v.dial("127.0.0.1", tokens[i])
			defer func() { _ = conn.Close() }()
			// Envoy waits for a random part of 500 ms, 1 s, 2 s … 30 s, and keeps the
			// connection of a stream that was refused.
			for attempt := 0; ctx.Err() == nil; attempt++ {
				tries.Add(1)
				v.proxy(ctx, conn, fmt.Sprint("proxy-", i), func(has bool) {
					if has && whole.Add(1) == int64(n) {
						close(all)
					} else if !has {
						whole.Add(-1)
					}
				})
				most := min(30*time.Second, 500*time.Millisecond<<min(attempt, 6))
				select {
				case <-ctx.Done():
				case <-time.After(rand.N(most)):
				}
			}
		})
	}
	select {
	case <-all:
	case <-ctx.Done():
		v.t.Errorf("%d of %d proxies are whole; the end of the log:\n%s", whole.Load(), n, tail(v.log()))
	}
	took := time.Since(began)
	after := v.usage()
	v.t.Logf("%d proxies whole after %.1f s, with %d streams; %d MB at most, %.1f s of CPU",
		n, took.Seconds(), tries.Load(), after.memory, (after.cpu - before.cpu).Seconds())
	return took
}

// proxy runs one ADS stream until it ends. It says when the proxy has all, and
// when it no longer has.
func (v *victim) proxy(ctx context.Context, conn *grpc.ClientConn, node string, whole func(bool)) {
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return
	}
	for _, r := range []*discoveryv3.DeltaDiscoveryRequest{
		{Node: &corev3.Node{Id: node, Cluster: "web"}, TypeUrl: clusterType},
		{TypeUrl: secretType, ResourceNamesSubscribe: []string{"default", "ROOTCA"}},
	} {
		if stream.Send(r) != nil {
			break // Recv knows why
		}
	}
	has := make(map[string]bool)
	for {
		m, err := stream.Recv()
		if err != nil {
			if len(has) == 2 {
				whole(false)
			}
			return
		}
		if !has[m.TypeUrl] {
			if has[m.TypeUrl] = true; len(has) == 2 {
				whole(true)
			}
		}
		_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce})
	}
}
