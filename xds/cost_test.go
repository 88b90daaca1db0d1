package xds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/xds/wire"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// What one client may cost that has shown who it is, by what stands inside of
// its messages. Each test has a connection, and measures the memory of the whole
// process: that of the client, which has its messages ready, is nearly nothing.

// rawClient is a client that sends bytes.
type rawClient struct {
	t    *testing.T
	conn *grpc.ClientConn
}

func dialRaw(t *testing.T, s *Server) rawClient {
	t.Helper()
	conn, err := grpc.NewClient(serveGRPC(t, s).String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return rawClient{t, conn}
}

// open opens a stream and sends messages on it.
func (c rawClient) open(p protocol, typeURL string, messages ...[]byte) grpc.ClientStream {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	c.t.Cleanup(cancel)
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method(p, typeURL))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range messages {
		if err := stream.SendMsg(&m); err != nil && !errors.Is(err, io.EOF) {
			c.t.Fatal(err)
		}
	}
	return stream
}

// ended waits for the end of a stream and returns its code.
func ended(stream grpc.ClientStream) codes.Code {
	for {
		var b []byte
		if err := stream.RecvMsg(&b); errors.Is(err, io.EOF) {
			return codes.OK
		} else if err != nil {
			return status.Code(err)
		}
	}
}

// firstRequest returns the beginning of a request of the protocol: its node.
func firstRequest(p protocol, node *corepb.Node) []byte {
	if p == delta {
		return marshal(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: eds.URL()})
	}
	return marshal(&discovery.DiscoveryRequest{Node: node, TypeUrl: eds.URL()})
}

var testNode = &corepb.Node{Id: "nexus-1", Cluster: "nexus"}

// field appends a field to a message.
func field(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

// flood returns a request that repeats a field until it has a third of what a
// message may.
func flood(p protocol, number protowire.Number, value func(i int) []byte) []byte {
	b := make([]byte, 0, maxMessage)
	b = append(b, firstRequest(p, testNode)...)
	for i := 0; len(b) < maxMessage/3; i++ {
		b = field(b, number, value(i))
	}
	return b
}

// allocated returns the bytes that the process allocates while f runs.
func allocated(f func()) uint64 {
	runtime.GC()
	before := memStats()
	f()
	return memStats().TotalAlloc - before.TotalAlloc
}

// kept returns by how many bytes the live heap is larger after f.
func kept(f func()) int64 {
	runtime.GC()
	runtime.GC()
	before := memStats()
	f()
	runtime.GC()
	runtime.GC()
	return int64(memStats().HeapAlloc) - int64(before.HeapAlloc)
}

// A request that is too much is refused before it is taken apart: it costs what
// any message of its size does, for gRPC reads it whole.
func TestARequestThatIsTooMuchCostsNoMoreThanItsBytes(t *testing.T) {
	long := bytes.Repeat([]byte("x"), maxMessage/2)
	one := func(b []byte) func(int) []byte { return func(int) []byte { return b } }
	entry := func(name, version string) []byte {
		return field(field(nil, 1, []byte(name)), 2, []byte(version))
	}
	numbered := func(i int) []byte { return fmt.Appendf(nil, "n%07d", i) }
	inNode := func(p protocol, number protowire.Number, value []byte) []byte {
		node := field(marshal(testNode), number, value)
		n := protowire.Number(1)
		if p == sotw {
			n = 2
		}
		return field(firstRequest(p, nil), n, node)
	}
	for _, tt := range []struct {
		name    string
		p       protocol
		message []byte
		goesOn  bool // it is cut, and no reason to refuse anything
	}{
		{"empty names", delta, flood(delta, 3, one(nil)), false},
		{"empty names, SotW", sotw, flood(sotw, 3, one(nil)), false},
		{"empty names to unsubscribe from", delta, flood(delta, 4, one(nil)), false},
		{"empty entries of versions", delta, flood(delta, 5, one(nil)), false},
		{"short names", delta, flood(delta, 3, numbered), false},
		{"short names, SotW", sotw, flood(sotw, 3, numbered), false},
		{"short names to unsubscribe from", delta, flood(delta, 4, numbered), false},
		{"versions of short names", delta, flood(delta, 5, func(i int) []byte { return entry(string(numbered(i)), "1") }), false},
		{"one name", delta, flood(delta, 3, one(long)), false},
		{"one name to unsubscribe from", delta, flood(delta, 4, one(long)), false},
		{"one name with a version", delta, flood(delta, 5, one(entry(string(long), "1"))), false},
		{"one version", delta, flood(delta, 5, one(entry("a", string(long)))), false},
		{"a nonce", delta, flood(delta, 6, one(long)), false},
		{"a version_info", sotw, flood(sotw, 1, one(long)), false},
		{"a type", delta, flood(delta, 2, one(long)), false},
		{"a text of an error", delta, flood(delta, 7, one(field(nil, 2, long))), true},
		{"many texts of errors", delta, flood(delta, 7, one(field(nil, 2, long[:10_000]))), true},
		{"a node.id", delta, inNode(delta, 1, long), false},
		{"a node.cluster", delta, inNode(delta, 2, long), false},
		{"metadata", delta, inNode(delta, 3, field(nil, 1, entry("k", string(long)))), false},
		{"a zone", delta, inNode(delta, 4, field(nil, 2, long)), false},
		{"an agent", delta, inNode(delta, 6, long), true},
		{"a version of the agent", sotw, inNode(sotw, 7, long), true},
		{"nodes", delta, flood(delta, 1, one(marshal(testNode))), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testServer()
			newWorld(s, endpoint("a", "1")).publish()
			c := dialRaw(t, s)
			send := func(message []byte) (code codes.Code) {
				stream := c.open(tt.p, "", message)
				if err := stream.CloseSend(); err != nil { // which ends one that is not refused
					t.Fatal(err)
				}
				return ended(stream)
			}
			code := send(flood(tt.p, 999, one(long))) // gRPC has its buffers
			var cost uint64
			for range 3 { // unless its pool was emptied meanwhile
				if cost = allocated(func() { code = send(tt.message) }); cost < 2*uint64(len(tt.message))+16<<20 {
					break
				}
			}
			t.Logf("%d MB allocated for %d MB; %v", cost>>20, len(tt.message)>>20, code)
			// It may be in a buffer of HTTP/2 and in one of its own; 100,000 names are
			// read before there are too many.
			if cost >= 2*uint64(len(tt.message))+16<<20 {
				t.Error("more than the message twice, and 16 MB")
			}
			if (code == codes.OK) != tt.goesOn {
				t.Errorf("code %v", code)
			}
		})
	}
}

// What a client's streams keep is bounded for all of them together.
func TestWhatTheStreamsOfOneNodeKeep(t *testing.T) {
	for _, p := range []protocol{delta, sotw} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testServer()
				newWorld(s, endpoint("a", "1")).publish()
				c := rawClient{t, plaintext(t, s)}
				var streams []grpc.ClientStream
				bytes := kept(func() {
					for i := range 20 {
						b := firstRequest(p, testNode)
						for j := range 99_000 {
							b = field(b, 3, fmt.Appendf(nil, "stream-%02d-name-%06d", i, j))
						}
						stream := c.open(p, eds.URL(), b)
						synctest.Wait() // it has been counted
						if i < maxNodeNames/99_000 {
							streams = append(streams, stream)
						} else if code := ended(stream); code != codes.ResourceExhausted {
							t.Errorf("stream %d: %v", i, code)
						}
					}
				})
				open := testutil.ToFloat64(s.metrics.streams.WithLabelValues(p.String()))
				t.Logf("%d MB are kept of 20 streams of 99,000 names, %v of which are open", bytes>>20, open)
				if bytes > 100<<20 {
					t.Error("more than 100 MB")
				}
				if int(open) != len(streams) {
					t.Errorf("%v streams are open", open)
				}
				runtime.KeepAlive(streams)
			})
		})
	}
}

// An Envoy that comes back and names 50,000 resources with their versions is what
// the bounds leave room for, though its last streams are still there.
func TestAClientThatComesBackWith50000ResourcesIsServed(t *testing.T) {
	const services = 50_000
	s := testServer()
	w := newWorld(s)
	message := &discovery.DeltaDiscoveryRequest{
		Node: testNode, TypeUrl: eds.URL(), InitialResourceVersions: make(map[string]string, services),
	}
	for i := range services {
		name := fmt.Sprintf("service-%05d.of-a-team-with-a-name.in-a-data-center-far-away", i)
		message.ResourceNamesSubscribe = append(message.ResourceNamesSubscribe, name)
		message.InitialResourceVersions[name] = "0123456789abcdef"
		w.put(endpoint(name, "0123456789abcdef"))
	}
	w.publish()
	b := marshal(message)
	t.Logf("%d MB", len(b)>>20)
	c := dialRaw(t, s)
	for i := range 2 {
		stream := c.open(delta, eds.URL(), b)
		w.put(endpoint(message.ResourceNamesSubscribe[7], fmt.Sprint("changed", i))).publish()
		var answer []byte
		if err := stream.RecvMsg(&answer); err != nil {
			t.Fatal(err)
		}
		m := &discovery.DeltaDiscoveryResponse{}
		if err := proto.Unmarshal(answer, m); err != nil {
			t.Fatal(err)
		}
		if len(m.Resources) != 1 {
			t.Errorf("%d resources were sent", len(m.Resources))
		}
	}
}

// logBuffer counts what is written to it.
type logBuffer struct {
	mu sync.Mutex
	n  int
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n += len(p)
	return len(p), nil
}

// The text of an error is cut where it comes in: Envoy itself sends no more.
func TestALongTextOfAnErrorIsCut(t *testing.T) {
	log := &logBuffer{}
	s := testServer(func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	w := newWorld(s, endpoint("a", "1"))
	w.publish()
	c := dialRaw(t, s)
	text := strings.Repeat("refused ", maxMessage/16)
	first := field(firstRequest(delta, testNode), 3, []byte("a"))
	stream := c.open(delta, "", first)
	bytes := kept(func() {
		for i := range 12 {
			var answer []byte
			if err := stream.RecvMsg(&answer); err != nil {
				t.Fatal(err)
			}
			m := &discovery.DeltaDiscoveryResponse{}
			if err := proto.Unmarshal(answer, m); err != nil {
				t.Fatal(err)
			}
			w.put(endpoint("a", fmt.Sprint(i+2))).publish()
			nack := field(field(field(nil, 2, []byte(eds.URL())), 6, []byte(m.Nonce)), 7, field(nil, 2, []byte(text)))
			if err := stream.SendMsg(&nack); err != nil {
				t.Fatal(err)
			}
		}
		var answer []byte
		if err := stream.RecvMsg(&answer); err != nil {
			t.Fatal(err)
		}
	})
	log.mu.Lock()
	defer log.mu.Unlock()
	t.Logf("%d KB of log and %d KB kept, of 12 texts of %d MB", log.n>>10, bytes>>10, len(text)>>20)
	if log.n > 12*5000+2000 {
		t.Error("the log has more than what Envoy sends at most")
	}
	if bytes > 100<<20 { // the last messages may still be in buffers
		t.Error("more than 100 MB are kept")
	}
	nack := s.Proxies()[0].Types["endpoint"].LastNack
	if nack == nil || len(nack.Message) > 4096 || !strings.HasPrefix(nack.Message, "refused refused") {
		t.Errorf("%.100v", nack)
	}
}

// What is for people only is cut, and refuses nobody.
func TestALongAgentIsCut(t *testing.T) {
	protocolTest("in the status", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		c.node.UserAgentName = strings.Repeat("agent ", 1000)
		c.node.UserAgentVersionType = &corepb.Node_UserAgentVersion{UserAgentVersion: strings.Repeat("1.", 1000)}
		c.subscribe(eds, "a")
		c.expect("endpoint a@1")
		p := w.server.Proxies()[0]
		if len(p.Agent) != 128 || len(p.Version) != 128 {
			t.Errorf("%d and %d bytes", len(p.Agent), len(p.Version))
		}
	})
}

// Of a response that is rejected whole, not every name is kept.
func TestANackKeepsAHundredNames(t *testing.T) {
	protocolTest("of a large response", t, func(t *testing.T, w *world) {
		c := openDelta(t, w.server)
		names := make([]string, 250)
		for i := range names {
			names[i] = fmt.Sprint("none-", i)
		}
		c.subscribe(eds, names...)
		c.nack(c.next(), "refused")
		if n := w.server.Proxies()[0].Types["endpoint"].LastNack; len(n.Resources) != 100 || n.More != 150 {
			t.Errorf("%d and %d more", len(n.Resources), n.More)
		}
	})
}

// A client that asks again and again and never answers leaves no more behind
// than one that asks once or twice.
func TestAClientThatNeverAnswersIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testServer()
		newWorld(s, endpoint("a", "1")).publish()
		via = transports[0]
		c := openDelta(t, s)
		names := make([]string, wire.MaxNames)
		for i := range names {
			names[i] = fmt.Sprintf("none-%06d", i)
		}
		for range 5 {
			c.subscribe(eds, names...)
			c.next()
		}
		if n := s.unansweredChanges(eds); n > maxUnansweredChanges {
			t.Errorf("%d changes are remembered", n)
		}
		c.close()
		s.wantEmpty(t)
	})
}

// Clients cannot fill a served set with what does not exist.
func TestPayloadsOfNamesThatDoNotExist(t *testing.T) {
	p, sets := &payloads{}, wire.NewNameSets()
	made := 0
	for i := range 100 {
		key := payloadKey{names: sets.Of([]string{fmt.Sprint(i)}).Key}
		p.get(key, true, wire.MaxNames) // the first that asks is told to make its own
		if p.get(key, true, wire.MaxNames) != nil {
			made++
		}
	}
	if made != maxPayloadNames/wire.MaxNames {
		t.Errorf("%d are kept", made)
	}
}
