package consul

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Whatever stands in Consul's place answers, in headers and body: an answer is
// one that can be waited on, or an error that fits into a line of the log.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "7", "true", "", "application/json", []byte(`[{"Node":{"Node":"n"}}]`))
	f.Add(200, "0", "false", "true", "application/json", []byte(`[]`))
	f.Add(200, "-1", "", "", "text/html", []byte("<html>"))
	f.Add(200, "18446744073709551616", "TRUE", "yes", "", []byte("null"))
	f.Add(429, "", "", "", "text/plain", []byte("Your IP is issuing too many concurrent connections"))
	f.Add(500, "7", "true", "", "", []byte("No cluster leader\n\x1b[2J"))
	f.Add(403, "", "", "", "", bytes.Repeat([]byte("Permission denied "), 1000))
	f.Add(301, "", "", "", "", []byte("http://elsewhere"))
	f.Fuzz(func(t *testing.T, code int, index, leader, filtered, contentType string, body []byte) {
		resp := &http.Response{
			StatusCode: code, ProtoMajor: 1, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
			Header: http.Header{
				"X-Consul-Index": {index}, "X-Consul-Knownleader": {leader}, "X-Consul-Results-Filtered-By-Acls": {filtered}, "Content-Type": {contentType},
			},
		}
		c, err := New(Config{Address: "consul:8500", RoundTripper: roundTripper(func(*http.Request) (*http.Response, error) { return resp, nil })})
		if err != nil {
			t.Fatal(err)
		}
		a, err := c.Do(t.Context(), Request{Path: "/v1/catalog/services"})
		if (err == nil) != (code == http.StatusOK) {
			t.Fatalf("status %d: %+v, %v", code, a, err)
		}
		if err != nil {
			if text := err.Error(); len(text) > 2<<10 || strings.ContainsAny(text, "\n\r\x1b\x00") {
				t.Errorf("%d bytes for the log: %.300q", len(text), text)
			}
			return
		}
		if a.KnownLeader != (leader == "true") || a.Filtered != (filtered == "true") || !bytes.Equal(a.Body, body) {
			t.Errorf("%+v of %q %q", a, leader, filtered)
		}
		var list []struct{ Node struct{ Node string } }
		if err := a.Decode(&list); err == nil && list == nil {
			t.Errorf("%q is a list that is not there", body)
		}
	})
}
