package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestAnswersThatApplicationsSendInTheirOwnWayArrive: lines that end in LF alone, no
// reason, a body that ends with the connection, HTTP/1.0 with what it does not
// have, statuses that no RFC knows, and early answers that nobody asked for.
func TestAnswersThatApplicationsSendInTheirOwnWayArrive(t *testing.T) {
	m, nexus, lake := oddPair(t, "")
	answers := map[string]struct{ sent, line, end string }{
		"/lf":               {"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody", "HTTP/1.1 200 ", "\r\n\r\nbody"},
		"/no-reason":        {"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 200 ", "\r\n\r\nbody"},
		"/until-close":      {"HTTP/1.1 200 OK\r\n\r\nbody", "HTTP/1.1 200 ", "\r\n\r\n4\r\nbody\r\n0\r\n\r\n"},
		"/1.0":              {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 200 ", "\r\n\r\nbody"},
		"/1.0-chunked":      {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "HTTP/1.1 200 ", "\r\n\r\n4\r\nbody\r\n0\r\n\r\n"},
		"/no-content":       {"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 ", "\r\n\r\n"},
		"/299":              {"HTTP/1.1 299 Odd\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 299 ", "\r\n\r\nbody"},
		"/999":              {"HTTP/1.1 999 Odd\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 999 ", "\r\n\r\nbody"},
		"/latin-1":          {"HTTP/1.1 200 OK\r\nX-Name: caf\xe9\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 200 OK\r\nx-name: caf\xe9\r\n", "\r\n\r\nbody"},
		"/offers-h2":        {"HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 200 ", "\r\n\r\nbody"},
		"/continue":         {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ", "\r\n\r\nbody"},
		"/102":              {"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 102 ", "\r\n\r\nbody"},
		"/needs-an-upgrade": {"HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.2\r\nConnection: Upgrade\r\nContent-Length: 4\r\n\r\nbody", "HTTP/1.1 426 ", "\r\n\r\nbody"},
	}
	accept(t, lake, func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, answers[r.URL.Path].sent)
			if r.URL.Path == "/until-close" {
				return
			}
		}
	})
	for path, want := range answers {
		t.Run(path[1:], func(t *testing.T) {
			got := exchange(t, nexus.Outbound(), "GET "+path+" HTTP/1.1\r\nHost: lake_service\r\nConnection: close\r\n\r\n")
			if !strings.HasPrefix(got, want.line) || !strings.HasSuffix(got, want.end) {
				t.Errorf("%q", got)
			}
		})
	}
	unharmed(t, m)
}
