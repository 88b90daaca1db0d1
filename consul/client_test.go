package consul

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What the operator wrote is what is sent; the environment has no say.
func TestRequests(t *testing.T) {
	for _, name := range []string{"ADDR", "TOKEN", "TOKEN_FILE", "AUTH", "SSL", "SSL_VERIFY"} {
		t.Setenv("CONSUL_HTTP_"+name, "from-the-environment")
	}
	t.Setenv("CONSUL_NAMESPACE", "from-the-environment")
	t.Setenv("CONSUL_PARTITION", "from-the-environment")

	for _, tt := range []struct {
		cfg     Config
		request Request
		want    string // method, path and parameters
		header  string // the token
	}{
		{Config{}, Request{Path: "/v1/health/service/lake"}, "GET /v1/health/service/lake", ""},
		{
			Config{Datacenter: "dc2", Token: "t0ken"},
			Request{Path: "/v1/health/service/a%20b%2Fc", Params: url.Values{"index": {"7"}}},
			"GET /v1/health/service/a%20b%2Fc?dc=dc2&index=7", "t0ken",
		},
		{
			Config{Datacenter: "dc2"},
			Request{Method: http.MethodPut, Path: "/v1/kv/a", Params: url.Values{"cas": {"0"}}, Body: []byte("1")},
			"PUT /v1/kv/a?cas=0&dc=dc2", "",
		},
	} {
		tt.cfg.Address = "consul:8500"
		c, err := New(tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		req, err := c.request(t.Context(), "consul:8500", tt.request)
		if err != nil {
			t.Fatal(err)
		}
		if got := req.Method + " " + strings.Replace(req.URL.String(), "http://consul:8500", "", 1); got != tt.want {
			t.Errorf("sent %s, want %s", got, tt.want)
		}
		if got := req.Header.Get("X-Consul-Token"); got != tt.header || req.Header.Get("Authorization") != "" {
			t.Errorf("headers %v, want the token %q", req.Header, tt.header)
		}
	}
}

func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	tok := &token{fixed: "fixed", file: path}
	if _, err := tok.read(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	for _, tt := range []struct{ content, want string }{
		{"first\n", "first"}, {"  second  ", "second"}, {"", ""}, {"third-secret\nfourth-secret", ""}, {"fifth", "fifth"},
	} {
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := tok.read()
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%q: %q, %v", tt.content, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error has the token in it: %v", err)
		}
	}
	if got, err := (&token{fixed: "fixed"}).read(); got != "fixed" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNewRefuses(t *testing.T) {
	for want, cfg := range map[string]Config{
		`address "consul" is not host:port`:                       {Address: "consul"},
		`scheme "ftp" is neither`:                                 {Scheme: "ftp"},
		"the scheme is http":                                      {TLS: TLS{CAFile: "ca.pem"}},
		"needs both its file and its key's":                       {Scheme: "https", TLS: TLS{CertFile: "c.pem"}},
		"ca file: open /nowhere/ca.pem":                           {Scheme: "https", TLS: TLS{CAFile: "/nowhere/ca.pem"}},
		"client certificate: open /nowhere/c.pem":                 {Scheme: "https", TLS: TLS{CertFile: "/nowhere/c.pem", KeyFile: "/nowhere/k.pem"}},
		"8 connections are fewer than 16":                         {MaxConnections: 8},
		"the token has characters that no header can carry":       {Token: "secret\nX-Other: 1"},
		"ca file " + os.DevNull + ": no certificate in it":        {Scheme: "https", TLS: TLS{CAFile: os.DevNull}},
		"scheme \"ftp\" is neither http nor https\n8 connections": {Scheme: "ftp", MaxConnections: 8}, // all at once
	} {
		if cfg.Address == "" {
			cfg.Address = "consul:8500"
		}
		_, err := New(cfg)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// The same cause is the same text, whatever port the connection had.
func TestTransportErrors(t *testing.T) {
	get := func(err error) error { return &url.Error{Op: "Get", URL: "http://consul:8500/", Err: err} }
	op := func(err error) error {
		return get(&net.OpError{Op: "read", Source: &net.TCPAddr{Port: 40123}, Err: err})
	}
	for want, err := range map[string]error{
		"connection refused": op(os.NewSyscallError("connect", syscall.ECONNREFUSED)),
		"connection reset":   op(os.NewSyscallError("read", syscall.ECONNRESET)),
		"connection closed":  get(io.EOF),
		"timeout":            get(context.DeadlineExceeded),
		"lookup consul: no such host": op(&net.DNSError{
			Err: "no such host", Name: "consul", IsNotFound: true,
		}),
		"http: bad things": get(errors.New("http: bad things")),
	} {
		if got := transportError(err).Error(); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// dialError is a connection that did not come to be.
func dialError(why string) error { return &net.OpError{Op: "dial", Err: errors.New(why)} }

func reply(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body))}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestStatusErrors(t *testing.T) {
	var answer *http.Response
	c, err := New(Config{Address: "consul:8500", RoundTripper: roundTripper(func(*http.Request) (*http.Response, error) { return answer, nil })})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		status     int
		body, want string
	}{
		{500, "rpc error making call: No cluster leader", "no leader"},
		{500, "No path to datacenter", "500 No path to datacenter"},
		{403, "Permission denied\nmore", "403 Permission denied"},
		{429, "Your IP is issuing too many concurrent connections", "429 Your IP is issuing too many concurrent connections"},
		{502, "<html><body>", "502 Bad Gateway"},
		{503, "", "503"},
		{500, strings.Repeat("x", 5000), "500 " + strings.Repeat("x", 200)},
	} {
		var status *StatusError
		answer = &http.Response{StatusCode: tt.status, Body: io.NopCloser(strings.NewReader(tt.body))}
		if _, err := c.Do(t.Context(), Request{Path: "/"}); !errors.As(err, &status) || err.Error() != tt.want || status.Code != tt.status {
			t.Errorf("%d %.40q: %q", tt.status, tt.body, err)
		}
	}
	if got := c.Stats(); got.TooMany != 1 || got.Requests != 7 {
		t.Errorf("counted %+v", got)
	}
}

// On one machine an answer is not compressed for the way.
func TestCompression(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1:8500": true, "[::1]:8500": true, "localhost:8500": true, "consul:8500": false, "10.0.0.1:8500": false} {
		if got := loopback(address); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}
