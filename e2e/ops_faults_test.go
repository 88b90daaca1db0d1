package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/traffic"
)

// TestOfTwoEnvoysWithOneNodeIDTheNewestWins is somebody's copied bootstrap, or
// a machine that was moved and is still running.
func TestOfTwoEnvoysWithOneNodeIDTheNewestWins(t *testing.T) {
	m := harness.Start(t, harness.Options{})
	old := m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Ready()
	superseded := func() int { return int(m.Metrics()["controlplane_xds_superseded_streams_total"]) }
	first := m.Proxies()["lake-1"]
	if n := superseded(); n != 0 {
		t.Fatalf("%d streams were superseded before there was a second Envoy", n)
	}

	twin := m.Prepare(harness.Spec{
		Service: "lake_service", ID: "twin",
		Bootstrap: func(s *harness.Sidecar, printed string) string {
			token, err := os.ReadFile(old.TokenFile) // the token names its node
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.TokenFile, token, 0o600); err != nil {
				t.Fatal(err)
			}
			return strings.Replace(printed, "id: twin", "id: lake-1", 1)
		},
	})
	m.Launch(twin)
	harness.Eventually(t, "the twin has taken the stream over", 10*time.Second, func() error {
		p := m.Proxies()["lake-1"]
		if p.Peer == first.Peer || !p.Connected.After(first.Connected) {
			return fmt.Errorf("it is still the stream of %s from %s", p.Connected, p.Peer)
		}
		return nil
	})
	if n := superseded(); n < 1 {
		t.Errorf("%d streams superseded", n)
	}
	said := regexp.MustCompile(`newer stream of the same node\.id.*lake-1|lake-1.*newer stream of the same node\.id`)
	harness.Eventually(t, "the log names the node", 5*time.Second, func() error {
		if len(m.Plane.Log.Matching(said)) == 0 {
			return fmt.Errorf("it says\n%s", m.Plane.Log.Tail(10))
		}
		return nil
	})
	harness.Eventually(t, "a person sees it", 20*time.Second, func() error {
		status, ready, err := m.Plane.Readyz()
		if err != nil || status != 200 || !strings.Contains(strings.Join(ready.Problems, "\n"), `two proxies have the node.id "lake-1"`) {
			return fmt.Errorf("/readyz: %d, problems %q: %w", status, ready.Problems, err)
		}
		if n := m.Metrics()["controlplane_xds_contested_nodes"]; n != 1 {
			return fmt.Errorf("%v node.ids are contested", n)
		}
		return nil
	})
	// The older one comes back, and is then the newest, and so on, at the pace of
	// Envoy's back-off. At no time are both served.
	if err := twin.Envoy.WaitReady(t.Context(), 15*time.Second); err != nil {
		t.Error(err)
	}
	harness.Eventually(t, "one stream is left", 5*time.Second, func() error {
		if n := m.Metrics()[`controlplane_xds_streams{protocol="delta"}`]; n != 1 {
			return fmt.Errorf("%v streams", n)
		}
		return nil
	})
	if proxies := m.Proxies(); len(proxies) != 1 {
		t.Errorf("%d proxies: %v", len(proxies), proxies)
	}
	for _, s := range []*harness.Sidecar{old, twin} { // each has what it needs to serve
		r := traffic.Load{Addr: s.Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 20}.Do(t.Context())
		if r.Failed() != 0 {
			t.Errorf("%s: %s", s.ID, r)
		}
	}
}

// TestListenerPortInUseBreaksNothingElse: Envoy's NACK is shown with what the
// operator can do something about.
func TestListenerPortInUseBreaksNothingElse(t *testing.T) {
	m := harness.Start(t, harness.Options{Allowed: []string{
		`gRPC config for type\.googleapis\.com/envoy\.config\.listener\.v3\.Listener rejected: .*metrics.*cannot bind`,
		`listener 'metrics' failed to bind or apply socket options|cannot bind '127\.0\.0\.1:\d+': Address already in use`,
	}})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	nexus := m.Prepare(harness.Spec{Service: "nexus", ID: "nexus-1"})
	squatter, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", nexus.MetricsPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = squatter.Close() }()
	m.Launch(nexus)
	if err := nexus.Envoy.WaitReady(t.Context(), 15*time.Second); err != nil {
		t.Fatal(err)
	}
	m.Register(nexus)

	var nack string
	harness.Eventually(t, "the NACK is shown", 10*time.Second, func() error {
		types := m.Proxies()["nexus-1"].Types
		l := types["listener"]
		if l.State != "REJECTED" || l.LastNack == nil || l.LastNack.Resource != "metrics" {
			return fmt.Errorf("listener: %+v, %+v", l, l.LastNack)
		}
		for _, typ := range []string{"cluster", "endpoint", "route", "secret"} {
			if types[typ].State != "SYNCED" {
				return fmt.Errorf("%s is %s", typ, types[typ].State)
			}
		}
		nack = l.LastNack.Message
		return nil
	})
	if !strings.Contains(nack, "Address already in use") || !strings.Contains(nack, fmt.Sprint(nexus.MetricsPort)) {
		t.Errorf("the NACK says %q", nack)
	}
	source := m.Proxies()["nexus-1"].Types["listener"].LastNack.Source
	if want := lineOf(t, m.MeshFile(0), "    metrics:"); !strings.HasPrefix(source, want) {
		t.Errorf("the NACK comes from %s, want %s…", source, want)
	}
	if n := m.Metrics()[`controlplane_xds_nacks_total{type="listener"}`]; n == 0 {
		t.Error("the NACK is not counted")
	}
	logged := regexp.MustCompile(`nexus-1.*metrics.*` + regexp.QuoteMeta(source) + `|` + regexp.QuoteMeta(source) + `.*nexus-1.*metrics`)
	if len(m.Plane.Log.Matching(logged)) == 0 {
		t.Errorf("the log does not name proxy, resource and line:\n%s", m.Plane.Log.Tail(20))
	}

	// Its other listeners serve, inbound and outbound, and so does lake-1.
	for _, c := range []struct{ from, to, by string }{
		{"nexus-1", "lake_service", "lake-1"}, {"lake-1", "nexus", "nexus-1"}, {"lake-1", "lake_service", "lake-1"},
	} {
		harness.Eventually(t, c.from+" reaches "+c.to, 5*time.Second, func() error { // the catalog has just changed
			if r := m.Call(c.from, c.to, "/"); r.Status != 200 || r.Reply.Instance != c.by {
				return fmt.Errorf("got %s", r)
			}
			return nil
		})
	}
	p := m.Proxies()["lake-1"]
	if err := p.Synced(); err != nil {
		t.Error(err)
	}

	// Changes of other types reach it, and of other listeners.
	m.EditSeed("max_requests: 2048", "max_requests: 77")
	harness.Eventually(t, "an edit of a cluster reaches it", 10*time.Second, func() error {
		if got := m.Resource("nexus-1", "cluster", "stream_service").Field("circuit_breakers.thresholds.0.max_requests"); got != 77.0 {
			return fmt.Errorf("max_requests is %v", got)
		}
		return nil
	})
	m.EditSeed("idle: 5m", "idle: 4m")
	harness.Eventually(t, "an edit of the other listeners reaches it", 10*time.Second, func() error {
		if got := m.Resource("nexus-1", "listener", "outbound").Find("idle_timeout"); len(got) != 1 || got[0] != "240s" {
			return fmt.Errorf("the idle timeout of outbound is %v", got)
		}
		return nil
	})

	// What was refused is not sent again for as long as it is the same: a proxy
	// would refuse it again and again.
	nacks := m.Metrics()[`controlplane_xds_nacks_total{type="listener"}`]
	if nacks > 3 {
		t.Errorf("%v NACKs of one listener", nacks)
	}

	// The port is free again, and the operator's next edit of it succeeds.
	_ = squatter.Close()
	m.EditSeed(`path: "/metrics"`, `path: "/stats"`)
	harness.Eventually(t, "nexus-1 has everything", 15*time.Second, func() error {
		p := m.Proxies()["nexus-1"]
		return p.Synced()
	})
	if r, err := traffic.NewClient(fmt.Sprintf("127.0.0.1:%d", nexus.MetricsPort)).Get(t.Context(), "nexus-1", "/stats"); err != nil || r.Status != 200 {
		t.Errorf("the metrics of nexus-1: %s, %v", r, err)
	}
}

// lineOf returns FILE:LINE: of the first line that begins so.
func lineOf(t *testing.T, file, prefix string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		t.Fatal(err)
	}
	for n, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, prefix) {
			return fmt.Sprintf("%s:%d:", file, n+1)
		}
	}
	t.Fatalf("%s has no line %q", file, prefix)
	return ""
}
