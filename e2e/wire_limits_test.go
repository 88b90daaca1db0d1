package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/traffic"
)

// numbered are n headers of a letter each.
func numbered(n int) http.Header {
	h := make(http.Header)
	for i := range n {
		h.Set(fmt.Sprintf("X-N-%d", i), "v")
	}
	return h
}

// incompressible is a value that HTTP/2 cannot make shorter.
func incompressible(size int) string { return strings.Repeat("{^|~<>;!", size/8+1)[:size] }

// TestARequestIsTakenByEveryHopOrRefusedByTheFirst goes over the edges of what the
// caller's sidecar takes. What it takes reaches the application, once; what it
// does not is 431, and no affair of the callee.
func TestARequestIsTakenByEveryHopOrRefusedByTheFirst(t *testing.T) {
	m, nexus, lake := oddPair(t, "")
	var served atomic.Int64
	answer(t, lake, counting(&served, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))

	trailer := func(text string) func() int {
		return func() int {
			got := exchange(t, nexus.Outbound(), "POST / HTTP/1.1\r\nHost: lake_service\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n"+text+"\r\n")
			status, _ := strconv.Atoi(strings.Fields(got + " - -")[1])
			return status
		}
	}
	send := func(r traffic.Request) func() int {
		return func() int {
			r.Host, r.Method = "lake_service", "POST"
			return raw(t, nexus, r).Status
		}
	}
	for _, c := range []struct {
		what      string
		from, to  int
		step      int
		with      func(n int) func() int
		least     int // that has to pass
		refusedBy int // that has to be refused
	}{
		{"headers", 85, 110, 1, func(n int) func() int { return send(traffic.Request{Header: numbered(n)}) }, 96, 101},
		{"bytes of one header", 58 << 10, 62 << 10, 64, func(n int) func() int {
			return send(traffic.Request{Header: http.Header{"X-Long": {strings.Repeat("v", n)}}})
		}, 59 << 10, 60 << 10},
		{"bytes of one header that HTTP/2 cannot make shorter", 58 << 10, 62 << 10, 128, func(n int) func() int {
			return send(traffic.Request{Header: http.Header{"X-Long": {incompressible(n)}}})
		}, 59 << 10, 60 << 10},
		{"bytes of a cookie", 58 << 10, 62 << 10, 256, func(n int) func() int {
			return send(traffic.Request{Header: http.Header{"Cookie": {strings.Repeat("c=12345; ", n/9)}}})
		}, 59 << 10, 61 << 10},
		{"bytes of a path", 58 << 10, 62 << 10, 128, func(n int) func() int { return send(traffic.Request{Path: "/" + strings.Repeat("p", n)}) }, 59 << 10, 61 << 10},
		{"trailers", 85, 110, 1, func(n int) func() int {
			var b bytes.Buffer
			_ = numbered(n).Write(&b)
			return trailer(b.String())
		}, 96, 101},
		{"bytes of a trailer", 58 << 10, 62 << 10, 128, func(n int) func() int { return trailer("X-Long: " + strings.Repeat("v", n) + "\r\n") }, 59 << 10, 61 << 10},
	} {
		t.Run(c.what, func(t *testing.T) {
			for n := c.from; n <= c.to; n += c.step {
				before := served.Load()
				status := c.with(n)()
				reached := int(served.Load() - before)
				switch {
				case status == 200 && reached == 1 && n < c.refusedBy:
				case status == 431 && n > c.least:
				default:
					t.Errorf("%d: %d, and the application was asked %d times", n, status, reached)
				}
			}
		})
	}
	// HTTP/2 has no answer to headers that it does not read: Envoy ends the stream.
	t.Run("headers, by HTTP/2", func(t *testing.T) {
		client := traffic.NewHTTP2Client(nexus.Outbound())
		defer client.Close()
		for n := 80; n <= 110; n++ {
			before := served.Load()
			r, err := client.Do(t.Context(), traffic.Request{Host: "lake_service", Header: numbered(n)})
			if reached := served.Load() - before; (err != nil || r.Status != 200 || reached != 1) && (err == nil || reached != 0 || n <= 90) {
				t.Errorf("%d: %s, %v, and the application was asked %d times", n, r, err, reached)
			}
		}
	})
	unharmed(t, m)
	if n := m.Stats("lake-1")["http.inbound.downstream_rq_4xx"]; n != 0 {
		t.Errorf("the callee's sidecar refused %d requests", n)
	}
}

// TestAnAnswerIsCarriedByEveryHop is of what applications answer, which is more
// than Envoy takes unasked, and is asked for once.
func TestAnAnswerIsCarriedByEveryHop(t *testing.T) {
	m, nexus, lake := oddPair(t, "")
	var served atomic.Int64
	var headers atomic.Pointer[http.Header]
	answer(t, lake, counting(&served, func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range *headers.Load() {
			w.Header()[name] = values
		}
	}))
	check := func(t *testing.T, what string, h http.Header) {
		t.Helper()
		headers.Store(&h)
		before := served.Load()
		r := raw(t, nexus, traffic.Request{Host: "lake_service", Method: "POST", Body: "once"})
		if reached := served.Load() - before; r.Status != 200 || reached != 1 {
			t.Errorf("%s: %d, and the POST was executed %d times", what, r.Status, reached)
		}
		for name, want := range h {
			if got := r.Header.Get(name); got != want[0] {
				t.Errorf("%s: header %s has %d bytes, want %d", what, name, len(got), len(want[0]))
				break
			}
		}
	}
	for _, n := range []int{90, 94, 95, 96, 97, 98, 99, 100, 101, 105, 150, 300, 490} {
		check(t, fmt.Sprintf("%d headers", n), numbered(n))
	}
	for _, kb := range []int{58, 59, 60, 61, 63, 64, 65, 80, 100, 200, 250} {
		check(t, fmt.Sprintf("a header of %d KB", kb), http.Header{"X-Long": {strings.Repeat("v", kb<<10)}})
		check(t, fmt.Sprintf("a header of %d KB that HTTP/2 cannot make shorter", kb), http.Header{"X-Long": {incompressible(kb << 10)}})
	}
	unharmed(t, m)
}

// TestNobodyPaysForAnotherCallerOfTheSameMachine: all calls of a machine to an
// instance share a connection, and what one of them does is not to end or to stop
// the others.
func TestNobodyPaysForAnotherCallerOfTheSameMachine(t *testing.T) {
	m, nexus, lake := oddPair(t, "mesh: {services: {lake_service: {timeout: {request: 0s}, retry: {attempts: 0}}}}")
	done := make(chan struct{})
	large := bytes.Repeat([]byte("x"), 8<<20)
	answer(t, lake, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			_, _ = w.Write(large)
		case "/long":
			<-done
		case "/never":
			<-r.Context().Done()
		}
	})
	long := make(chan error, 1)
	go func() {
		r, err := traffic.Raw(t.Context(), nexus.Outbound(), traffic.Request{Host: "lake_service", Method: "POST", Path: "/long"})
		if err == nil && r.Status != 200 {
			err = fmt.Errorf("%s", r)
		}
		long <- err
	}()

	t.Run("who does not read", func(t *testing.T) {
		for range 12 {
			conn, err := net.Dial("tcp", nexus.Outbound())
			noError(t, err)
			defer func() { _ = conn.Close() }()
			noError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
			_, err = io.WriteString(conn, "GET /large HTTP/1.1\r\nHost: lake_service\r\n\r\n")
			noError(t, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := traffic.Raw(ctx, nexus.Outbound(), traffic.Request{Host: "lake_service", Path: "/large"})
		if err != nil || len(r.Body) != len(large) {
			t.Errorf("another download got %d bytes of %d: %v", len(r.Body), len(large), err)
		}
	})
	t.Run("who gives up", func(t *testing.T) {
		// Envoy's own limits are 250 in their first second, and 1,000 in all.
		for range 1500 {
			conn, err := net.Dial("tcp", nexus.Outbound())
			noError(t, err)
			_, err = io.WriteString(conn, "GET /never HTTP/1.1\r\nHost: lake_service\r\n\r\n")
			noError(t, err)
			time.Sleep(time.Millisecond) // long enough to be sent on
			_ = conn.Close()
		}
		if n := m.Stats("lake-1")["http.inbound.downstream_rq_rx_reset"]; n < 1000 {
			t.Errorf("only %d requests were given up at the callee: this shows nothing", n)
		}
	})
	close(done)
	if err := <-long; err != nil {
		t.Errorf("the request that was under way all the time: %v", err)
	}
	stats := m.Stats(caller)
	if n := stats["cluster.lake_service.upstream_cx_destroy_with_active_rq"]; n != 0 {
		t.Errorf("the connection was cut %d times", n)
	}
}
