package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds"
)

// Whatever is asked of the admin address, nothing is decided without the token, no
// answer is a fault of ours, and profiles stay on this machine.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/readyz", "", "", "web", "10.0.0.1:1", "10.0.0.1")
	f.Add("POST", "/api/v1/removals/0123456789ab/accept", "Bearer good", "", "", "", "")
	f.Add("POST", "/api/v1/removals/0123456789ab/accept", "bearer good", "{}", "", "", "")
	f.Add("POST", "/api/v1/removals/..%2f..%2f/accept", "Bearer ", "", "", "", "")
	f.Add("POST", "/api/v1/certificates/rotate", "Bearer reader", `{"node": "x"}`, "", "", "")
	f.Add("POST", "/api/v1/plan", "", `{"files": [{"name": "x", "content": "mesh: {}"}]}`, "", "", "")
	f.Add("GET", "/api/v1/proxies/x/resources", "", "", "x", "", "")
	f.Add("GET", "/debug/pprof/../../metrics", "", "", "", "", "")
	f.Add("HEAD", "//sd//prometheus", "", "", "\xff", "[::1]:1", "fe80::1%eth0")
	f.Add("GET", "/sd/prometheus", "", "", "a\"b", "@", "0.0.0.0")
	f.Fuzz(func(t *testing.T, method, path, authorization, body, service, peer, address string) {
		decided := false
		src := everySource()
		src.Fleet = func(context.Context) (Fleet, error) {
			return Fleet{Proxies: []xds.ProxyStatus{{Node: service, Service: service, Peer: peer, Profile: resource.Profile{MetricsPort: 9102, Address: address, Zone: service}}}}, nil
		}
		src.Targets = NewTargets(func(string, netip.Addr) bool { return true }, func() Scrape { return Scrape{Enabled: true, Path: "/metrics", Interval: time.Second} })
		src.DecideRemoval = func(context.Context, string, bool) error { decided = true; return nil }
		src.Pin = func(api.Caller, string) (string, error) { decided = true; return "", nil }
		src.Rotate = func(api.Rotate) (int, error) { decided = true; return 1, nil }
		h := Handler(discard, src)
		r, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1", strings.NewReader(body))
		if err != nil || strings.HasPrefix(path, "/debug/pprof/profile") || strings.HasPrefix(path, "/debug/pprof/trace") || path == "/api/v1/events/stream" {
			return // a method that no server takes; what takes its time
		}
		r.URL.Path, r.Header["Authorization"] = path, []string{authorization}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %q: %d %s", method, path, w.Code, w.Body)
		}
		if decided && (method != http.MethodPost || authorization != "Bearer good") {
			t.Errorf("%s %q decided something for %q", method, path, authorization)
		}
	})
}
