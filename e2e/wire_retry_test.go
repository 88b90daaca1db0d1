package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// builtIn leaves retries and outlier detection as they are where a file is silent.
const builtIn = "mesh: {policies: {retry: null}, circuit_breakers: {default: null}, load_balancing: {health_checks: null}}"

// TestAConnectionThatTheApplicationClosesCostsNoRequest: an application closes a
// connection that has been idle, and the next request is on its way already.
func TestAConnectionThatTheApplicationClosesCostsNoRequest(t *testing.T) {
	t.Run("of a request that asks for no action", func(t *testing.T) {
		m, nexus, lake := oddPair(t, builtIn)
		// Each connection serves one request, and is closed when the second comes.
		var served, met atomic.Int64
		accept(t, lake, func(c net.Conn) {
			in := bufio.NewReader(c)
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			served.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			if _, err := in.Peek(1); err == nil {
				met.Add(1)
			}
		})
		const calls = 40
		for i := range calls {
			method := []string{"GET", "HEAD", "OPTIONS"}[i%3]
			if r := raw(t, nexus, traffic.Request{Host: "lake_service", Method: method}); r.Status != 200 {
				t.Errorf("%s: %s", method, r)
			}
		}
		if served.Load() != calls || met.Load() < calls/4 {
			t.Errorf("the application served %d of %d calls, and closed %d connections on a request", served.Load(), calls, met.Load())
		}
		unharmed(t, m)
		if err := ejected(m, lake, false); err != nil {
			t.Error(err)
		}
	})
	t.Run("by closing it first", func(t *testing.T) {
		_, nexus, lake := oddPair(t, builtIn)
		ended := make(chan error, 1)
		accept(t, lake, func(c net.Conn) {
			in := bufio.NewReader(c)
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second)) // as an application's keep-alive
			_, err = in.Peek(1)
			ended <- err
		})
		if r := raw(t, nexus, traffic.Request{Host: "lake_service", Method: "POST", Body: "x"}); r.Status != 200 {
			t.Fatal(r)
		}
		if err := <-ended; !errors.Is(err, io.EOF) {
			t.Errorf("the sidecar has kept the idle connection for 5 s: %v", err)
		}
	})
	t.Run("by a keep-alive as long as the pauses", func(t *testing.T) {
		m, nexus, lake := oddPair(t, "mesh: {services: {lake_service: {timeout: {app_idle: 50ms}}}, policies: {retry: null}, circuit_breakers: {default: null}}")
		const pause, calls = 200 * time.Millisecond, 20
		var served atomic.Int64
		accept(t, lake, func(c net.Conn) {
			in := bufio.NewReader(c)
			for {
				_ = c.SetReadDeadline(time.Now().Add(pause))
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				served.Add(1)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for range calls {
			if r := raw(t, nexus, traffic.Request{Host: "lake_service", Method: "POST", Body: "x"}); r.Status != 200 {
				t.Error(r)
			}
			<-tick.C
		}
		if served.Load() != calls {
			t.Errorf("the application served %d of %d", served.Load(), calls)
		}
		unharmed(t, m)
	})
}

// upload sends a POST of a size whose end waits for the application's first
// answer, so that there is more of the body than anybody has kept.
func upload(t *testing.T, address string, size int, chunked bool, first <-chan struct{}) (answer int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	noError(t, err)
	defer func() { _ = conn.Close() }()
	noError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	head := fmt.Sprintf("Content-Length: %d\r\n", size)
	if chunked {
		head = "Transfer-Encoding: chunked\r\n"
	}
	_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: lake_service\r\n"+head+"\r\n")
	noError(t, err)
	go func() { // it may not be read to its end
		const part = 64 << 10
		text := strings.Repeat("x", part)
		for sent := 0; sent < size; sent += part {
			var err error
			if chunked {
				_, err = fmt.Fprintf(conn, "%x\r\n%s\r\n", part, text)
			} else {
				_, err = io.WriteString(conn, text)
			}
			if err != nil {
				return
			}
			if sent == 0 && first != nil {
				<-first
			}
		}
		if chunked {
			_, _ = io.WriteString(conn, "0\r\n\r\n")
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer to a body of %d bytes: %v", size, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// TestTheApplicationsOwnAnswerToALargeBodyArrives: it says 503 as soon as it sees
// the request, while most of the body is still to come. The operators' file has
// three retries.
func TestTheApplicationsOwnAnswerToALargeBodyArrives(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		what, overlay string
		size          int
		chunked       bool
		tries         int64
	}{
		{"one that can be kept is tried again", "", mb / 2, false, 4},
		{"one that is too large is sent once", "", 3 * mb, false, 1},
		{"one that does not say how large it is is sent once", "", 3 * mb, true, 1},
		{"and so is a small one", "", mb / 2, true, 1},
		{"the file says how much is kept", "mesh: {policies: {retry: {max_body_bytes: 8388608}}}", 3 * mb, false, 4},
		{"and for one service", "mesh: {services: {lake_service: {retry: {max_body_bytes: 1000}}}}", 2000, false, 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, nexus, lake := oddPair(t, c.overlay)
			var served atomic.Int64
			first := make(chan struct{})
			accept(t, lake, func(c net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 16\r\nConnection: close\r\n\r\nclosed for today")
				if served.Add(1) == 1 {
					close(first)
				}
				_, _ = io.Copy(io.Discard, c)
			})
			status, body := upload(t, nexus.Outbound(), c.size, c.chunked, first)
			if status != 503 || body != "closed for today" || served.Load() != c.tries {
				t.Errorf("%d %q after %d tries, want the application's own answer after %d", status, body, served.Load(), c.tries)
			}
		})
	}
	t.Run("by HTTP/2 as much is kept", func(t *testing.T) {
		_, nexus, lake := oddPair(t, "")
		var served atomic.Int64
		accept(t, lake, func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				return
			}
			served.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 16\r\nConnection: close\r\n\r\nclosed for today")
			_, _ = io.Copy(io.Discard, c)
		})
		client := traffic.NewHTTP2Client(nexus.Outbound())
		defer client.Close()
		r, err := client.Do(t.Context(), traffic.Request{Host: "lake_service", Method: "POST", Body: strings.Repeat("x", 900<<10)})
		if err != nil || r.Status != 503 || r.Body != "closed for today" || served.Load() != 4 {
			t.Errorf("%s, %v, after %d tries", r, err, served.Load())
		}
	})
	t.Run("where nobody answers it is not 507", func(t *testing.T) {
		_, nexus, lake := oddPair(t, "")
		lake.Kill()
		status, body := upload(t, nexus.Outbound(), 3*mb, false, nil)
		if status != 503 || !strings.Contains(body, "upstream connect error") {
			t.Errorf("%d %q", status, body)
		}
	})
	t.Run("a gRPC message is kept whole", func(t *testing.T) {
		m := harness.Start(t, harness.Options{Overlay: "mesh: {services: {lake_service: {protocol: grpc}}}"})
		nexus := m.Add(harness.Spec{Service: "nexus", ID: caller})
		lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
		m.Ready()
		conn := dialGRPC(t, nexus.Outbound(), "lake_service")
		if got, err := app.CallUnary(harness.Context(t, 10*time.Second), conn, strings.Repeat("x", 3*mb)); err != nil || len(got) < 3*mb {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		lake.App.Die()
		_, err := app.CallUnary(harness.Context(t, 10*time.Second), conn, strings.Repeat("x", 3*mb))
		if status.Code(err) != codes.Unavailable {
			t.Errorf("of a dead application: %v", err)
		}
	})
}
