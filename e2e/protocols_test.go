package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// protocolMesh is nexus, which calls one service of each protocol. The
// certificates of both ends are checked: nothing here is in plaintext.
func protocolMesh(t *testing.T) (m *harness.Mesh, bank string) {
	t.Helper()
	port := harness.Port(t)
	m = harness.Start(t, harness.Options{Overlay: fmt.Sprintf(`mesh:
  services:
    http2_service: {protocol: http2}
    grpc_service: {protocol: grpc}
    bank_service: {protocol: tcp}
    nexus:
      upstreams: [lake_service, stream_service, http2_service, grpc_service, {service: bank_service, local_bind_port: %d}]
`, port)})
	m.Add(harness.Spec{Service: "nexus", ID: "nexus-1", Unregistered: true, Scoped: true})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "stream_service", ID: "stream-1"})
	m.Add(harness.Spec{Service: "http2_service", ID: "http2-1"})
	m.Add(harness.Spec{Service: "grpc_service", ID: "grpc-1"})
	m.Add(harness.Spec{Service: "bank_service", ID: "bank-1", SpeaksTCP: true, Banner: "220 bank\r\n"})
	m.Ready()
	return m, "127.0.0.1:" + strconv.Itoa(port)
}

// throughBoth runs call and checks that the counters moved on both sidecars,
// and that the connection between them had a TLS handshake. A call that went
// round a sidecar fails here, whatever it answered.
func throughBoth(t *testing.T, m *harness.Mesh, service, id, caller, callee string, call func()) {
	t.Helper()
	count := func() (int, int, int) {
		inbound := fmt.Sprintf("listener.127.0.0.1_%d.ssl.handshake", m.Sidecar(id).MeshPort)
		out, in := m.Stats("nexus-1"), m.Stats(id)
		if _, ok := out[caller]; !ok {
			t.Fatalf("nexus-1 has no counter %s", caller)
		}
		if _, ok := in[callee]; !ok {
			t.Fatalf("%s has no counter %s", id, callee)
		}
		return int(out[caller]), int(in[callee]), int(in[inbound])
	}
	beforeOut, beforeIn, _ := count()
	call()
	afterOut, afterIn, handshakes := count()
	if afterOut == beforeOut || afterIn == beforeIn {
		t.Errorf("%s: %s moved by %d and %s by %d, want both to move", service, caller, afterOut-beforeOut, callee, afterIn-beforeIn)
	}
	if handshakes == 0 {
		t.Errorf("%s: no TLS handshake at its inbound listener", service)
	}
}

func TestHTTP1HTTP2GRPCWebSocketAndTCPPassThroughBothSidecars(t *testing.T) {
	m, bank := protocolMesh(t)
	outbound := m.Sidecar("nexus-1").Outbound()
	ctx := harness.Context(t, 30*time.Second)

	for _, c := range []struct {
		name, service, instance, speaks string
		client                          func(string) *traffic.Client
	}{
		{"HTTP/1", "lake_service", "lake-1", "HTTP/1.1", traffic.NewClient},
		{"HTTP/1 to an HTTP/2 app", "http2_service", "http2-1", "HTTP/2.0", traffic.NewClient},
		{"HTTP/2", "http2_service", "http2-1", "HTTP/2.0", traffic.NewHTTP2Client},
		{"HTTP/2 to an HTTP/1 app", "lake_service", "lake-1", "HTTP/1.1", traffic.NewHTTP2Client},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := c.client(outbound)
			defer client.Close()
			throughBoth(t, m, c.service, c.instance, "cluster."+c.service+".upstream_rq_total", "http.inbound.downstream_rq_total", func() {
				r, err := client.Do(ctx, traffic.Request{Host: c.service, Method: "PUT", Path: "/a/b?x=1", Body: "body"})
				if err != nil {
					t.Fatal(err)
				}
				if r.Status != 200 || r.Reply.Instance != c.instance || r.Reply.Method != "PUT" || r.Reply.Path != "/a/b?x=1" {
					t.Errorf("got %s: %+v", r, r.Reply)
				}
				if r.Reply.Protocol != c.speaks {
					t.Errorf("the app was spoken to in %s, want %s", r.Reply.Protocol, c.speaks)
				}
			})
			// Between sidecars it is HTTP/2 whatever the ends speak.
			if s := m.Stats("nexus-1"); s["cluster."+c.service+".upstream_cx_http2_total"] == 0 || s["cluster."+c.service+".upstream_cx_http1_total"] != 0 {
				t.Errorf("between sidecars: %v", s.Prefix("cluster."+c.service+".upstream_cx_http"))
			}
		})
	}

	t.Run("gRPC", func(t *testing.T) {
		conn := dialGRPC(t, outbound, "grpc_service")
		throughBoth(t, m, "grpc_service", "grpc-1", "cluster.grpc_service.upstream_rq_total", "http.inbound.downstream_rq_total", func() {
			if got, err := app.CallUnary(ctx, conn, "hello"); err != nil || got != "grpc-1: hello" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	})

	t.Run("WebSocket", func(t *testing.T) {
		throughBoth(t, m, "lake_service", "lake-1", "cluster.lake_service.upstream_rq_total", "http.inbound.downstream_cx_upgrades_total", func() {
			ws := dialWebSocket(ctx, t, outbound, "lake_service")
			for _, text := range []string{"one", "two"} {
				if err := websocket.Message.Send(ws, text); err != nil {
					t.Fatal(err)
				}
				var got string
				if err := websocket.Message.Receive(ws, &got); err != nil || got != "lake-1: "+text {
					t.Fatalf("got %q, %v", got, err)
				}
			}
		})
	})

	t.Run("TCP", func(t *testing.T) {
		throughBoth(t, m, "bank_service", "bank-1", "tcp.outbound_tcp_bank_service.downstream_cx_total", "tcp.inbound.downstream_cx_total", func() {
			// The server speaks first, and the client's bytes come back.
			if heard, err := traffic.Hear(ctx, bank, 500*time.Millisecond); err != nil || heard != "220 bank\r\n" {
				t.Errorf("heard %q, %v", heard, err)
			}
			if got, err := traffic.Echo(ctx, bank, "deposit", len("220 bank\r\n")); err != nil || got != "deposit" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	})
}

// TestStreamSilentForFiveSecondsIsNotCut has the seed's per-try timeout of 2 s
// and its default route timeout against it: either would cut these streams.
func TestStreamSilentForFiveSecondsIsNotCut(t *testing.T) {
	const silent = 5 * time.Second
	m, _ := protocolMesh(t)
	outbound := m.Sidecar("nexus-1").Outbound()
	ctx := harness.Context(t, 20*time.Second)

	t.Run("streams", func(t *testing.T) { // they are silent side by side
		t.Run("gRPC", func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			got, err := app.CallQuiet(ctx, dialGRPC(t, outbound, "grpc_service"), silent)
			if err != nil || got != "grpc-1" {
				t.Errorf("after %s: %q, %v", time.Since(began), got, err)
			}
			if n := m.Sidecar("grpc-1").App.Count(); n != 1 {
				t.Errorf("the stream reached the app %d times, want once", n)
			}
		})
		t.Run("WebSocket", func(t *testing.T) {
			t.Parallel()
			ws := dialWebSocket(ctx, t, outbound, "stream_service")
			var got string
			if err := ws.SetReadDeadline(time.Now().Add(silent)); err != nil {
				t.Fatal(err)
			}
			if err := websocket.Message.Receive(ws, &got); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the silent WebSocket ended: %v", err)
			}
			if err := ws.SetDeadline(time.Now().Add(silent)); err != nil {
				t.Fatal(err)
			}
			if err := websocket.Message.Send(ws, "still here"); err != nil {
				t.Fatal(err)
			}
			if err := websocket.Message.Receive(ws, &got); err != nil || got != "stream-1: still here" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	})
}

// dialGRPC returns a client of a service through an outbound listener.
func dialGRPC(t *testing.T, outbound, service string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+outbound, grpc.WithAuthority(service), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// dialWebSocket opens a WebSocket to a service through an outbound listener.
func dialWebSocket(ctx context.Context, t *testing.T, outbound, service string) *websocket.Conn {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", outbound)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	config, err := websocket.NewConfig("ws://"+service+"/ws", "http://"+service)
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		t.Fatalf("WebSocket to %s: %v", service, err)
	}
	return ws
}
