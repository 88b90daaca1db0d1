package control

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/register"
	"datapunk.dev/controlplane/sidecar/api"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/xds"
	"datapunk.dev/controlplane/xds/wire"
)

// What an Envoy reports, in the words of the catalog.
func TestWhatAnEnvoyReportsOfItsApplication(t *testing.T) {
	byHTTP, byTCP := &policy.AppCheck{Path: "/health", Timeout: 2 * time.Second}, &policy.AppCheck{TCP: true, Timeout: 2 * time.Second}
	synctest.Test(t, func(t *testing.T) {
		told := time.Now()
		time.Sleep(time.Second)
		for _, c := range []struct {
			what   string
			check  *policy.AppCheck
			status wire.HealthStatus
			http   int
			told   time.Time
			want   register.Health
		}{
			{"200", byHTTP, wire.HealthHealthy, 200, told, register.Passing},
			{"429 is a warning", byHTTP, wire.HealthHealthy, 429, told, register.Warning},
			{"by TCP the status is an old one", byTCP, wire.HealthHealthy, 429, told, register.Passing},
			{"unknown", byHTTP, wire.HealthUnknown, 0, told, ""},
			{"before its first check can be over", byHTTP, wire.HealthUnhealthy, 0, told, ""},
			{"the same later", byHTTP, wire.HealthUnhealthy, 0, told.Add(-time.Second), register.Critical},
			{"a timeout", byHTTP, wire.HealthTimeout, 0, told.Add(-time.Minute), register.Critical},
			{"500", byHTTP, wire.HealthUnhealthy, 500, told.Add(-time.Minute), register.Critical},
			{"what nobody knows", byHTTP, 77, 0, told.Add(-time.Minute), register.Critical},
		} {
			if got := healthOf(c.check, xds.HealthReport{Status: c.status, HTTPStatus: c.http, Told: c.told}); got != c.want {
				t.Errorf("%s: %q, want %q", c.what, got, c.want)
			}
		}
	})
}

// Whether a proxy is checked depends on what stands beside it: who has an old
// bootstrap has nothing, and is passing while its stream lives.
func TestWhoseApplicationIsChecked(t *testing.T) {
	m := mesh(t, "mesh: {name: datapunk, services: {h: {health_check: {http: /}}, t: {health_check: {tcp: true}}, g: {health_check: {grpc: true}}, none: {}}}")
	for kinds, want := range map[string]map[string]bool{
		"":              {},
		"http,tcp":      {"h": true, "t": true},
		"http,tcp,grpc": {"h": true, "t": true, "g": true},
	} {
		for _, service := range []string{"h", "t", "g", "none"} {
			if got := checked(kinds, m.Service(service).AppCheck); got != want[service] {
				t.Errorf("%s by %q: %v", service, kinds, got)
			}
		}
	}
}

// A sidecar is told what to check where that is by gRPC and its instance is
// registered, and else to ask again; many of them, less often.
func TestWhatASidecarIsToCheck(t *testing.T) {
	const registered = "mesh: {name: datapunk, discovery: {register: true}, services: {g: {health_check: {grpc: true, interval: 4s, unhealthy_threshold: 3}}, h: {health_check: {http: /}}}}"
	plane := func(text string, proxies int) *Plane {
		r := NewRegistrations(slog.New(slog.DiscardHandler), "file:catalog.yaml", register.NewMerged(func(*watch.Catalog) {}), "127.0.0.1:18000", func() bool { return true })
		m := mesh(t, text)
		if err := r.Follow(m); err != nil {
			t.Fatal(err)
		}
		p := &Plane{loop: &Loop{}, registrations: r}
		p.mesh.Store(m)
		for n := range proxies {
			r.proxies[string(rune(n+1))] = xds.Presence{}
		}
		return p
	}
	p := plane(registered, 1)
	if got, want := *p.sidecarReported("g", "g-1", &api.HealthReport{Health: "passing"}),
		(api.AppCheck{GRPC: true, Interval: 4 * time.Second, Timeout: 2 * time.Second, UnhealthyThreshold: 3, HealthyThreshold: 1, Next: 2 * time.Second}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for what, got := range map[string]*api.AppCheck{
		"Envoy checks it":    p.sidecarReported("h", "h-1", new(api.HealthReport)),
		"nobody asks for it": p.sidecarReported("other", "o-1", new(api.HealthReport)),
		"not registered":     plane("mesh: {name: datapunk, services: {g: {health_check: {grpc: true}}}}", 0).sidecarReported("g", "g-1", new(api.HealthReport)),
	} {
		if got.GRPC || got.Next != 15*time.Second {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if got := plane(registered, 2000).sidecarReported("h", "h-1", new(api.HealthReport)); got.Next != 100*time.Second {
		t.Errorf("2,000 sidecars ask each %s", got.Next)
	}
}
