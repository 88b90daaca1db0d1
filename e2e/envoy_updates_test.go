package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
)

// callers are the sidecars that call in these tests. The first speaks delta
// and the second the state of the world: each test is about both.
var callers = []string{"nexus-1", "nexus-2"}

// updatesMesh is the callers and what they call: two services of the
// operators' file, and a guest that only the catalog knows. Of each pair the
// second speaks the state of the world.
func updatesMesh(t *testing.T, overlay string) *harness.Mesh {
	t.Helper()
	m := harness.Start(t, harness.Options{Overlay: overlay})
	for _, spec := range []harness.Spec{
		{Service: "nexus", ID: "nexus-1"},
		{Service: "nexus", ID: "nexus-2", Bootstrap: speaksSotW},
		{Service: "lake_service", ID: "lake-1"},
		{Service: "lake_service", ID: "lake-2", Bootstrap: speaksSotW},
		{Service: "stream_service", ID: "stream-1"},
		{Service: "guest_service", ID: "guest-1"},
	} {
		m.Add(spec)
	}
	m.Ready()
	for i, protocol := range []string{"delta", "sotw"} {
		if p := m.Proxies()[callers[i]]; p.Protocol != protocol {
			t.Fatalf("%s speaks %s", p.Node, p.Protocol)
		}
	}
	return m
}

// loads are calls of one service from all callers at a steady rate.
type loads struct {
	service string
	running []*traffic.Running
}

func load(t *testing.T, m *harness.Mesh, service string) *loads {
	t.Helper()
	l := &loads{service: service}
	for _, id := range callers {
		l.running = append(l.running, m.Load(id, service, traffic.Load{Rate: 100}))
	}
	goOn(t, 20, l)
	return l
}

// goOn waits for so many more calls of each caller.
func goOn(t *testing.T, n int, all ...*loads) {
	t.Helper()
	want := make(map[*traffic.Running]int)
	for _, l := range all {
		for _, r := range l.running {
			want[r] = r.Snapshot().Requests + n
		}
	}
	harness.Eventually(t, "the calls go on", 15*time.Second, func() error {
		for _, l := range all {
			for i, r := range l.running {
				if got := r.Snapshot().Requests; got < want[r] {
					return fmt.Errorf("%s made %d calls of %s, want %d", callers[i], got, l.service, want[r])
				}
			}
		}
		return nil
	})
}

// take returns what came of the calls since the last time, and checks that
// each was answered with one of these statuses.
func (l *loads) take(t *testing.T, allowed ...int) []traffic.Result {
	t.Helper()
	var all []traffic.Result
	for i, r := range l.running {
		result := r.Take()
		for status := range result.Status {
			if !slices.Contains(allowed, status) {
				t.Errorf("%s to %s, want only %v: %s", callers[i], l.service, allowed, result)
			}
		}
		if result.Errors > 0 || result.Requests == 0 {
			t.Errorf("%s to %s: %s", callers[i], l.service, result)
		}
		all = append(all, result)
	}
	return all
}

// unharmed stops the calls. Every one of them must have been served.
func (l *loads) unharmed(t *testing.T) {
	t.Helper()
	for i, r := range l.running {
		if result := r.Stop(); result.Failed() != 0 || result.Requests == 0 {
			t.Errorf("%s to %s: %s", callers[i], l.service, result)
		}
	}
}

// becomes waits until every answer has this status, for a while.
func (l *loads) becomes(t *testing.T, status int) {
	t.Helper()
	for i, r := range l.running {
		last := r.Snapshot()
		harness.Eventually(t, fmt.Sprintf("%s gets %d of %s", callers[i], status, l.service), 15*time.Second, func() error {
			now := r.Snapshot()
			answered, others := now.Status[status]-last.Status[status], now.Requests-last.Requests-(now.Status[status]-last.Status[status])
			if others > 0 {
				last = now
			}
			if others > 0 || answered < 20 {
				return fmt.Errorf("%d such answers and %d others", answered, others)
			}
			return nil
		})
	}
}

// everywhere waits until all callers run a resource of which a check is true,
// and have acknowledged everything.
func everywhere(t *testing.T, m *harness.Mesh, typ, name string, check func(*run.Resource) error) {
	t.Helper()
	harness.Eventually(t, "the callers have the new "+typ+" "+name, 15*time.Second, func() error {
		proxies, err := m.Plane.Proxies()
		if err != nil {
			return err
		}
		for _, id := range callers {
			dump, err := m.Sidecar(id).Envoy.ConfigDump()
			if err != nil {
				return err
			}
			if err := check(dump.Get(typ, name)); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			for _, r := range dump.Resources {
				if r.State == "warming" {
					return fmt.Errorf("%s: %s %s is warming", id, r.Type, r.Name)
				}
			}
			p, ok := proxies[id]
			if !ok {
				return fmt.Errorf("%s is not connected", id)
			}
			if err := p.Synced(); err != nil {
				return err
			}
		}
		return nil
	})
}

func gone(r *run.Resource) error {
	if r != nil {
		return fmt.Errorf("it is still there")
	}
	return nil
}

func there(r *run.Resource) error {
	if r == nil {
		return fmt.Errorf("it is not there")
	}
	return nil
}

// has checks a field of a resource.
func has(path string, want any) func(*run.Resource) error {
	return func(r *run.Resource) error {
		if r == nil {
			return fmt.Errorf("it is not there")
		}
		if got := r.Field(path); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("%s is %v, want %v", path, got, want)
		}
		return nil
	}
}

// TestServiceThatIsRemovedWhileItIsCalledGetsA404AndNoOtherCallFails: its route
// goes before its cluster, and comes back after it.
func TestServiceThatIsRemovedWhileItIsCalledGetsA404AndNoOtherCallFails(t *testing.T) {
	m := updatesMesh(t, quietMesh)
	bystanders := []*loads{load(t, m, "lake_service"), load(t, m, "stream_service")}
	leaving := load(t, m, "guest_service")

	for _, c := range []struct {
		name         string
		remove, back func()
	}{
		{
			"from the catalog",
			func() { m.Deregister("guest-1") },
			func() { m.Register(m.Sidecar("guest-1")) },
		},
		{
			"from the callers' upstreams",
			func() { m.Edit(quietMesh + "  services: {nexus: {upstreams: [lake_service, stream_service]}}\n") },
			func() { m.Edit(quietMesh) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaving.take(t, 200)
			c.remove()
			everywhere(t, m, "cluster", "guest_service", gone)
			leaving.becomes(t, 404)
			for i, r := range leaving.take(t, 200, 404) {
				if r.Status[404] == 0 {
					t.Errorf("%s: %s", callers[i], r)
				}
			}
			c.back()
			everywhere(t, m, "cluster", "guest_service", there)
			leaving.becomes(t, 200)
			leaving.take(t, 200, 404)
			goOn(t, 20, leaving)
		})
	}
	leaving.unharmed(t)
	for _, l := range bystanders {
		l.unharmed(t)
	}
}

func TestChangedClusterUnderLoadFailsNoCall(t *testing.T) {
	m := updatesMesh(t, "mesh: {telemetry: {tracing: {enabled: false}}}\n")
	called := []*loads{load(t, m, "lake_service"), load(t, m, "stream_service")}
	// Each is an edit of the whole overlay, so that the one before is undone.
	for _, c := range []struct {
		edit  string
		check func(*run.Resource) error
	}{
		{"circuit_breakers: {default: {max_requests: 4321}}", has("circuit_breakers.thresholds.0.max_requests", 4321)},
		{"policies: {timeout: {connect: 3s}}", has("connect_timeout", "3s")},
		{"load_balancing: {health_checks: {interval: 1s, timeout: 1s}}", has("health_checks.0.interval", "1s")},
		{"load_balancing: {health_checks: {protocol: http, path: /healthz, interval: 1s, timeout: 1s}}", has("health_checks.0.http_health_check.path", "/healthz")},
		{"load_balancing: {health_checks: null}", has("health_checks", nil)},
		{"load_balancing: {policy: round_robin}", has("load_balancing_policy.policies.0.typed_extension_config.name", "envoy.load_balancing_policies.round_robin")},
	} {
		before := make(map[string]uint64)
		for _, id := range callers {
			before[id] = m.Stats(id)["cluster_manager.cluster_modified"]
		}
		m.Edit("mesh: {telemetry: {tracing: {enabled: false}}, " + c.edit + "}\n")
		everywhere(t, m, "cluster", "lake_service", c.check)
		goOn(t, 50, called...)
		for _, id := range callers {
			if m.Stats(id)["cluster_manager.cluster_modified"] == before[id] {
				t.Errorf("%s: no cluster of %s changed", c.edit, id)
			}
		}
	}
	for _, l := range called {
		l.unharmed(t)
	}
}

func TestListenerChangedInPlaceUnderLoadFailsNoCall(t *testing.T) {
	collector := harness.StartCollector(t)
	m := updatesMesh(t, quietMesh)
	called := []*loads{load(t, m, "lake_service"), load(t, m, "stream_service")}
	manager := "filter_chains.0.filters.0.typed_config."
	for _, c := range []struct {
		name, overlay string
		check         func(*run.Resource) error
	}{
		{"a shorter idle timeout", quietMesh + "  policies: {timeout: {idle: 4m}}\n", has(manager+"common_http_protocol_options.idle_timeout", "240s")},
		{"tracing on", strings.Replace(quietMesh, "{enabled: false}", fmt.Sprintf(`{enabled: true, sampling_rate: 1, endpoint: "127.0.0.1:%d"}`, collector.Port()), 1), func(r *run.Resource) error {
			if r == nil || r.Field(manager+"tracing.provider") == nil {
				return fmt.Errorf("it has no tracing")
			}
			return nil
		}},
		{"tracing off", quietMesh, has(manager+"tracing", nil)},
	} {
		before := make(map[string]uint64)
		changes := func(id string) uint64 {
			s := m.Stats(id)
			return s["listener_manager.listener_modified"] + s["listener_manager.listener_in_place_updated"]
		}
		all := append(slices.Clone(callers), "lake-1", "lake-2", "stream-1")
		for _, id := range all {
			before[id] = changes(id)
		}
		m.Edit(c.overlay)
		everywhere(t, m, "listener", "outbound", c.check)
		for _, id := range all { // of the callees it is the inbound one
			harness.Eventually(t, c.name+": a listener of "+id+" changed", 10*time.Second, func() error {
				if changes(id) == before[id] {
					return fmt.Errorf("none did")
				}
				return nil
			})
		}
		goOn(t, 100, called...)
	}
	for _, l := range called {
		l.unharmed(t)
	}
}

// TestControlPlaneThatComesBackWithAnotherCatalogBringsEnvoysThereAndFailsNoOtherCall:
// services came, went and changed while it was away, and a mesh file was edited.
func TestControlPlaneThatComesBackWithAnotherCatalogBringsEnvoysThereAndFailsNoOtherCall(t *testing.T) {
	m := updatesMesh(t, quietMesh)
	unchanged, changed, leaving := load(t, m, "lake_service"), load(t, m, "stream_service"), load(t, m, "guest_service")
	second := m.Prepare(harness.Spec{Service: "stream_service", ID: "stream-2"})
	visitor := m.Prepare(harness.Spec{Service: "visitor_service", ID: "visitor-1"})
	for _, s := range []*harness.Sidecar{second, visitor} {
		m.Launch(s) // but nobody is to know of them yet
		noError(t, s.Envoy.WaitReady(t.Context(), 15*time.Second))
	}

	m.Plane.Kill()
	killed := time.Now()
	m.Deregister("guest-1")
	m.Register(second)
	m.Register(visitor)
	m.Edit(quietMesh + "  circuit_breakers: {custom: {stream_service: {max_requests: 77}}}\n")
	goOn(t, 100, unchanged, changed, leaving) // on what the Envoys have
	for _, l := range []*loads{unchanged, changed, leaving} {
		l.take(t, 200)
	}
	m.StartPlane()
	reconnected(t, m, killed)

	everywhere(t, m, "cluster", "guest_service", gone)
	everywhere(t, m, "cluster", "visitor_service", there)
	everywhere(t, m, "cluster", "stream_service", has("circuit_breakers.thresholds.0.max_requests", 77))
	leaving.becomes(t, 404)
	// An Envoy that comes back asks for its clusters before it says which routes
	// it has, so that for a moment a route may lead to a cluster that is gone.
	leaving.take(t, 200, 404, 503)
	for i, r := range changed.running {
		harness.Eventually(t, callers[i]+" calls the new instance", 10*time.Second, func() error {
			if n := r.Snapshot().Instances["stream-2"]; n < 10 {
				return fmt.Errorf("%d times", n)
			}
			return nil
		})
	}
	visits := load(t, m, "visitor_service")
	visits.becomes(t, 200)
	visits.take(t, 200)
	goOn(t, 20, visits)
	visits.unharmed(t)
	changed.unharmed(t)
	unchanged.unharmed(t)
}
