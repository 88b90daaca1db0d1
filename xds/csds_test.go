package xds

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminpb "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	statuspb "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	matcherpb "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"datapunk.dev/controlplane/listen"
)

// nodes asks for those whose node.id matches.
func nodes(m *matcherpb.StringMatcher) *statuspb.ClientStatusRequest {
	return &statuspb.ClientStatusRequest{NodeMatchers: []*matcherpb.NodeMatcher{{NodeId: m}}}
}

func exactly(node string) *matcherpb.StringMatcher {
	return &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Exact{Exact: node}}
}

// Each resource of a proxy has its state: what it refused is an ERROR with its words, and
// the rest is not.
func TestClientStatus(t *testing.T) {
	protocolTest("of one that refuses a cluster", t, func(t *testing.T, w *world) {
		w.put(cluster("lake", "1")).publish()
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.ack(c.next())
		w.put(cluster("lake", "2")).publish()
		c.nack(c.next(), "no such thing as lake")
		c.silence("what is refused alone is not sent again")
		out, err := w.server.clientStatus(t.Context(), nodes(exactly("nexus-1")))
		if err != nil || len(out.GetConfig()) != 1 {
			t.Fatalf("%v: %v", err, out)
		}
		config := out.GetConfig()[0]
		if config.GetNode().GetId() != "nexus-1" || config.GetNode().GetCluster() != "nexus" {
			t.Errorf("the node is %v", config.GetNode())
		}
		for _, r := range config.GetGenericXdsConfigs() {
			switch {
			case r.GetName() == "lake" && r.GetTypeUrl() == cds.URL():
				if r.GetConfigStatus() != statuspb.ConfigStatus_ERROR || r.GetClientStatus() != adminpb.ClientResourceStatus_NACKED || r.GetErrorState().GetDetails() != "no such thing as lake" {
					t.Errorf("lake is %v", r)
				}
			case r.GetTypeUrl() == cds.URL():
				if r.GetConfigStatus() != statuspb.ConfigStatus_SYNCED {
					t.Errorf("%s is %v", r.GetName(), r)
				}
			case r.GetTypeUrl() == lds.URL():
				if r.GetConfigStatus() != statuspb.ConfigStatus_NOT_SENT {
					t.Errorf("%s is %v", r.GetName(), r)
				}
			}
			if r.GetXdsConfig() == nil {
				t.Errorf("%s has no content", r.GetName())
			}
		}
	})
}

// Who is asked of is matched by node.id, and what cannot be matched is said.
func TestClientStatusIsOfThoseThatMatch(t *testing.T) {
	protocolTest("by node.id", t, func(t *testing.T, w *world) {
		w.publish()
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.ack(c.next())
		for _, test := range []struct {
			name string
			m    *matcherpb.StringMatcher
			n    int
			code codes.Code
		}{
			{"another", exactly("nexus-2"), 0, codes.OK},
			{"prefix", &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Prefix{Prefix: "nexus-"}}, 1, codes.OK},
			{"suffix", &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Suffix{Suffix: "-1"}}, 1, codes.OK},
			{"contains", &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Contains{Contains: "xus"}}, 1, codes.OK},
			{"case", &matcherpb.StringMatcher{IgnoreCase: true, MatchPattern: &matcherpb.StringMatcher_Exact{Exact: "NEXUS-1"}}, 0, codes.InvalidArgument},
			{"nothing", nil, 0, codes.InvalidArgument},
		} {
			out, err := w.server.clientStatus(t.Context(), nodes(test.m))
			if status.Code(err) != test.code || len(out.GetConfig()) != test.n {
				t.Errorf("%s: %v, %d proxies", test.name, err, len(out.GetConfig()))
			}
		}
		all, err := w.server.clientStatus(t.Context(), &statuspb.ClientStatusRequest{ExcludeResourceContents: true})
		if err != nil || len(all.GetConfig()) != 1 || all.GetConfig()[0].GetGenericXdsConfigs()[0].GetXdsConfig() != nil {
			t.Errorf("%v: %v", err, all)
		}
	})
}

// So many answers are made at a time, and none for somebody who has gone.
func TestClientStatusIsBounded(t *testing.T) {
	protocolTest("in number", t, func(t *testing.T, w *world) {
		w.publish()
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.ack(c.next())
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.server.clientStatus(gone, new(statuspb.ClientStatusRequest)); status.Code(err) != codes.Canceled {
			t.Errorf("one who has gone: %v", err)
		}
		for range maxStatusCalls {
			w.server.statusSlots <- struct{}{}
		}
		if _, err := w.server.clientStatus(t.Context(), new(statuspb.ClientStatusRequest)); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one more: %v", err)
		}
		<-w.server.statusSlots
		for range 2 { // each gives its place back
			if _, err := w.server.clientStatus(t.Context(), new(statuspb.ClientStatusRequest)); err != nil {
				t.Error(err)
			}
		}
	})
}

// A stream of an operator keeps its connection while it waits for the next request, and
// ends when the token does.
func TestAStreamOfClientStatusLastsAsLongAsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = time.Hour
		began := time.Now()
		s := testServer(func(o *Options) {
			o.Operator = func(context.Context) (time.Time, error) { return began.Add(life), nil }
			o.Joins = StatusMethods
		})
		pipes := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		l := listen.New(pipes, listen.Limits{
			Connections: 10, Idle: 10, IdlePerHost: 10, IdleTime: 20 * time.Second, BusyIdleTime: 20 * time.Second, WaitTime: 20 * time.Second,
		}, slog.New(slog.DiscardHandler))
		server := grpc.NewServer(s.ServerOptions()...)
		s.Register(server)
		go func() { _ = server.Serve(l) }()
		conn, err := grpc.NewClient("passthrough:///127.0.0.1", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipes.dial(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		stream, err := statuspb.NewClientStatusDiscoveryServiceClient(conn).StreamClientStatus(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := stream.Send(new(statuspb.ClientStatusRequest)); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatalf("after %s: %v", time.Since(began), err)
			}
			time.Sleep(5 * time.Minute)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated || time.Since(began) != life {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		_ = conn.Close()
		server.Stop()
	})
}
