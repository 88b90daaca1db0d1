package admin

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/admin/api"
)

// operators knows one token of each role.
func operators(token string) (api.Caller, bool) {
	who, ok := map[string]api.Caller{
		"good":   {Name: "ada", Role: api.Operate},
		"reader": {Name: "bob", Role: api.Read},
	}[token]
	return who, ok
}

// On this machine everybody reads; from elsewhere only who shows a token. To act takes
// the role operate, wherever one is, and what is done is recorded with who did it.
func TestWhoMayDoWhat(t *testing.T) {
	network := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}
	for _, c := range []struct {
		listener            net.Addr
		method, path, token string
		code                int
	}{
		{loopback, "GET", "/api/v1/removals", "", 200},
		{&net.UnixAddr{Net: "unix"}, "GET", "/api/v1/removals", "", 200},
		{loopback, "GET", "/api/v1/removals", "reader", 200},
		{loopback, "GET", "/api/v1/removals", "bad", 401},
		{loopback, "GET", "/metrics", "", 200},
		{loopback, "POST", "/api/v1/removals/x/accept", "", 401},
		{loopback, "POST", "/api/v1/removals/x/accept", "bad", 401},
		{loopback, "POST", "/api/v1/removals/x/accept", "reader", 403},
		{loopback, "POST", "/api/v1/removals/x/accept", "good", 200},
		{&net.UnixAddr{Net: "unix"}, "POST", "/api/v1/removals/x/accept", "", 401},

		{network, "GET", "/api/v1/removals", "", 401},
		{network, "GET", "/api/v1/removals", "reader", 200},
		{network, "GET", "/api/v1/removals", "good", 200},
		{network, "POST", "/api/v1/removals/x/accept", "reader", 403},
		{network, "POST", "/api/v1/removals/x/accept", "good", 200},
		{network, "GET", "/api/v1/openapi.json", "", 401},
		{network, "GET", "/api/v1/nothing", "", 401},
		{network, "GET", "/metrics", "", 401},
		{network, "GET", "/metrics", "reader", 200},
		{network, "GET", "/sd/prometheus", "", 401},
		{network, "GET", "/healthz", "", 200},
		{network, "GET", "/readyz", "", 200},
		{nil, "GET", "/api/v1/removals", "", 401},
	} {
		var acts []string
		h := Handler(slog.New(slog.DiscardHandler), Sources{
			Metrics: prometheus.NewRegistry(), Listener: c.listener, Authenticate: operators,
			Readiness:     func() Readiness { return Readiness{Ready: true} },
			Removals:      func() api.Removals { return api.Removals{Removals: []api.Removal{}} },
			DecideRemoval: func(context.Context, string, bool) error { return nil },
			Acted: func(who api.Caller, what string, err error) {
				acts = append(acts, who.Name+" "+what)
			},
		})
		code, body := request(h, c.method, c.path, c.token, "")
		if code != c.code {
			t.Errorf("%s %s at %v with %q: %d %s", c.method, c.path, c.listener, c.token, code, body)
		}
		want := ""
		if c.method == "POST" && c.code == 200 {
			want = "ada /api/v1/removals/x/accept"
		}
		if got := strings.Join(acts, ","); got != want {
			t.Errorf("%s %s with %q is recorded as %q", c.method, c.path, c.token, got)
		}
	}
}

// Who may not read is told whether the control plane is ready, and not why.
func TestReadinessSaysWhyToThoseWhoMayRead(t *testing.T) {
	f := &fake{listener: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, readiness: Readiness{Ready: true, Holding: []string{"the last mesh file"}}}
	if code, body := get(f.handler(), "/readyz"); code != 200 || body != `{"ready":true}` {
		t.Errorf("%d %s", code, body)
	}
}

// All errors have one form, and a parameter that nobody knows is one.
func TestErrorsHaveOneForm(t *testing.T) {
	h := (&fake{}).handler()
	for _, c := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/api/v1/nothing", 404, `{"error":"no such path: /api/v1/nothing","reason":"not_found","hint":"see /api/v1/openapi.json"}`},
		{"DELETE", "/api/v1/proxies", 405, `{"error":"/api/v1/proxies takes GET","reason":"wrong_method"}`},
		{"GET", "/api/v1/proxies?nodes=a", 400, `{"error":"unknown parameter \"nodes\"","reason":"invalid"}`},
		{"GET", "/api/v1/proxies?limit=0", 400, `{"error":"limit=\"0\": want a number above 0","reason":"invalid"}`},
		{"GET", "/api/v1/proxies?state=DEAD", 400, `{"error":"state=\"DEAD\": want one of [\"NOT_SENT\" \"PENDING\" \"SYNCED\" \"REJECTED\"]","reason":"invalid"}`},
		{"GET", "/api/v1/proxies/lake-1", 404, `{"error":"no proxy with the node.id lake-1 is connected","reason":"not_found"}`},
	} {
		if code, body := request(h, c.method, c.path, "", ""); code != c.code || body != c.body {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, body)
		}
	}
}
