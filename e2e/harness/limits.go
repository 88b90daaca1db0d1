package harness

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	commonlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// LimitServer counts by Envoy's rate limit protocol: of each caller of each service it
// lets as many requests pass as it is told, until it forgets.
type LimitServer struct {
	rlsv3.UnimplementedRateLimitServiceServer

	each uint32
	addr string

	mu     sync.Mutex
	counts map[string]uint32 // by descriptor: "service=lake caller=spiffe://m/nexus"
	domain string            // of the last question
	hangs  time.Duration     // before each answer
	stop   func()
}

// StartLimits listens on an address of this machine.
func StartLimits(t testing.TB, addr string, each uint32, options ...grpc.ServerOption) *LimitServer {
	t.Helper()
	s := &LimitServer{each: each, addr: addr, counts: make(map[string]uint32)}
	s.Serve(t, options...)
	return s
}

// Serve listens, again after [LimitServer.Die].
func (s *LimitServer) Serve(t testing.TB, options ...grpc.ServerOption) {
	t.Helper()
	l, err := net.Listen("tcp", s.addr)
	must(t, err)
	s.addr = l.Addr().String()
	server := grpc.NewServer(options...)
	rlsv3.RegisterRateLimitServiceServer(server, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Stop
	}()
	s.stop = func() { server.Stop(); <-done }
	t.Cleanup(s.stop)
}

// Addr is where it listens.
func (s *LimitServer) Addr() string { return s.addr }

// Die closes the port and every connection.
func (s *LimitServer) Die() { s.stop() }

// Hang has every answer come so much later.
func (s *LimitServer) Hang(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangs = d
}

// Forget lets every caller begin anew.
func (s *LimitServer) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.counts)
}

// Asked is how often it was asked for a descriptor, as "service=lake caller=X".
func (s *LimitServer) Asked(descriptor string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[descriptor]
}

// Domain is what it was asked for last.
func (s *LimitServer) Domain() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.domain
}

// ShouldRateLimit is asked by proxies, once a request.
func (s *LimitServer) ShouldRateLimit(ctx context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	s.mu.Lock()
	hangs := s.hangs
	s.mu.Unlock()
	if hangs > 0 {
		select {
		case <-time.After(hangs):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.domain = r.GetDomain()
	answer := &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}
	for _, d := range r.GetDescriptors() {
		key := text(d)
		s.counts[key]++
		status := &rlsv3.RateLimitResponse_DescriptorStatus{Code: rlsv3.RateLimitResponse_OK}
		if e := d.GetEntries(); len(e) == 2 && e[1].GetKey() == "caller" {
			status.CurrentLimit = &rlsv3.RateLimitResponse_RateLimit{RequestsPerUnit: s.each, Unit: rlsv3.RateLimitResponse_RateLimit_MINUTE}
			status.LimitRemaining = s.each - min(s.each, s.counts[key])
			status.DurationUntilReset = durationpb.New(time.Minute)
			if s.counts[key] > s.each {
				status.Code, answer.OverallCode = rlsv3.RateLimitResponse_OVER_LIMIT, rlsv3.RateLimitResponse_OVER_LIMIT
			}
		}
		answer.Statuses = append(answer.Statuses, status)
	}
	return answer, nil
}

func text(d *commonlimitv3.RateLimitDescriptor) string {
	var parts []string
	for _, e := range d.GetEntries() {
		parts = append(parts, e.GetKey()+"="+e.GetValue())
	}
	return strings.Join(parts, " ")
}
