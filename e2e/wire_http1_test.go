package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"datapunk.dev/controlplane/e2e/harness"
)

// TestHTTP10IsServed: health checkers, ab and old clients speak it, some of them
// without a Host header, and there are applications that do.
func TestHTTP10IsServed(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: harness.MTLSOff})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: caller})
	lake := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1", NoApp: true})
	old := m.Add(harness.Spec{Service: "stream_service", ID: "stream-1", NoApp: true})
	m.Ready()
	answer(t, lake, func(w http.ResponseWriter, r *http.Request) {
		for _, part := range []string{"in ", "two parts for ", r.Host} { // chunks, which HTTP/1.0 does not have
			_, _ = io.WriteString(w, part)
			_ = http.NewResponseController(w).Flush()
		}
	})
	accept(t, old, func(c net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			body, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold: %s", body)
		}
	})

	for _, c := range []struct{ what, at, request, status, body string }{
		{"as ab does", nexus.Outbound(), "GET / HTTP/1.0\r\nHost: lake_service\r\nUser-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n", "200", "in two parts for lake_service"},
		{"as ab -k does", nexus.Outbound(), "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nHost: lake_service\r\n\r\n", "200", "in two parts for lake_service"},
		{"with the service in the target", nexus.Outbound(), "GET http://nexus/ HTTP/1.0\r\n\r\n", "200", `{"service":"nexus"`},
		{"with a body", nexus.Outbound(), "POST / HTTP/1.0\r\nHost: stream_service\r\nContent-Length: 3\r\n\r\nabc", "200", "old: abc"},
		{"without a Host, which says whom it calls", nexus.Outbound(), "GET / HTTP/1.0\r\n\r\n", "400", "The request has no Host header"},
		{"to the instance itself", lake.Inbound(), "GET / HTTP/1.0\r\nHost: lake_service\r\n\r\n", "200", "in two parts for lake_service"},
		{"to the instance itself, without a Host", lake.Inbound(), "GET /health HTTP/1.0\r\n\r\n", "200", "in two parts for lake_service"},
	} {
		got := exchange(t, c.at, c.request)
		if !strings.HasPrefix(got, "HTTP/1.0 "+c.status+" ") || !strings.Contains(got, "\r\n\r\n"+c.body) || strings.Contains(strings.ToLower(got), "transfer-encoding") {
			t.Errorf("%s: %q", c.what, got)
		}
	}
	// The application is the one that is old.
	if got := exchange(t, nexus.Outbound(), "POST / HTTP/1.1\r\nHost: stream_service\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"); !strings.Contains(got, " 200 OK\r\n") || !strings.Contains(got, "old: abc") {
		t.Errorf("to an old application: %q", got)
	}
}

// TestTrailersAndEarlyAnswersPassBothSidecars: over HTTP/1 as over HTTP/2. What must
// not be a trailer is taken out of them; of several early answers Envoy carries one.
func TestTrailersAndEarlyAnswersPassBothSidecars(t *testing.T) {
	_, nexus, lake := oddPair(t, "")
	accept(t, lake, func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			switch r.URL.Path {
			case "/hints":
				_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
			case "/refuse": // before the body is sent
				_, _ = fmt.Fprintf(c, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nX-Expect: %s\r\nConnection: close\r\n\r\n", r.Header.Get("Expect"))
				return
			}
			body, _ := io.ReadAll(r.Body) // and the trailers behind it
			seen := fmt.Sprintf("%s %v", body, r.Trailer)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nX-Sum: 42\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n", len(seen), seen)
		}
	})

	t.Run("trailers", func(t *testing.T) {
		got := exchange(t, nexus.Outbound(), "POST / HTTP/1.1\r\nHost: lake_service\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n")
		if !strings.Contains(got, "abc map[X-Sum:[6]]") || !strings.HasSuffix(got, "\r\n0\r\nx-sum: 42\r\n\r\n") {
			t.Errorf("%q", got)
		}
	})
	t.Run("what is no trailer", func(t *testing.T) {
		for _, name := range []string{"Connection: close", "Transfer-Encoding: chunked", "TE: gzip", "Upgrade: foo", "Keep-Alive: 5", "Content-Length: 3", "Host: other", "X-Forwarded-Client-Cert: By=me"} {
			got := exchange(t, nexus.Outbound(), "POST / HTTP/1.1\r\nHost: lake_service\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n"+name+"\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, "abc map[]") {
				t.Errorf("%s: %q", name, got)
			}
		}
	})
	t.Run("early hints", func(t *testing.T) {
		var hints []string
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
			return nil
		}}
		r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, "http://"+nexus.Outbound()+"/hints", nil)
		noError(t, err)
		r.Host = "lake_service"
		resp, err := http.DefaultTransport.RoundTrip(r)
		noError(t, err)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || fmt.Sprint(hints) != "[103 </style.css>; rel=preload]" {
			t.Errorf("%d after %q", resp.StatusCode, hints)
		}
	})
	t.Run("an application refuses a body that it was not sent", func(t *testing.T) {
		got := exchange(t, nexus.Outbound(), "POST /refuse HTTP/1.1\r\nHost: lake_service\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 417 ") || !strings.Contains(got, "x-expect: 100-continue") {
			t.Errorf("%q", got)
		}
	})
}
