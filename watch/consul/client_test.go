package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/watch"
)

// What the operator wrote is what is asked; the environment has no say.
func TestRequests(t *testing.T) {
	for _, name := range []string{"ADDR", "TOKEN", "TOKEN_FILE", "AUTH", "SSL", "SSL_VERIFY"} {
		t.Setenv("CONSUL_HTTP_"+name, "from-the-environment")
	}
	t.Setenv("CONSUL_NAMESPACE", "from-the-environment")
	t.Setenv("CONSUL_PARTITION", "from-the-environment")

	for _, tt := range []struct {
		cfg    Config
		query  query
		want   string // path and parameters
		header string // the token
	}{
		{Config{}, query{path: "/v1/health/service/lake"}, "/v1/health/service/lake?stale=", ""},
		{
			Config{Datacenter: "dc2", Token: "t0ken"},
			query{path: healthPath("lake"), index: 7},
			"/v1/health/service/lake?dc=dc2&index=7&stale=&wait=55000ms", "t0ken",
		},
		{Config{}, query{path: healthPath("lake"), consistent: true}, "/v1/health/service/lake?consistent=", ""},
		{Config{Consistency: "default"}, query{path: healthPath("lake")}, "/v1/health/service/lake", ""},
		{Config{Consistency: "consistent"}, query{path: healthPath("lake"), index: 1, consistent: true}, "/v1/health/service/lake?consistent=&index=1&wait=55000ms", ""},
		{Config{Wait: 90 * time.Second}, query{path: healthPath("a b/c"), index: 1}, "/v1/health/service/a%20b%2Fc?index=1&stale=&wait=90000ms", ""},
		{
			Config{},
			query{path: "/v1/catalog/services", filter: Demand{MeshOnly: true}.filter()},
			"/v1/catalog/services?filter=" + url.QueryEscape(`ServiceKind == "" and ("mesh_port" in ServiceMeta or ServiceName == "consul")`) + "&stale=", "",
		},
	} {
		tt.cfg.Address = "consul:8500"
		cfg, err := tt.cfg.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		req, err := newClient(cfg, nil, new(counters)).request(t.Context(), tt.query)
		if err != nil {
			t.Fatal(err)
		}
		if got := req.URL.String(); got != "http://consul:8500"+tt.want {
			t.Errorf("asked %s, want %s", got, tt.want)
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
		`address "consul" is not host:port`:                        {Address: "consul"},
		`scheme "ftp" is neither`:                                  {Scheme: "ftp"},
		"the scheme is http":                                       {TLS: TLS{CAFile: "ca.pem"}},
		"needs both its file and its key's":                        {Scheme: "https", TLS: TLS{CertFile: "c.pem"}},
		"ca file: open /nowhere/ca.pem":                            {Scheme: "https", TLS: TLS{CAFile: "/nowhere/ca.pem"}},
		"client certificate: open /nowhere/c.pem":                  {Scheme: "https", TLS: TLS{CertFile: "/nowhere/c.pem", KeyFile: "/nowhere/k.pem"}},
		`consistency "quick" is none of`:                           {Consistency: "quick"},
		"wait 1ms is not from 1s to 10m":                           {Wait: time.Millisecond},
		"8 connections are fewer than 16":                          {MaxConnections: 8},
		"the token has characters that no header can carry":        {Token: "secret\nX-Other: 1"},
		"ca file " + os.DevNull + ": no certificate in it":         {Scheme: "https", TLS: TLS{CAFile: os.DevNull}},
		"scheme \"ftp\" is neither http nor https\nconsistency \"": {Scheme: "ftp", Consistency: "quick"}, // all at once
	} {
		if cfg.Address == "" {
			cfg.Address = "consul:8500"
		}
		_, err := New(cfg, Demand{}, slog.New(slog.DiscardHandler), func(*watch.Catalog) {})
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

func TestStatusErrors(t *testing.T) {
	stats := new(counters)
	c := &client{stats: stats}
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
		var refused *refusal
		err := c.statusError(&http.Response{StatusCode: tt.status}, []byte(tt.body))
		if err.Error() != tt.want || !errors.As(err, &refused) {
			t.Errorf("%d %.40q: %q", tt.status, tt.body, err)
		}
	}
	if stats.tooMany.Load() != 1 {
		t.Error("429 was not counted")
	}
}

func TestStatusIsAbridged(t *testing.T) {
	b := newBoard(slog.New(slog.DiscardHandler), new(counters))
	s := &Source{board: b}
	for i := range 250 {
		b.expect(fmt.Sprintf("service s%03d", i))
		b.hold(fmt.Sprintf("s%03d", i), "gone")
	}
	st := s.Status()
	if len(st.Waiting) != 101 || st.Waiting[0] != "service s000: no answer yet" || st.Waiting[100] != "and 150 more" || len(st.Held) != 101 || st.HeldServices != 250 {
		t.Errorf("%d waiting, first %q, last %q; %d held", len(st.Waiting), st.Waiting[0], st.Waiting[len(st.Waiting)-1], len(st.Held))
	}
}

// A thousand queries that fail alike are one line, and one when they are well.
func TestBoardLogsAReasonOnce(t *testing.T) {
	var log strings.Builder
	b := newBoard(slog.New(slog.NewTextHandler(&log, nil)), new(counters))
	var all []*subject
	for i := range 1000 {
		all = append(all, b.expect(fmt.Sprint(i)))
	}
	for range 3 {
		for _, sub := range all {
			b.failed(sub, errors.New("down"))
		}
	}
	b.failed(all[0], errors.New("worse"))
	for _, sub := range all {
		b.succeeded(sub)
	}
	b.forget(all[0])
	b.failed(all[0], errors.New("nobody listens"))
	if got := strings.Count(log.String(), "\n"); got != 4 || strings.Contains(log.String(), "nobody") {
		t.Errorf("%d lines:\n%s", got, log.String())
	}
}

// Whatever the answer is: no panic, and nothing that cannot be dialed.
func FuzzNormalise(f *testing.F) {
	f.Add([]byte(`[{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"a","Port":80,"Weights":{"Passing":1}},"Checks":[{"CheckID":"c","Status":"warning"}]}]`))
	f.Add([]byte(`[{}]`))
	f.Add([]byte(`[null,{"Service":null,"Checks":[null]}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var entries []entry
		if decode(&answer{body: body}, &entries) != nil {
			return
		}
		s := normalise("s", entries)
		for _, i := range s.Instances {
			if !i.Address.IsValid() || i.Address.IsUnspecified() || i.Port == 0 || i.Weight > maxWeight {
				t.Errorf("instance %+v", i)
			}
		}
		if len(missing(s, normalise("s", entries))) > 0 || !s.Equal(normalise("s", entries)) {
			t.Error("two readings of one answer differ")
		}
	})
}
