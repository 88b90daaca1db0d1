package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

// besidesTheExamples has bare applications called, and nobody denied: they cost no
// Envoy.
const besidesTheExamples = "mesh:\n  security: {mtls: {mode: permissive}, authorization: {enabled: false}}\n"

// example is the text of a file of configs/examples.
func example(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tool.Root(), "configs", "examples", name+".yaml"))
	noError(t, err)
	return string(text)
}

// TestTheExamplesOfTheTrafficGuideDoWhatTheySay drives each file of
// configs/examples through one caller's sidecar, on connections that stay open
// over all edits.
func TestTheExamplesOfTheTrafficGuideDoWhatTheySay(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: besidesTheExamples, Overlay: example(t, "canary")})
	start := func(id string, i run.Instance) *app.App {
		a, err := app.Start("lake_service", id, 0)
		noError(t, err)
		t.Cleanup(a.Die)
		i.Service, i.ID, i.Port = "lake_service", id, a.Port()
		noError(t, m.Registry.Register(i))
		return a
	}
	stable := start("stable", run.Instance{Meta: map[string]string{"version": "1"}})
	canary := start("canary", run.Instance{Tags: []string{"canary"}, Meta: map[string]string{"version": "2"}})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	lake := traffic.Request{Host: "lake_service"}
	servedBy(t, m, lake, "canary", "stable")
	listener := m.Resource(caller, "listener", "outbound").Updated
	dials := m.Client(caller).Dials()
	takes := func(t *testing.T, name string, probe func() error) {
		t.Helper()
		m.Edit(example(t, name))
		harness.Eventually(t, "the example takes effect", 20*time.Second, probe)
	}

	t.Run("canary", func(t *testing.T) {
		const requests = 20_000
		r := traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: lake, Requests: requests, Concurrency: 8}.Do(t.Context())
		share := 100 * float64(r.Instances["canary"]) / requests
		if r.Failed() > 0 || share < 4.5 || share > 5.5 {
			t.Errorf("%.2f %% went to the canary: %s", share, r)
		}
		t.Logf("5 %% of %d requests are %.2f %%", requests, share)
		// What fails there is tried again at the stable ones, if it may be.
		canary.Die()
		r = traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: lake, Requests: 400}.Do(t.Context())
		if r.Failed() > 0 || r.Instances["stable"] != 400 {
			t.Errorf("with a dead canary: %s", r)
		}
		noError(t, canary.Revive())
	})

	t.Run("testers", func(t *testing.T) {
		tester := traffic.Request{Host: "lake_service", Header: http.Header{"X-Canary": {"always"}}}
		takes(t, "testers", func() error {
			for range 20 {
				if r := m.Do(caller, tester); r.Reply.Instance != "canary" {
					return fmt.Errorf("a tester: %s", r)
				}
				if r := m.Do(caller, lake); r.Reply.Instance != "stable" {
					return fmt.Errorf("%s", r)
				}
			}
			return nil
		})
		m.SetHealth("canary", run.Critical)
		harness.Eventually(t, "testers are told that there is none", 10*time.Second, func() error {
			if r := m.Do(caller, tester); r.Status != 503 {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		m.SetHealth("canary", run.Passing)
	})

	t.Run("mirror", func(t *testing.T) {
		get := traffic.Request{Host: "lake_service", Path: "/api/x", Header: http.Header{"Authorization": {"secret"}, "Cookie": {"a=b"}, "X-Kept": {"1"}}}
		takes(t, "mirror", func() error {
			canary.Forget()
			if r := m.Do(caller, get); r.Reply.Instance != "stable" {
				return fmt.Errorf("%s", r)
			}
			time.Sleep(50 * time.Millisecond)
			if canary.Count() != 1 {
				return fmt.Errorf("%d copies", canary.Count())
			}
			return nil
		})
		a := canary.Arrivals()[0]
		if a.Path != "/api/x" || a.Host != "lake_service" || a.Header.Get("x-mesh-mirror") != "true" || a.Header.Get("x-kept") != "1" ||
			a.Header.Get("authorization")+a.Header.Get("cookie") != "" {
			t.Errorf("the copy is %+v", a)
		}
		stable.Forget()
		m.Do(caller, get)
		if a := stable.Arrivals()[0]; a.Header.Get("authorization") != "secret" || a.Header.Get("x-mesh-mirror") != "" {
			t.Errorf("the request is %+v", a)
		}
		unmoved := func(what string) {
			t.Helper()
			for range 10 {
				if r := m.Do(caller, get); r.Status != 200 || r.Took > time.Second {
					t.Errorf("with a mirror %s: %s", what, r)
				}
			}
		}
		for what, b := range map[string]app.Behavior{"that fails": {FailRate: 1}, "that forbids it": {FailRate: 1, FailStatus: 403}, "that stalls": {Hang: true}} {
			canary.Behave(b)
			unmoved(what)
		}
		canary.Behave(app.Behavior{})
		canary.Die()
		unmoved("that is dead")
		noError(t, canary.Revive())
	})

	t.Run("fault", func(t *testing.T) {
		takes(t, "fault", func() error {
			if r := m.Do(caller, traffic.Request{Host: "lake_service", Path: "/broken/x"}); r.Status != 503 {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		slow := 0
		for range 40 {
			if r := m.Do(caller, traffic.Request{Host: "lake_service", Header: http.Header{"X-Chaos": {"1"}}}); r.Status == 200 && r.Took > 250*time.Millisecond {
				slow++
			}
		}
		if slow < 8 || slow > 32 {
			t.Errorf("%d of 40 were slow, which is to be a half", slow)
		}
		for range 10 { // whoever asks for it
			r := m.Do(caller, traffic.Request{Host: "lake_service", Header: http.Header{"X-Envoy-Fault-Abort-Request": {"503"}, "X-Envoy-Fault-Delay-Request": {"5000"}}})
			if r.Status != 200 || r.Took > time.Second {
				t.Errorf("a caller steers faults: %s", r)
			}
		}
	})

	t.Run("paths", func(t *testing.T) {
		takes(t, "paths", func() error {
			if r := m.Do(caller, traffic.Request{Host: "lake_service", Path: "/old"}); r.Status != 410 || r.Body != "it has gone\n" {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		for path, want := range map[string]string{"/v1": "/", "/v1/": "/", "/v1/a/b?c=d": "/a/b?c=d", "/v1x": "/v1x", "/": "/"} {
			r := m.Do(caller, traffic.Request{Host: "lake_service", Path: path})
			routed := path != "/v1x" && path != "/"
			if r.Reply.Path != want || (r.Reply.Headers["x-version"] == "1") != routed || (r.Header.Get("x-served-by") == "lake") != routed {
				t.Errorf("%s came as %q: %s", path, r.Reply.Path, r)
			}
		}
		if r := m.Do(caller, traffic.Request{Host: "lake_service", Path: "/docs?a=b"}); r.Status != 308 || r.Header.Get("location") != "http://lake_service/help?a=b" {
			t.Errorf("a redirect to %q: %s", r.Header.Get("location"), r)
		}
	})

	if now := m.Resource(caller, "listener", "outbound").Updated; !now.Equal(listener) {
		t.Errorf("the listener was changed at %s", now)
	}
	if n := m.Client(caller).Dials() - dials; n > 1 {
		t.Errorf("%d connections were opened anew", n)
	}
}
