package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	healthservice "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// checked is a server that has applications checked, and what it was told.
type checked struct {
	*Server
	mu    sync.Mutex
	check string // what an Envoy is to check: the name of a cluster; empty: nothing
	told  []string
}

// checking has every stream be that of lake-1 of lake.
func checking(credential Credential, change ...func(*Options)) *checked {
	c := &checked{check: "local_app"}
	c.Server = testServer(append([]func(*Options){func(o *Options) {
		o.Authenticate = func(context.Context) (Credential, error) { return credential, nil }
		o.Checks = Checks{
			Specifier: func(resource.Profile) proto.Message {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.check == "" {
					return nil
				}
				return &healthservice.HealthCheckSpecifier{ClusterHealthChecks: []*healthservice.ClusterHealthCheck{{ClusterName: c.check}}}
			},
			Reported: func(r HealthReport) {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.told = append(c.told, fmt.Sprintf("%s of %s: %d %d", r.Node, r.Service, r.Status, r.HTTPStatus))
			},
		}
	}}, change...)...)
	return c
}

func (c *checked) checks(cluster string) {
	c.mu.Lock()
	c.check = cluster
	c.mu.Unlock()
	c.ChecksChanged()
}

func (c *checked) wantTold(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.Join(c.told, "; ") != strings.Join(want, "; ") {
		t.Errorf("told %q, want %q", c.told, want)
	}
	c.told = nil
}

var lakeOne = Credential{Service: "lake", Node: "lake-1"}

// hdsStream is the client's end of a stream, in the bubble of the test.
type hdsStream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelFunc
	in     chan []byte
	codec  wire.Codec

	mu   sync.Mutex
	sent []string // the cluster that is to be checked, or "nothing", each time
	done chan struct{}
	err  error
}

func (s *hdsStream) Context() context.Context     { return s.ctx }
func (s *hdsStream) SetHeader(metadata.MD) error  { return nil }
func (s *hdsStream) SendHeader(metadata.MD) error { return nil }
func (s *hdsStream) SetTrailer(metadata.MD)       {}

func (s *hdsStream) RecvMsg(v any) error {
	select {
	case b, ok := <-s.in:
		if !ok {
			return io.EOF
		}
		return s.codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, v)
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

func (s *hdsStream) SendMsg(v any) error {
	m := v.(*healthservice.HealthCheckSpecifier)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(m.GetClusterHealthChecks()) == 0 {
		s.sent = append(s.sent, fmt.Sprintf("nothing each %s", m.GetInterval().AsDuration()))
		return nil
	}
	s.sent = append(s.sent, m.GetClusterHealthChecks()[0].GetClusterName())
	return nil
}

// openHDS opens a stream from a host.
func openHDS(t *testing.T, c *checked) *hdsStream {
	t.Helper()
	ctx, cancel := context.WithCancel(peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}}))
	s := &hdsStream{ctx: ctx, cancel: cancel, in: make(chan []byte, 1000), done: make(chan struct{})}
	go func() { defer close(s.done); s.err = c.serveHealth(s); cancel() }()
	t.Cleanup(func() { cancel(); <-s.done })
	return s
}

func (s *hdsStream) say(m proto.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	s.in <- b
}

// asks is the first message of a stream.
func (s *hdsStream) asks(node, service string) {
	s.say(&healthservice.HealthCheckRequestOrEndpointHealthResponse{RequestType: &healthservice.HealthCheckRequestOrEndpointHealthResponse_HealthCheckRequest{
		HealthCheckRequest: &healthservice.HealthCheckRequest{Node: &corev3.Node{Id: node, Cluster: service}},
	}})
}

// reports is what an Envoy says of its one endpoint.
func (s *hdsStream) reports(health corev3.HealthStatus, httpStatus float64) {
	e := &healthservice.EndpointHealth{HealthStatus: health}
	if httpStatus != 0 {
		e.HealthMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{"http_status_code": structpb.NewNumberValue(httpStatus)}}
	}
	s.say(&healthservice.HealthCheckRequestOrEndpointHealthResponse{RequestType: &healthservice.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{
		EndpointHealthResponse: &healthservice.EndpointHealthResponse{ClusterEndpointsHealth: []*healthservice.ClusterEndpointsHealth{{
			ClusterName: "local_app", LocalityEndpointsHealth: []*healthservice.LocalityEndpointsHealth{{EndpointsHealth: []*healthservice.EndpointHealth{e}}},
		}}},
	}})
}

func (s *hdsStream) wantSent(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Join(s.sent, "; ") != strings.Join(want, "; ") {
		t.Errorf("sent %q, want %q", s.sent, want)
	}
	s.sent = nil
}

// over reports how the stream has ended; OK and false: it has not.
func (s *hdsStream) over() (codes.Code, bool) {
	synctest.Wait()
	select {
	case <-s.done:
		return status.Code(s.err), true
	default:
		return codes.OK, false
	}
}

func (s *hdsStream) wantOver(t *testing.T, want codes.Code) {
	t.Helper()
	if got, over := s.over(); !over || got != want {
		t.Errorf("over %v with %v (%v), want %v", over, got, s.err, want)
	}
}

func (s *hdsStream) wantOpen(t *testing.T) {
	t.Helper()
	if _, over := s.over(); over {
		t.Errorf("it has ended: %v", s.err)
	}
}

// An Envoy is told what to check when it asks and when that changes, and what it
// reports arrives as it is.
func TestAnEnvoyChecksItsApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := checking(lakeOne)
		s := openHDS(t, c)
		s.asks("lake-1", "lake")
		s.wantSent(t, "local_app")
		s.reports(corev3.HealthStatus_HEALTHY, 200)
		s.reports(corev3.HealthStatus_HEALTHY, 429)
		s.reports(corev3.HealthStatus_UNHEALTHY, 500)
		c.wantTold(t, "lake-1 of lake: 1 200", "lake-1 of lake: 1 429", "lake-1 of lake: 2 500")
		time.Sleep(10 * time.Second)
		s.reports(corev3.HealthStatus_TIMEOUT, 0)
		c.wantTold(t, "lake-1 of lake: 4 0")
		c.ChecksChanged() // an edit of something else
		s.wantSent(t)
		c.checks("local_app_2")
		s.wantSent(t, "local_app_2")
		c.checks("")
		s.wantSent(t, "nothing each 1h0m0s")
		s.reports(corev3.HealthStatus_UNHEALTHY, 0) // it has not heard yet
		c.wantTold(t)
		c.checks("local_app")
		s.wantSent(t, "local_app")
		close(s.in)
		s.wantOver(t, codes.OK)
		if n := len(c.health.byNode); n != 0 || c.health.open != 0 {
			t.Errorf("%d streams are kept, %d counted", n, c.health.open)
		}
	})
}

// One that has nothing to check is kept, and told nothing: refused, it would come
// back twice a second. So is one that has proved nothing, which is registered nowhere.
func TestAnEnvoyWithNothingToCheckIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := checking(lakeOne)
		c.check = ""
		s := openHDS(t, c)
		s.asks("lake-1", "lake")
		s.wantSent(t)
		time.Sleep(time.Hour)
		s.wantOpen(t)
		c.checks("local_app")
		s.wantSent(t, "local_app")

		open := checking(lakeOne, func(o *Options) { o.Authenticate = nil })
		s = openHDS(t, open)
		s.asks("lake-1", "lake")
		s.reports(corev3.HealthStatus_UNHEALTHY, 500)
		s.wantSent(t)
		open.wantTold(t)
		s.wantOpen(t)
	})
}

// What an Envoy reports is of the node that its stream has proved, and of no other.
func TestReportsAreOfTheIdentityOfTheStream(t *testing.T) {
	for what, asks := range map[string]func(s *hdsStream){
		"of another node":    func(s *hdsStream) { s.asks("lake-2", "lake") },
		"of another service": func(s *hdsStream) { s.asks("lake-1", "nexus") },
		"of another node later": func(s *hdsStream) {
			s.asks("lake-1", "lake")
			s.asks("lake-2", "lake")
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := checking(lakeOne)
				s := openHDS(t, c)
				asks(s)
				s.reports(corev3.HealthStatus_UNHEALTHY, 500)
				s.wantOver(t, codes.PermissionDenied)
				c.wantTold(t)
			})
		})
	}
	t.Run("without a token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := checking(lakeOne, func(o *Options) {
				o.Authenticate = func(context.Context) (Credential, error) { return Credential{}, errors.New("no token") }
			})
			openHDS(t, c).wantOver(t, codes.Unauthenticated)
		})
	})
	t.Run("with one that expires", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			credential := lakeOne
			credential.Expires = time.Now().Add(time.Hour)
			s := openHDS(t, checking(credential))
			s.asks("lake-1", "lake")
			time.Sleep(59 * time.Minute)
			s.wantOpen(t)
			time.Sleep(time.Minute)
			s.wantOver(t, status.Code(errExpired))
		})
	})
}

// A stream has bounds as those of ADS have.
func TestWhatAnHDSStreamMayCost(t *testing.T) {
	one := func(what string, test func(t *testing.T, c *checked, s *hdsStream)) {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := checking(lakeOne)
				test(t, c, openHDS(t, c))
			})
		})
	}
	one("one that says nothing", func(t *testing.T, c *checked, s *hdsStream) {
		time.Sleep(c.options.Timeouts.Identify)
		s.wantOver(t, status.Code(errSilent))
	})
	one("one that reports before it asks", func(t *testing.T, c *checked, s *hdsStream) {
		s.reports(corev3.HealthStatus_UNHEALTHY, 500)
		s.wantOver(t, codes.InvalidArgument)
		c.wantTold(t)
	})
	one("what is no message", func(t *testing.T, _ *checked, s *hdsStream) {
		s.asks("lake-1", "lake")
		s.in <- []byte{0xff}
		s.wantOver(t, codes.InvalidArgument)
	})
	one("a message that is too long", func(t *testing.T, _ *checked, s *hdsStream) {
		s.in <- make([]byte, 256<<10+1)
		s.wantOver(t, codes.ResourceExhausted)
	})
	one("one that reports without a pause", func(t *testing.T, c *checked, s *hdsStream) {
		s.asks("lake-1", "lake")
		for range 500 {
			s.reports(corev3.HealthStatus_HEALTHY, 200)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		c.mu.Lock()
		if n := len(c.told); n < 20 || n > 24 {
			t.Errorf("%d reports were read in 10 s", n)
		}
		c.mu.Unlock()
		s.wantOpen(t) // the others wait in the network
	})
	one("a second stream of the node", func(t *testing.T, c *checked, s *hdsStream) {
		s.asks("lake-1", "lake")
		s.wantSent(t, "local_app")
		next := openHDS(t, c)
		next.asks("lake-1", "lake")
		next.wantSent(t, "local_app")
		s.wantOver(t, status.Code(errSuperseded))
		next.wantOpen(t)
		c.checks("local_app_2")
		next.wantSent(t, "local_app_2")
	})
	one("one that comes back without a pause", func(t *testing.T, c *checked, _ *hdsStream) {
		for range 200 {
			s := openHDS(t, c)
			if code, over := s.over(); over {
				if code != codes.Unavailable {
					t.Errorf("refused with %v", code)
				}
				return
			}
			s.cancel()
		}
		t.Error("200 streams of a node were taken in a moment")
	})
	one("a control plane that ends", func(t *testing.T, c *checked, s *hdsStream) {
		s.asks("lake-1", "lake")
		s.wantSent(t, "local_app")
		c.Drain()
		s.wantOver(t, status.Code(errDraining))
		openHDS(t, c).wantOver(t, status.Code(errDraining))
	})
	t.Run("as many as there may be", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := checking(lakeOne, func(o *Options) { o.Limits.Streams = 1 })
			openHDS(t, c).wantOpen(t)
			openHDS(t, c).wantOver(t, codes.ResourceExhausted)
		})
	})
}
