package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// baseFile and siteFile are merged, and an environment is laid over both.
const (
	baseFile = `mesh:
  name: merged
  version: "1"
  x-limits: &limits {max_connections: 11, max_requests: 12}
  discovery:
    consul: {host: 127.0.0.1, port: "${CONSUL_PORT}", datacenter: base}
  circuit_breakers:
    default:
      x-reason: measured in spring
      <<: *limits
      max_pending_requests: 13
      max_retries: 14
  load_balancing:
    policy: round_robin
    health_checks: {interval: 7s}
  policies:
    retry: {attempts: 3, conditions: [5xx, reset], status_codes: [409], backoff: {base_interval: 10ms}}
    timeout: {connect: 1s, request: 20s}
  security: {mtls: {enabled: false}}
  environments:
    staging:
      version: "1-staging"
      discovery: {consul: {datacenter: staging}}
      policies: {timeout: {connect: 3s}, retry: {status_codes: null}}
      circuit_breakers: {default: {max_retries: 34}}
    production:
      discovery: {consul: {datacenter: production}}
`
	siteFile = `mesh:
  x-owner: {team: site}
  circuit_breakers: {default: {max_pending_requests: 23}}
  load_balancing: {health_checks: null}
  policies:
    retry: {conditions: [connect-failure]}
    timeout: {connect: 2s}
`
)

// TestFilesAndTheEnvironmentSayWhatIsServed.
func TestFilesAndTheEnvironmentSayWhatIsServed(t *testing.T) {
	queries := &asked{}
	port := queries.listen(t, "127.0.0.1", 0)
	m := harness.New(t, harness.Options{
		Consul: true, Datacenter: "staging", Plaintext: true, Mesh: baseFile, Overlay: siteFile,
		// The flag wins over the variable.
		Environment: "staging", Env: []string{fmt.Sprintf("CONSUL_PORT=%d", port), "ENV=production"},
	})
	queries.forward(m.Consul.HTTP)
	m.StartPlane()
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Ready()
	check := func(t *testing.T, want map[string]any, at map[string]func(*sight) any) {
		t.Helper()
		harness.Eventually(t, "the file is served", 10*time.Second, func() error {
			s, err := look(m, queries)
			if err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(at)) {
				if got := fmt.Sprint(at[name](s)); got != fmt.Sprint(want[name]) {
					return fmt.Errorf("%s is %s, want %v", name, got, want[name])
				}
			}
			return nil
		})
	}
	at := map[string]func(*sight) any{
		"the version":        meshInfo("version"),
		"the datacenter":     func(s *sight) any { return s.query.datacenter },
		"an anchor's key":    breaker("nexus", "max_connections"),
		"a key of the first": breaker("nexus", "max_requests"),
		"one of the second":  breaker("nexus", "max_pending_requests"),
		"the environment's":  breaker("nexus", "max_retries"),
		"all three have it":  cluster("nexus", "connect_timeout"),
		"a list":             routeOf("nexus", "route.retry_policy.retry_on"),
		"deleted by it":      routeOf("nexus", "route.retry_policy.retriable_status_codes"),
		"deleted by second":  cluster("nexus", "health_checks"),
		"beside the deleted": cluster("nexus", "load_balancing_policy.policies.0.typed_extension_config.name"),
	}
	want := map[string]any{
		"the version": "1-staging", "the datacenter": "staging",
		"an anchor's key": 11, "a key of the first": 12, "one of the second": 23, "the environment's": 34, "all three have it": "3s",
		"a list": "connect-failure", "deleted by it": nil, "deleted by second": nil, "beside the deleted": "envoy.load_balancing_policies.round_robin",
	}

	t.Run("the first, then the second, then the environment", func(t *testing.T) {
		check(t, want, at)
	})
	t.Run("an edit of the second does not pass the environment", func(t *testing.T) {
		m.Edit(strings.NewReplacer("connect: 2s", "connect: 9s", "max_pending_requests: 23", "max_pending_requests: 29", "health_checks: null", "panic_threshold: 40").Replace(siteFile))
		want["one of the second"] = 29
		at["no longer deleted"], want["no longer deleted"] = healthCheck("interval"), "7s"
		delete(at, "deleted by second")
		check(t, want, at)
	})
	t.Run("an edit of the environment", func(t *testing.T) {
		m.EditSeed("status_codes: null", "status_codes: [418]")
		want["deleted by it"] = []any{418}
		at["what it adds to a list"], want["what it adds to a list"] = routeOf("nexus", "request_headers_to_add.0.header.value"), "retriable-status-codes"
		check(t, want, at)
	})

	t.Run("$ENV names it where no flag does", func(t *testing.T) {
		o := m.Plane.Options()
		o.Name, o.Environment = "by-variable", ""
		o.XDSAddress, o.Admin, o.DataDir = local(harness.Port(t)), local(harness.Port(t)), harness.Dir(t)
		other, err := run.StartControlPlane(o)
		noError(t, err)
		defer other.Kill()
		harness.Eventually(t, "it asks for the datacenter of production", 10*time.Second, func() error {
			if q := queries.newest(); q.datacenter != "production" {
				return fmt.Errorf("it asked for %q", q.datacenter)
			}
			return nil
		})
	})
	for _, where := range []string{"--environment", "$ENV"} {
		t.Run("one by "+where+" that the file does not have is refused", func(t *testing.T) {
			o := m.Plane.Options()
			o.Name, o.Environment = "unknown", "stagin"
			if where == "$ENV" {
				o.Environment, o.Env = "", append(slices.Clone(o.Env), "ENV=stagin")
			}
			other, err := run.StartControlPlane(o)
			noError(t, err)
			defer other.Kill()
			select {
			case <-other.Done():
			case <-harness.Context(t, 10*time.Second).Done():
				t.Fatal("it runs")
			}
			if said := other.Log.Tail(10); !strings.Contains(said, "MC1009") || !strings.Contains(said, `did you mean "staging"`) {
				t.Errorf("it says %s", said)
			}
		})
	}
}
