package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// servicesFile has a service for each key of services.X, and the same key with
// another value for all the others.
const servicesFile = `mesh:
  name: vocabulary
  circuit_breakers:
    default:
      outlier_detection: {consecutive_5xx: 0, consecutive_gateway_failure: 0}
  load_balancing: {panic_threshold: 0}
  policies:
    retry: {attempts: 2, conditions: [5xx], backoff: {base_interval: 5ms}}
    timeout: {request: 400ms}
  services:
    nexus:
      upstreams:
        - lake
        - mapped
        - guarded
        - modern
        - patient
        - careful
        - choosy
        - sticky
        - session
        - hurried
        - fragile
        - panicky
        - checked
        - probed
        - {service: bank, local_bind_port: %d}
    mapped: {consul_service: data.lake-v2}
    modern: {protocol: http2}
    bank: {protocol: tcp}
    patient: {timeout: {request: 0s}}
    careful: {retry: {methods: [GET, PUT]}}
    choosy: {retry: {conditions: [connect-failure], status_codes: [409, 418]}}
    sticky: {load_balancing: {policy: ring_hash, hash_policy: [{header: X-User}]}}
    session: {load_balancing: {policy: maglev, hash_policy: [{cookie: session}]}}
    hurried: {timeout: {request: 0s, stream_idle: 300ms}}
    panicky: {outlier_detection: {consecutive_5xx: 2, max_ejection_percent: 100}, retry: {attempts: 0}, load_balancing: {panic_threshold: 50}}
    probed: {protocol: grpc, health_checks: {protocol: grpc, interval: 200ms, timeout: 200ms, unhealthy_threshold: 1, healthy_threshold: 1}}
    fragile: {outlier_detection: {consecutive_5xx: 2, max_ejection_percent: 100}, retry: {attempts: 0}}
    checked: {health_checks: {protocol: http, path: /health, interval: 200ms, timeout: 200ms, unhealthy_threshold: 2, healthy_threshold: 1}}
  security:
    mtls: {mode: permissive}
    authorization:
      policies:
        - {name: nexus, action: ALLOW, sources: [nexus], not_destinations: [guarded, checked, probed]}
        - {name: nexus-to-checked, action: ALLOW, sources: [nexus], destinations: [checked], paths: ["/api/*"]}
        - {name: nexus-to-probed, action: ALLOW, sources: [nexus], destinations: [probed], paths: ["/mesh.e2e.Echo/*"]}
`

// healthApp serves everything, but for /health, which it fails while it is told
// to.
type healthApp struct {
	*httptest.Server
	sick   atomic.Bool
	checks atomic.Int64 // of /health
	served atomic.Int64 // of all else
}

func startHealthApp(t *testing.T, instance string, port int) *healthApp {
	t.Helper()
	a := &healthApp{}
	l, err := net.Listen("tcp", local(port))
	noError(t, err)
	a.Server = &httptest.Server{Listener: l, Config: &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			a.checks.Add(1)
			if a.sick.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return
		}
		a.served.Add(1)
		w.Header().Set("X-Instance", instance)
		_ = json.NewEncoder(w).Encode(app.Reply{Instance: instance})
	})}}
	a.Start()
	t.Cleanup(a.Close)
	return a
}

// TestServicesHaveSettingsOfTheirOwn: most are bare applications, which a mesh
// on its way to mTLS calls in plaintext. They cost no Envoy.
func TestServicesHaveSettingsOfTheirOwn(t *testing.T) {
	bankPort := harness.Port(t)
	m := harness.Start(t, harness.Options{Mesh: fmt.Sprintf(servicesFile, bankPort)})
	apps := make(map[string]*app.App)
	for _, id := range []string{"lake-1", "modern-1", "patient-1", "careful-1", "choosy-1", "sticky-1", "sticky-2", "sticky-3", "session-1", "session-2", "session-3", "hurried-1", "panicky-1", "fragile-1", "hidden-1"} {
		service, _, _ := strings.Cut(id, "-")
		a, err := app.Start(service, id, 0)
		noError(t, err)
		t.Cleanup(a.Die)
		apps[id] = a
		noError(t, m.Registry.Register(run.Instance{Service: service, ID: id, Port: a.Port()}))
	}
	bank, err := app.StartTCP(0, banner)
	noError(t, err)
	t.Cleanup(bank.Die)
	noError(t, m.Registry.Register(run.Instance{Service: "bank", ID: "bank-1", Port: bank.Port()}))
	mapped := m.Prepare(harness.Spec{Service: "mapped", ID: "mapped-1"})
	m.Launch(mapped)
	inConsul := mapped.Instance()
	inConsul.Service = "data.lake-v2"
	noError(t, m.Registry.Register(inConsul))
	m.Add(harness.Spec{Service: "guarded", ID: "guarded-1"})
	health := make(map[string]*healthApp)
	for _, id := range []string{"checked-1", "checked-2"} {
		s := m.Prepare(harness.Spec{Service: "checked", ID: id, NoApp: true})
		health[id] = startHealthApp(t, id, s.AppPort)
		m.Launch(s)
		noError(t, s.Envoy.WaitReady(t.Context(), 10*time.Second))
		m.Register(s)
	}
	probed := m.Add(harness.Spec{Service: "probed", ID: "probed-1"})
	m.Add(harness.Spec{Service: "nexus", ID: caller, Unregistered: true, Scoped: true})
	m.Ready()
	for service, ids := range map[string][]string{"lake": {"lake-1"}, "mapped": {"mapped-1"}, "modern": {"modern-1"}, "patient": {"patient-1"}, "choosy": {"choosy-1"}, "fragile": {"fragile-1"}, "panicky": {"panicky-1"}} {
		inRotation(t, m, service, ids...)
	}

	t.Run("consul_service", func(t *testing.T) {
		r := m.Call(caller, "mapped", "/")
		if xfcc := r.Reply.Headers[clientCerts]; r.Status != 200 || !strings.Contains(xfcc, "By=spiffe://vocabulary/mapped;") {
			t.Errorf("%s, %s %q", r, clientCerts, xfcc)
		}
		if r := m.Call(caller, "data.lake-v2", "/"); r.Status != 404 {
			t.Errorf("by its name in the catalog: %s", r)
		}
	})

	t.Run("upstreams", func(t *testing.T) {
		if r := m.Call(caller, "hidden", "/"); r.Status != 404 || apps["hidden-1"].Count() != 0 {
			t.Errorf("a service that is no upstream: %s", r)
		}
		for _, r := range m.Dump(caller).Resources {
			if strings.Contains(string(r.Body), "hidden") {
				t.Errorf("%s %s has it", r.Type, r.Name)
			}
		}
		if m.Dump("guarded-1").Get("cluster", "hidden") == nil {
			t.Error("a service without upstreams does not have it: what nexus lacks shows nothing")
		}
		// What is denied is there.
		if r := m.Call(caller, "guarded", "/"); r.Status != 403 {
			t.Errorf("an upstream that denies: %s", r)
		}
	})

	t.Run("local_bind_port", func(t *testing.T) {
		if back, err := traffic.Echo(t.Context(), local(bankPort), "how much?", len(banner)); err != nil || back != "how much?" {
			t.Errorf("%q, %v", back, err)
		}
		if r := m.Call(caller, "bank", "/"); r.Status != 404 {
			t.Errorf("a TCP service by HTTP: %s", r)
		}
	})

	t.Run("protocol", func(t *testing.T) {
		for service, want := range map[string]string{"lake": "HTTP/1.1", "modern": "HTTP/2.0"} {
			if r := m.Call(caller, service, "/"); r.Reply.Protocol != want {
				t.Errorf("%s was spoken to in %q", service, r.Reply.Protocol)
			}
		}
	})

	t.Run("timeout.request", func(t *testing.T) {
		for _, id := range []string{"lake-1", "patient-1"} {
			apps[id].Behave(app.Behavior{Delay: time.Second})
			defer apps[id].Behave(app.Behavior{})
		}
		if r := m.Call(caller, "lake", "/"); r.Status != 504 || r.Took < 350*time.Millisecond || r.Took > 800*time.Millisecond {
			t.Errorf("cut after 400ms: %s", r)
		}
		if r := m.Call(caller, "patient", "/"); r.Status != 200 || r.Took < time.Second {
			t.Errorf("never cut: %s", r)
		}
	})

	t.Run("retry.methods", func(t *testing.T) {
		a := apps["careful-1"]
		a.Behave(app.Behavior{FailRate: 1})
		for method, tries := range map[string]int{"GET": 3, "PUT": 3, "POST": 1, "DELETE": 1} {
			a.Forget()
			if r := m.Do(caller, traffic.Request{Host: "careful", Method: method}); r.Status != 503 || a.Count() != tries {
				t.Errorf("%s: %s after %d tries, want %d", method, r, a.Count(), tries)
			}
		}
		lake := apps["lake-1"]
		lake.Behave(app.Behavior{FailRate: 1})
		defer lake.Behave(app.Behavior{})
		lake.Forget()
		if m.Do(caller, traffic.Request{Host: "lake", Method: "POST"}); lake.Count() != 3 {
			t.Errorf("where no methods are named, a POST was tried %d times", lake.Count())
		}
	})

	t.Run("retry.status_codes", func(t *testing.T) {
		a := apps["choosy-1"]
		for code, tries := range map[int]int{409: 3, 418: 3, 404: 1, 503: 1} {
			a.Behave(app.Behavior{FailRate: 1, FailStatus: code})
			a.Forget()
			if r := m.Call(caller, "choosy", "/"); r.Status != code || a.Count() != tries {
				t.Errorf("%d: %s after %d tries, want %d", code, r, a.Count(), tries)
			}
		}
	})

	t.Run("load_balancing by ring_hash", func(t *testing.T) {
		inRotation(t, m, "sticky", "sticky-1", "sticky-2", "sticky-3") // without the header, each is a random one
		serving := make(map[string]int)
		for user := range 20 {
			ids := make(map[string]bool)
			for range 5 {
				r := m.Do(caller, traffic.Request{Host: "sticky", Header: http.Header{"X-User": {strconv.Itoa(user)}}})
				ids[r.Reply.Instance] = true
				serving[r.Reply.Instance]++
			}
			if len(ids) != 1 {
				t.Errorf("user %d was served by %v", user, ids)
			}
		}
		if len(serving) != 3 {
			t.Errorf("twenty users are all served by %v", serving)
		}
	})

	t.Run("load_balancing by maglev and a cookie", func(t *testing.T) {
		serving := make(map[string]bool)
		for range 20 {
			// The cookie that Envoy makes is of the connection.
			first, err := traffic.Raw(t.Context(), m.Sidecar(caller).Outbound(), traffic.Request{Host: "session"})
			noError(t, err)
			cookie, _, _ := strings.Cut(first.Header.Get("Set-Cookie"), ";")
			if !strings.HasPrefix(cookie, "session=") {
				t.Fatalf("no cookie is set: %v", first.Header)
			}
			serving[first.Reply.Instance] = true
			for range 3 {
				if r := m.Do(caller, traffic.Request{Host: "session", Header: http.Header{"Cookie": {cookie}}}); r.Reply.Instance != first.Reply.Instance {
					t.Errorf("the session of %s went to %s", first.Reply.Instance, r)
				}
			}
		}
		if len(serving) != 3 {
			t.Errorf("twenty sessions are all served by %v", serving)
		}
	})

	t.Run("timeout.stream_idle", func(t *testing.T) {
		client := m.Client(caller)
		if r, err := client.Get(t.Context(), "patient", "/stream?silent=600ms"); err != nil || !strings.Contains(r.Body, "patient-1") {
			t.Errorf("a stream that is silent for less than five minutes: %s, %v", r, err)
		}
		// Envoy closes the connection of a stream that it cut a second later.
		r, err := client.Get(t.Context(), "hurried", "/stream?silent=4s")
		if err == nil || r.Took > 3*time.Second {
			t.Errorf("one that is cut after 300ms: %s, %v", r, err)
		}
	})

	t.Run("outlier_detection", func(t *testing.T) {
		for _, id := range []string{"lake-1", "fragile-1"} {
			apps[id].Behave(app.Behavior{FailRate: 1, FailStatus: 500})
			apps[id].Forget()
			defer apps[id].Behave(app.Behavior{})
		}
		for range 2 {
			if r := m.Call(caller, "fragile", "/"); r.Status != 500 {
				t.Errorf("before it is ejected: %s", r)
			}
		}
		harness.Eventually(t, "fragile-1 is out", 5*time.Second, func() error {
			if r := m.Call(caller, "fragile", "/"); r.Status != 503 || r.Reply.Instance != "" {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		// Of panicky all instances are out, and below its threshold all are used.
		apps["panicky-1"].Behave(app.Behavior{FailRate: 1, FailStatus: 500})
		for range 10 {
			if r := m.Call(caller, "panicky", "/"); r.Status != 500 || r.Reply.Instance == "" {
				t.Errorf("in panic: %s", r)
			}
		}
		if err := ejected(m, &harness.Sidecar{Spec: harness.Spec{Service: "panicky", ID: "panicky-1"}, MeshPort: apps["panicky-1"].Port()}, true); err != nil {
			t.Errorf("nothing to panic about: %v", err)
		}
		for range 10 {
			if r := m.Call(caller, "lake", "/"); r.Status != 500 {
				t.Errorf("where nothing is ejected: %s", r)
			}
		}
	})

	t.Run("health_checks by grpc", func(t *testing.T) {
		ctx := harness.Context(t, 5*time.Second)
		conn := dialGRPC(t, m.Sidecar(caller).Outbound(), "probed")
		if got, err := app.CallUnary(ctx, conn, "hello"); err != nil || got != "probed-1: hello" {
			t.Errorf("%q, %v", got, err)
		}
		if h, err := host(m, probed); err != nil || h.Health.FailedActiveCheck {
			t.Errorf("%+v, %v", h.Health, err)
		}
		probed.App.Die()
		harness.Eventually(t, "probed-1 is out", 5*time.Second, func() error {
			h, err := host(m, probed)
			if err == nil && !h.Health.FailedActiveCheck {
				err = fmt.Errorf("%+v", h.Health)
			}
			return err
		})
		noError(t, probed.App.Revive())
		harness.Eventually(t, "probed-1 serves again", 5*time.Second, func() error {
			_, err := app.CallUnary(ctx, conn, "hello")
			return err
		})
	})

	t.Run("health_checks", func(t *testing.T) {
		// The check is no call that the policies admit: /health is not in /api/*.
		if r := m.Call(caller, "checked", "/elsewhere"); r.Status != 403 {
			t.Errorf("what no policy admits: %s", r)
		}
		apis := func(n int) traffic.Result {
			return traffic.Load{Addr: m.Sidecar(caller).Outbound(), Request: traffic.Request{Host: "checked", Path: "/api/x"}, Requests: n}.Do(t.Context())
		}
		serves := func(ids ...string) {
			t.Helper()
			harness.Eventually(t, fmt.Sprintf("%q serve", ids), 5*time.Second, func() error {
				if r := apis(20); r.Failed() > 0 || len(r.Instances) != len(ids) {
					return fmt.Errorf("%s", r)
				}
				return nil
			})
		}
		serves("checked-1", "checked-2")
		health["checked-2"].sick.Store(true)
		serves("checked-1")
		if h, err := host(m, m.Sidecar("checked-2")); err != nil || !h.Health.FailedActiveCheck || h.Health.FailedOutlierCheck {
			t.Errorf("checked-2 is %+v, %v; want it out by the check", h.Health, err)
		}
		health["checked-2"].sick.Store(false)
		serves("checked-1", "checked-2")
		for id, a := range health {
			if a.checks.Load() == 0 || a.served.Load() == 0 {
				t.Errorf("%s: %d checks, %d requests", id, a.checks.Load(), a.served.Load())
			}
		}
	})
}
