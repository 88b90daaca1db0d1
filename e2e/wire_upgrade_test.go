package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/net/websocket"

	"datapunk.dev/controlplane/e2e/harness"
)

// TestAnOfferToUpgradeIsTakenIgnoredOrAnsweredWithAReason: an HTTP client may offer
// another protocol in any request. WebSocket is taken; what clients offer to every
// server (Apache's client does: TLS/1.2) is ignored, so that the request is served
// as if nothing had been offered; of the rest a person is told.
func TestAnOfferToUpgradeIsTakenIgnoredOrAnsweredWithAReason(t *testing.T) {
	log := filepath.Join(harness.Dir(t), "access.log")
	m := harness.Start(t, harness.Options{Overlay: "mesh: {telemetry: {access_logs: {path: " + log + "}}}"})
	nexus := m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	plain := func(lines string) string {
		return exchange(t, nexus.Outbound(), "GET /plain HTTP/1.1\r\nHost: lake_service\r\n"+lines+"\r\n")
	}

	t.Run("ignored", func(t *testing.T) {
		for _, offer := range []string{
			"TLS/1.2", "TLS/1.0", "tls/1.3", "HTTP/2.0", "http/3", "h2c", "H2C", "h2", "TLS/1.2, HTTP/2.0", "HTTP/2.0,TLS/1.3", "h2,h2c", "",
			"TLS/1.2\r\nUpgrade: HTTP/2.0",
		} {
			got := plain("Connection: Upgrade, close\r\nUpgrade: " + offer + "\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, `"path":"/plain"`) {
				t.Errorf("%q: %.100q", offer, got)
			}
		}
		// As curl --http2 offers it.
		got := plain("Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
			t.Errorf("as curl does: %.100q", got)
		}
	})
	t.Run("taken", func(t *testing.T) {
		for _, offer := range []string{"websocket", "WebSocket", "WEBSOCKET", "websocket, TLS/1.2", "TLS/1.2, websocket", "h2c, WebSocket"} {
			got := exchange(t, nexus.Outbound(), "GET /ws HTTP/1.1\r\nHost: lake_service\r\nOrigin: http://lake_service\r\nConnection: Upgrade\r\nUpgrade: "+offer+
				"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 101 ") {
				t.Errorf("%q: %.100q", offer, got)
			}
		}
		ws := dialWebSocket(harness.Context(t, 10*time.Second), t, nexus.Outbound(), "lake_service")
		var heard string
		noError(t, websocket.Message.Send(ws, "hello"))
		if err := websocket.Message.Receive(ws, &heard); err != nil || heard != "lake-1: hello" {
			t.Errorf("heard %q, %v", heard, err)
		}
	})
	t.Run("answered", func(t *testing.T) {
		for _, offer := range []string{"foo", "SPDY/3.1", "IRC/6.9, RTA/x11", "foo, websocket"} {
			got := plain("Connection: Upgrade, close\r\nUpgrade: " + offer + "\r\n")
			name, _, _ := strings.Cut(offer, ",")
			if !strings.HasPrefix(got, "HTTP/1.1 501 ") || !strings.Contains(got, "no upgrade to "+name) {
				t.Errorf("%q: %.200q", offer, got)
			}
		}
		for _, authority := range []string{"nexus:443", "example.com:443"} {
			got := exchange(t, nexus.Outbound(), "CONNECT "+authority+" HTTP/1.1\r\nHost: "+authority+"\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 501 ") || !strings.Contains(got, "takes no CONNECT") {
				t.Errorf("CONNECT %s: %.200q", authority, got)
			}
		}
	})
	t.Run("by HTTP/2", func(t *testing.T) {
		for _, c := range []struct {
			what, status, body string
			headers            []hpack.HeaderField
		}{
			{"an extended CONNECT to websocket", "200", "", extended("websocket", "/ws")},
			{"an extended CONNECT to foo", "501", "no upgrade to foo", extended("foo", "/")},
			{"CONNECT", "501", "takes no CONNECT", []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "lake_service:443"}}},
		} {
			if status, body := stream(t, nexus.Outbound(), c.headers, c.status != "200"); status != c.status || !strings.Contains(body, c.body) {
				t.Errorf("%s: %s %q", c.what, status, body)
			}
		}
	})
	t.Run("in the access log", func(t *testing.T) {
		for _, want := range []map[string]any{
			{"method": "GET", "upgrade": "SPDY/3.1", "status": 501.0, "details": "upgrade_failed"},
			{"method": "CONNECT", "authority": "example.com:443", "status": 501.0},
			{"method": "GET", "upgrade": "websocket", "status": 101.0, "cluster": "lake_service"},
		} {
			harness.Eventually(t, "the access log has it", 12*time.Second, func() error { return hasLine(log, want) })
		}
	})
}

func extended(protocol, path string) []hpack.HeaderField {
	return []hpack.HeaderField{
		{Name: ":method", Value: "CONNECT"},
		{Name: ":protocol", Value: protocol},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: path},
		{Name: ":authority", Value: "lake_service"},
		{Name: "origin", Value: "http://lake_service"},
		{Name: "sec-websocket-version", Value: "13"},
		{Name: "sec-websocket-key", Value: "dGhlIHNhbXBsZSBub25jZQ=="}, // which an application of HTTP/1 asks for
	}
}

// stream opens a stream of HTTP/2 as no client library does, and returns its
// status and, where it ends, its body.
func stream(t *testing.T, address string, headers []hpack.HeaderField, toItsEnd bool) (status, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	noError(t, err)
	defer func() { _ = conn.Close() }()
	noError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	noError(t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	noError(t, framer.WriteSettings())
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	for _, h := range headers {
		noError(t, encoder.WriteField(h))
	}
	noError(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true}))
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("after status %q: %v", status, err)
		}
		if frame.Header().StreamID != 1 {
			continue
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			status = f.PseudoValue("status")
			if !toItsEnd || f.StreamEnded() {
				return status, body
			}
		case *http2.DataFrame:
			body += string(f.Data())
			if f.StreamEnded() {
				return status, body
			}
		case *http2.RSTStreamFrame:
			return f.ErrCode.String(), body
		}
	}
}

// hasLine reports whether an access log has a line with all of want.
func hasLine(path string, want map[string]any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
lines:
	for line := range strings.Lines(string(text)) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) != nil {
			continue // the rest of it is not written yet
		}
		for key, value := range want {
			if entry[key] != value {
				continue lines
			}
		}
		return nil
	}
	return fmt.Errorf("no line has %v", want)
}
