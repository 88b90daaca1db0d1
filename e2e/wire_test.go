package e2e

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// answer has an application of the test's own listen behind a sidecar that was
// added with NoApp.
func answer(t *testing.T, s *harness.Sidecar, h http.HandlerFunc) {
	t.Helper()
	answerAt(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(s.AppPort)), h)
}

func answerAt(t *testing.T, address string, h http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	noError(t, err)
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
}

// accept hands each connection to an application that is not made of net/http.
func accept(t *testing.T, s *harness.Sidecar, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.AppPort)))
	noError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serve(c)
			}()
		}
	}()
}

// exchange writes bytes to an address and returns all that comes back until the
// other side closes, or says no more for a second.
func exchange(t *testing.T, address, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	noError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, text)
	noError(t, err)
	var got strings.Builder
	buf := make([]byte, 64<<10)
	for {
		noError(t, conn.SetReadDeadline(time.Now().Add(time.Second)))
		n, err := conn.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			return got.String()
		}
	}
}

// oddPair is nexus, which calls a lake_service of one instance, with the
// operators' file: three retries of every 5xx, and an ejection after five. The
// application of lake_service is the test's.
func oddPair(t *testing.T, overlay string) (m *harness.Mesh, nexus, lake *harness.Sidecar) {
	t.Helper()
	m = harness.Start(t, harness.Options{Overlay: overlay})
	nexus = m.Add(harness.Spec{Service: "nexus", ID: caller})
	lake = m.Add(harness.Spec{Service: "lake_service", ID: "lake-1", NoApp: true})
	m.Ready()
	return m, nexus, lake
}

// unharmed checks that nothing of what was called cost anybody anything: no
// instance failed or was ejected, nothing was tried twice, and no connection
// between the sidecars was cut.
func unharmed(t *testing.T, m *harness.Mesh) {
	t.Helper()
	stats := m.Stats(caller)
	for _, name := range []string{
		"upstream_rq_5xx", "upstream_rq_retry", "upstream_rq_rx_reset", "upstream_cx_destroy_with_active_rq", "upstream_cx_protocol_error",
		"outlier_detection.ejections_enforced_total",
	} {
		if n := stats["cluster.lake_service."+name]; n != 0 {
			t.Errorf("%s is %d", name, n)
		}
	}
}

// counting is a handler that counts its requests.
func counting(n *atomic.Int64, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		h(w, r)
	}
}

// raw is a request over a connection of its own.
func raw(t *testing.T, from *harness.Sidecar, r traffic.Request) traffic.Response {
	t.Helper()
	got, err := traffic.Raw(t.Context(), from.Outbound(), r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.Host, err)
	}
	return got
}
