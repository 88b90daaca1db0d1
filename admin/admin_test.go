package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds"
)

type fake struct {
	readiness  Readiness
	proxies    []xds.ProxyStatus
	scrape     Scrape
	listener   net.Addr
	unanswered []api.Unanswered
	unknown    error // why it is not known which replicas there are
	kept       *Targets
	// registered are the catalog's instances, as "service address".
	registered []string
}

// loopback is an address that only this machine reaches.
var loopback = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 19000}

func (f *fake) handler() http.Handler {
	if f.listener == nil {
		f.listener = loopback
	}
	return Handler(slog.New(slog.DiscardHandler), Sources{
		Readiness: func() Readiness { return f.readiness },
		Fleet:     func(context.Context) (Fleet, error) { return Fleet{f.proxies, f.unanswered}, f.unknown },
		Targets:   f.targets(),
		Metrics:   prometheus.NewRegistry(),
		Listener:  f.listener,
	})
}

func (f *fake) targets() *Targets {
	f.kept = NewTargets(func(service string, at netip.Addr) bool {
		return slices.Contains(f.registered, service+" "+at.String())
	}, func() Scrape { return f.scrape })
	return f.kept
}

func get(h http.Handler, path string) (int, string) { return request(h, http.MethodGet, path, "", "") }

// request asks a handler for something, with a token and a body if they are not empty.
func request(h http.Handler, method, path, token, body string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestReadinessSaysWhatItWaitsFor(t *testing.T) {
	f := &fake{readiness: Readiness{Waiting: []string{"service lake: connection refused"}}}
	h := f.handler()
	code, body := get(h, "/readyz")
	if code != 503 || body != `{"ready":false,"waiting":["service lake: connection refused"]}` {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := get(h, "/healthz"); code != 200 {
		t.Errorf("alive is not ready: %d", code)
	}
	f.readiness = Readiness{Ready: true, Holding: []string{"the last good mesh file"}}
	if code, body := get(h, "/readyz"); code != 200 || !strings.Contains(body, "holding") {
		t.Errorf("%d %s", code, body)
	}
}

func TestTargetsAreAnErrorUntilTheFleetIsKnown(t *testing.T) {
	f := &fake{scrape: Scrape{Enabled: true, Path: "/metrics", Interval: 15 * time.Second}}
	h := f.handler()
	if code, _ := get(h, "/sd/prometheus"); code != 503 {
		t.Errorf("got %d: Prometheus would forget the fleet", code)
	}
	f.readiness.Ready = true
	if code, body := get(h, "/sd/prometheus"); code != 200 || body != "[]" {
		t.Errorf("%d %s", code, body)
	}
}

func TestTargetsSayHowToScrapeEachProxy(t *testing.T) {
	f := &fake{
		readiness:  Readiness{Ready: true},
		registered: []string{"web 10.0.0.1", "db 10.0.0.77"},
		scrape:     Scrape{Enabled: true, Path: "/m", Interval: 5 * time.Second},
		proxies: []xds.ProxyStatus{
			{Node: "b", Service: "web", Peer: "10.0.0.2:4711", Profile: resource.Profile{MetricsPort: 9102, Zone: "z1"}},
			// Behind a gateway, and registered where it says that it is.
			{Node: "a", Service: "web", Peer: "10.0.0.9:4711", Profile: resource.Profile{MetricsPort: 9102, Address: "10.0.0.1"}},
			{Node: "c", Service: "own", Peer: "10.0.0.3:4711"}, // no metrics listener
			{Node: "d", Service: "web", Peer: "10.0.0.4:4711", Profile: resource.Profile{MetricsPort: 9102, Address: "0.0.0.0"}},
			{Node: "e", Service: "web", Peer: "[fd00::5]:4711", Profile: resource.Profile{MetricsPort: 9102, Address: "::"}},
			{Node: "f", Service: "web", Peer: "@", Profile: resource.Profile{MetricsPort: 9102}}, // a Unix socket
		},
	}
	_, body := get(f.handler(), "/sd/prometheus")
	var got []targetGroup
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	how := func(node string, more map[string]string) map[string]string {
		labels := map[string]string{
			"__metrics_path__": "/m", "__scrape_interval__": "5s", "__scrape_timeout__": "5s", "service": "web", "node": node,
		}
		for k, v := range more {
			labels[k] = v
		}
		return labels
	}
	want := []targetGroup{
		{Targets: []string{"10.0.0.1:9102"}, Labels: how("a", nil)},
		{Targets: []string{"10.0.0.2:9102"}, Labels: how("b", map[string]string{"zone": "z1"})},
		{Targets: []string{"10.0.0.4:9102"}, Labels: how("d", nil)},
		{Targets: []string{"127.0.0.1:9102"}, Labels: how("f", nil)},
		{Targets: []string{"[fd00::5]:9102"}, Labels: how("e", nil)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	f.scrape.Port = 9900 // for those that do not say, and have a listener: a gRPC client has none
	f.proxies = append(f.proxies, xds.ProxyStatus{Node: "g", Peer: "10.0.0.7:1", Profile: resource.Profile{Kind: resource.Proxyless}})
	if _, body := get(f.handler(), "/sd/prometheus"); !strings.Contains(body, `"10.0.0.3:9900"`) || strings.Contains(body, "10.0.0.7") {
		t.Errorf("the port of the mesh file: %s", body)
	}
	f.scrape.Enabled = false
	if _, body := get(f.handler(), "/sd/prometheus"); body != "[]" {
		t.Errorf("metrics are off: %s", body)
	}
}

// Prometheus asks from where it stands, with its own rights: a proxy must not
// send it to another's port.
func TestAProxyCannotSendPrometheusElsewhere(t *testing.T) {
	f := &fake{
		readiness:  Readiness{Ready: true},
		registered: []string{"db 10.0.0.77"},
		scrape:     Scrape{Enabled: true, Path: "/m", Interval: 5 * time.Second},
		proxies: []xds.ProxyStatus{
			{Node: "a", Service: "web", Peer: "10.0.0.9:1", Profile: resource.Profile{MetricsPort: 80, Address: "169.254.169.254"}},
			{Node: "b", Service: "web", Peer: "10.0.0.8:1", Profile: resource.Profile{MetricsPort: 80, Address: "10.0.0.77"}}, // of another service
			{Node: "c", Service: "web", Peer: "10.0.0.7:1", Profile: resource.Profile{MetricsPort: 80, Address: "127.0.0.1"}},
			{Node: "d", Service: "web", Peer: "127.0.0.1:1", Profile: resource.Profile{MetricsPort: 80, Address: "127.0.0.5"}}, // on this machine
			{Node: strings.Repeat("é", 500), Service: "web", Peer: "10.0.0.6:1", Profile: resource.Profile{MetricsPort: 80, Zone: strings.Repeat("z", 1<<20)}},
		},
	}
	_, body := get(f.handler(), "/sd/prometheus")
	var groups []targetGroup
	if err := json.Unmarshal([]byte(body), &groups); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range groups {
		got = append(got, g.Targets...)
		for name, value := range g.Labels {
			if len(value) > maxLabel {
				t.Errorf("label %s has %d bytes", name, len(value))
			}
		}
	}
	if diff := cmp.Diff([]string{"10.0.0.6:80", "10.0.0.7:80", "10.0.0.8:80", "10.0.0.9:80", "127.0.0.5:80"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTargetsThatAreGoneMakeRoom(t *testing.T) {
	f := &fake{readiness: Readiness{Ready: true}, scrape: Scrape{Enabled: true, Path: "/m", Interval: time.Second}}
	h := f.handler()
	for _, prefix := range []string{"a", "b"} {
		f.proxies = nil
		for i := range maxTargets * 2 / 3 {
			f.proxies = append(f.proxies, xds.ProxyStatus{Node: prefix + strconv.Itoa(i), Peer: "10.0.0.1:1", Profile: resource.Profile{MetricsPort: 80}})
		}
		get(h, "/sd/prometheus")
	}
	_, body := get(h, "/sd/prometheus")
	if got := strings.Count(body, `"node":"b`); got != len(f.proxies) {
		t.Errorf("%d of %d connected proxies are targets", got, len(f.proxies))
	}
	if got := strings.Count(body, `"node"`); got > maxTargets {
		t.Errorf("%d targets", got)
	}
}

func TestAProxyThatIsGoneStaysATargetForTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{
			readiness: Readiness{Ready: true},
			scrape:    Scrape{Enabled: true, Path: "/metrics", Interval: time.Minute},
			proxies:   []xds.ProxyStatus{{Node: "a", Peer: "10.0.0.1:1", Profile: resource.Profile{MetricsPort: 9102}}},
		}
		h := f.handler()
		get(h, "/sd/prometheus")
		f.proxies = nil
		time.Sleep(9 * time.Minute)
		if _, body := get(h, "/sd/prometheus"); !strings.Contains(body, "10.0.0.1:9102") {
			t.Errorf("a proxy that died would vanish instead of being down: %s", body)
		}
		time.Sleep(2 * time.Minute)
		if _, body := get(h, "/sd/prometheus"); body != "[]" {
			t.Errorf("still there: %s", body)
		}
	})
}

func TestNothingIsChangedThroughTheAdminAddress(t *testing.T) {
	h := (&fake{listener: &net.UnixAddr{}}).handler()
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/sd/prometheus", "/api/v1/proxies", "/debug/pprof/", "/debug/pprof/symbol"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}

func TestNoProxyIsAnEmptyList(t *testing.T) {
	if _, body := get((&fake{}).handler(), "/api/v1/proxies"); body != `{"proxies":[]}` {
		t.Error(body)
	}
}

// A replica that does not answer has lost none of its proxies by that; one that has gone
// has given them to others.
func TestTheTargetsOfAReplicaThatDoesNotAnswerStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := func(node, replica string) xds.ProxyStatus {
			return xds.ProxyStatus{Node: node, Replica: replica, Peer: "10.0.0.1:1", Profile: resource.Profile{MetricsPort: 9102}}
		}
		f := &fake{
			readiness: Readiness{Ready: true},
			scrape:    Scrape{Enabled: true, Path: "/metrics", Interval: time.Minute},
			proxies:   []xds.ProxyStatus{at("a", "one"), at("b", "two"), at("c", "three")},
		}
		h := f.handler()
		get(h, "/sd/prometheus")
		f.proxies = f.proxies[:1]
		f.unanswered = []api.Unanswered{{Replica: "two", Why: "connection refused"}}
		for range 20 {
			time.Sleep(time.Minute)
			get(h, "/sd/prometheus")
		}
		if _, body := get(h, "/sd/prometheus"); !strings.Contains(body, `"node":"a"`) || !strings.Contains(body, `"node":"b"`) || strings.Contains(body, `"node":"c"`) {
			t.Errorf("the targets are %s", body)
		}
		if _, body := get(h, "/api/v1/proxies"); !strings.Contains(body, `"unanswered":[{"replica":"two","why":"connection refused"}]`) {
			t.Errorf("nothing says what is missing: %s", body)
		}
	})
}

func TestTheFleetIsAnErrorWhileTheReplicasAreNotKnown(t *testing.T) {
	f := &fake{readiness: Readiness{Ready: true}, unknown: errors.New("it is not known yet"), scrape: Scrape{Enabled: true, Path: "/m", Interval: time.Second}}
	h := f.handler()
	for _, path := range []string{"/sd/prometheus", "/api/v1/proxies"} {
		if code, body := get(h, path); code != 503 || body != `{"error":"it is not known yet","reason":"unavailable"}` {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

func TestTargetsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	f := &fake{
		readiness: Readiness{Ready: true},
		scrape:    Scrape{Enabled: true, Path: "/metrics", Interval: time.Second},
		proxies: []xds.ProxyStatus{
			{Node: "a", Service: "web", Peer: "10.0.0.1:1", Profile: resource.Profile{MetricsPort: 9102, Zone: "z1"}},
			{Node: "b", Service: "web", Peer: "10.0.0.2:1", Replica: "two", Profile: resource.Profile{MetricsPort: 9102}},
		},
	}
	// start is a process that has lived, and what it has said.
	start := func(mesh string) string {
		t.Helper()
		h := f.handler()
		if err := f.kept.Keep(dir, mesh); err != nil {
			t.Fatal(err)
		}
		_, body := get(h, "/sd/prometheus")
		ended, end := context.WithCancel(t.Context())
		end()
		f.kept.Run(ended)
		return body
	}
	before := start("one")
	f.proxies = f.proxies[:1] // the other one died meanwhile
	if after := start("one"); after != before || strings.Count(after, `"targets"`) != 2 {
		t.Errorf("after a restart the targets are\n%s\nand were\n%s", after, before)
	}
	text, err := os.ReadFile(filepath.Join(dir, "targets.yaml"))
	if err != nil || !strings.Contains(string(text), `{"address":"10.0.0.2:9102","service":"web","node":"b",`) {
		t.Fatalf("%v: %s", err, text)
	}
	if !strings.Contains(string(text), `"replica":"two"`) { // it may not answer for longer than a target is kept
		t.Errorf("where it was connected is not kept: %s", text)
	}
	// One of another mesh, and one that was changed, are set aside.
	for _, c := range []struct{ mesh, text string }{{"two", string(text)}, {"one", string(text) + " "}} {
		if err := os.WriteFile(filepath.Join(dir, "targets.yaml"), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		h := f.handler()
		if err := f.kept.Keep(dir, c.mesh); err == nil || !strings.Contains(err.Error(), "it lies in") {
			t.Errorf("it is believed: %v", err)
		}
		if _, body := get(h, "/sd/prometheus"); strings.Count(body, `"targets"`) != 1 {
			t.Errorf("the targets are %s", body)
		}
	}
}
