package e2e

import (
	"net/http"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// bareApp starts an application without a sidecar, and registers it.
func bareApp(t *testing.T, m *harness.Mesh, i run.Instance) *app.App {
	t.Helper()
	a, err := app.Start(i.Service, i.ID, 0)
	noError(t, err)
	t.Cleanup(a.Die)
	i.Port = a.Port()
	noError(t, m.Registry.Register(i))
	return a
}

// withoutEjection is behind a mesh in one line.
const withoutEjection = "  circuit_breakers: {default: {outlier_detection: {consecutive_5xx: 0, consecutive_gateway_failure: 0}}}\n"

// TestRetriesHelpAndMakeNoOutageWorse drives configs/examples/retries.yaml.
func TestRetriesHelpAndMakeNoOutageWorse(t *testing.T) {
	m := harness.Start(t, harness.Options{Mesh: besidesTheExamples + withoutEjection, Overlay: example(t, "retries")})
	one := bareApp(t, m, run.Instance{Service: "lake_service", ID: "one"})
	two := bareApp(t, m, run.Instance{Service: "lake_service", ID: "two"})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true})
	m.Ready()
	lake := traffic.Request{Host: "lake_service"}
	servedBy(t, m, lake, "one", "two")
	behave := func(b app.Behavior) {
		for _, a := range []*app.App{one, two} {
			a.Behave(b)
			a.Forget()
		}
	}

	// Without a budget each request of an outage has three tries. With it, of the
	// 60 that are under way a fifth is, or the ten that there may always be.
	behave(app.Behavior{FailRate: 1, Delay: 20 * time.Millisecond})
	const requests = 3000
	r := traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: lake, Requests: requests, Concurrency: 60}.Do(t.Context())
	tries := float64(one.Count()+two.Count()) / requests
	if r.Status[http.StatusServiceUnavailable] != requests || tries < 1.02 || tries > 1.5 {
		t.Errorf("%.2f tries a request: %s", tries, r)
	}
	t.Logf("in an outage, %.2f tries a request", tries)

	// Each instance fails every second request, and says when to come again.
	behave(app.Behavior{FailRate: 0.5, Headers: http.Header{"Retry-After": {"1"}}})
	waited := 0
	for range 6 {
		r := m.Do(caller, lake)
		if r.Status != http.StatusOK {
			t.Errorf("%s", r)
		}
		switch {
		case r.Took > 900*time.Millisecond:
			waited++
		case r.Took > 500*time.Millisecond:
			t.Errorf("neither at once nor when it was to come: %s", r)
		}
	}
	if waited == 0 {
		t.Error("no retry waited as long as the answer asked for")
	}
	behave(app.Behavior{FailRate: 0.5, Headers: http.Header{"Retry-After": {"60"}}})
	for range 6 {
		if r := m.Do(caller, lake); r.Status != http.StatusOK || r.Took > time.Second {
			t.Errorf("an answer asks for more than it may: %s", r)
		}
	}

	// One instance is slow. What comes to it first is asked of the other, too.
	behave(app.Behavior{})
	one.Behave(app.Behavior{Delay: 3 * time.Second})
	hedged := 0
	for range 12 {
		r := m.Do(caller, traffic.Request{Host: "lake_service", Path: "/search?q=x"})
		if r.Status != http.StatusOK || r.Reply.Instance != "two" || r.Took > 2*time.Second {
			t.Errorf("%s", r)
		}
		if r.Took > 200*time.Millisecond {
			hedged++
		}
	}
	if hedged == 0 {
		t.Errorf("nothing was asked twice: %d came to the slow one", one.Count())
	}
}
