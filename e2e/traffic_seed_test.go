package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// seedKey is one key of the operators' file: where it shows up and with which
// value, and what an edit of it moves.
type seedKey struct {
	key string
	at  func(*sight) any // nil: nowhere
	now any              // what is there

	old, edited string   // an edit of the file's text
	then        any      // what is there after it
	moves       []string // resources that each sidecar gets anew; all others stand still
	refused     string   // the code of the error that the edit is; nothing happens then
	alone       bool     // the edit is undone before the next one
}

// sight is what the parts of a mesh show at one time.
type sight struct {
	nexus   *run.Dump
	metrics run.Metrics
	targets []target
	expires time.Duration
	query   query // the newest that Consul got

	registrations struct {
		Interval string `json:"interval"`
		After    string `json:"deregister_after"`
	}
}

// target is one of /sd/prometheus.
type target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// look reads all of it; queries may be nil.
func look(m *harness.Mesh, queries *asked) (*sight, error) {
	s := &sight{}
	var err error
	if s.nexus, err = m.Sidecar(caller).Envoy.ConfigDump(); err != nil {
		return nil, err
	}
	if s.metrics, err = m.Plane.Metrics(); err != nil {
		return nil, err
	}
	_, body, err := m.Plane.Get("/sd/prometheus")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(body), &s.targets); err != nil {
		return nil, fmt.Errorf("/sd/prometheus: %w", err)
	}
	if _, body, err = m.Plane.Get("/api/v1/registrations"); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(body), &s.registrations); err != nil {
		return nil, fmt.Errorf("/api/v1/registrations: %w", err)
	}
	if queries != nil {
		s.query = queries.newest()
	}
	leaves, _, err := m.Sidecar(caller).Envoy.Certs()
	if err != nil {
		return nil, err
	}
	for _, c := range leaves {
		if c.URI() == "spiffe://datapunk/nexus" {
			s.expires = time.Until(c.Expires)
		}
	}
	return s, nil
}

// The places where keys show up.

func field(typ, name, path string) func(*sight) any {
	return func(s *sight) any {
		r := s.nexus.Get(typ, name)
		if r == nil {
			return nil
		}
		return r.Field(path)
	}
}

func cluster(name, path string) func(*sight) any { return field("cluster", name, path) }

func breaker(service, limit string) func(*sight) any {
	return cluster(service, "circuit_breakers.thresholds.0."+limit)
}

func healthCheck(path string) func(*sight) any { return cluster("nexus", "health_checks.0."+path) }

// route is a field of the route of lake_service that is neither for gRPC nor for
// bodies of a size that nobody knows.
func route(path string) func(*sight) any { return routeOf("lake_service", "route."+path) }

// routeOf is a field of a route of lake_service, or else of its virtual host.
func routeOf(name, path string) func(*sight) any {
	return func(s *sight) any {
		r := s.nexus.Get("route", "outbound/"+name)
		for i := 0; r != nil; i++ {
			at := fmt.Sprintf("virtual_hosts.0.routes.%d.", i)
			switch r.Field(at + "name") {
			case nil:
				return nil
			case name:
				if v := r.Field(at + path); v != nil {
					return v
				}
				return r.Field("virtual_hosts.0." + strings.TrimPrefix(path, "route."))
			}
		}
		return nil
	}
}

// connectionManager is a field of the inbound listener's.
func connectionManager(path string) func(*sight) any {
	return field("listener", "inbound", "filter_chains.0.filters.0.typed_config."+path)
}

func allowed(path string) func(*sight) any {
	return func(s *sight) any {
		policies := field("route", "inbound", "typed_per_filter_config")(s)
		allow, _ := policies.(map[string]any)["envoy.filters.http.rbac.allow"].(map[string]any)
		text, _ := json.Marshal(allow)
		return (&run.Resource{Body: text}).Field("rbac.rules" + path)
	}
}

func listed(typ, name string) func(*sight) any {
	return func(s *sight) any { return s.nexus.Get(typ, name) != nil }
}

func meshInfo(label string) func(*sight) any {
	of := regexp.MustCompile(`^controlplane_mesh_info\{.*\b` + label + `="([^"]*)"`)
	return func(s *sight) any {
		for series := range s.metrics {
			if found := of.FindStringSubmatch(series); found != nil {
				return found[1]
			}
		}
		return nil
	}
}

// scraped is a label of every target of Prometheus; all have the same.
func scraped(label string) func(*sight) any {
	return func(s *sight) any {
		values := make(map[string]bool)
		for _, t := range s.targets {
			values[t.Labels[label]] = true
		}
		return slices.Sorted(maps.Keys(values))
	}
}

// lifetime is that of nexus's certificate, which was issued a moment ago.
func lifetime(s *sight) any {
	if s.expires > 40*time.Second {
		return s.expires.Round(time.Hour).String()
	}
	return "at most 40s"
}

// seedKeys are the keys of the operators' mesh file but those of Consul's, which
// consulKeys has. The order is that of the edits: each is made on top of those
// before, and one that ends mTLS would hide others.
func seedKeys() []seedKey {
	clusters := []string{"cluster lake_service", "cluster nexus", "cluster stream_service"}
	listeners := []string{"listener inbound", "listener outbound"}
	outbound, inbound := []string{"route outbound/lake_service", "route outbound/nexus", "route outbound/stream_service"}, []string{"route inbound"}
	routes := slices.Concat(inbound, outbound)
	return []seedKey{
		{key: "name", at: meshInfo("name"), now: "datapunk-mesh", old: "name: datapunk-mesh", edited: "name: other-mesh", then: "other-mesh"},
		{key: "version", at: meshInfo("version"), now: "1.0", old: `"1.0"`, edited: `"1.1"`, then: "1.1"},

		{
			key: "circuit_breakers.default.max_connections", at: breaker("nexus", "max_connections"), now: 1024,
			old: "max_connections: 1024", edited: "max_connections: 1001", then: 1001, moves: []string{"cluster nexus", "cluster stream_service"},
		},
		{
			key: "circuit_breakers.default.max_pending_requests", at: breaker("nexus", "max_pending_requests"), now: 1024,
			old: "max_pending_requests: 1024", edited: "max_pending_requests: 1002", then: 1002, moves: []string{"cluster nexus", "cluster stream_service"},
		},
		{
			key: "circuit_breakers.default.max_requests", at: breaker("nexus", "max_requests"), now: 1024,
			old: "max_requests: 1024", edited: "max_requests: 1003", then: 1003, moves: []string{"cluster lake_service", "cluster nexus"},
		},
		{
			key: "circuit_breakers.default.max_retries", at: breaker("nexus", "max_retries"), now: 3,
			old: "max_retries: 3", edited: "max_retries: 30", then: 30, moves: clusters,
		},
		{
			key: "circuit_breakers.custom.lake_service.max_connections", at: breaker("lake_service", "max_connections"), now: 2048,
			old: "max_connections: 2048", edited: "max_connections: 2001", then: 2001, moves: []string{"cluster lake_service"},
		},
		{
			key: "circuit_breakers.custom.lake_service.max_pending_requests", at: breaker("lake_service", "max_pending_requests"), now: 2048,
			old: "max_pending_requests: 2048", edited: "max_pending_requests: 2002", then: 2002, moves: []string{"cluster lake_service"},
		},
		{
			key: "circuit_breakers.custom.stream_service.max_requests", at: breaker("stream_service", "max_requests"), now: 2048,
			old: "max_requests: 2048", edited: "max_requests: 2003", then: 2003, moves: []string{"cluster stream_service"},
		},

		{
			key: "load_balancing.policy", at: cluster("nexus", "load_balancing_policy.policies.0.typed_extension_config.name"), now: "envoy.load_balancing_policies.least_request",
			old: "policy: least_request", edited: "policy: round_robin", then: "envoy.load_balancing_policies.round_robin", moves: clusters,
		},
		{key: "load_balancing.health_checks.timeout", at: healthCheck("timeout"), now: "5s", old: "timeout: 5s", edited: "timeout: 4s", then: "4s", moves: clusters},
		{key: "load_balancing.health_checks.interval", at: healthCheck("interval"), now: "10s", old: "      interval: 10s", edited: "      interval: 11s", then: "11s", moves: clusters},
		{key: "load_balancing.health_checks.unhealthy_threshold", at: healthCheck("unhealthy_threshold"), now: 3, old: "unhealthy_threshold: 3", edited: "unhealthy_threshold: 4", then: 4, moves: clusters},
		{key: "load_balancing.health_checks.healthy_threshold", at: healthCheck("healthy_threshold"), now: 2, old: " healthy_threshold: 2", edited: " healthy_threshold: 1", then: 1, moves: clusters},

		{key: "policies.retry.attempts", at: route("retry_policy.num_retries"), now: 3, old: "attempts: 3", edited: "attempts: 2", then: 2, moves: outbound},
		{key: "policies.retry.timeout", at: route("retry_policy.per_try_timeout"), now: "2s", old: "timeout: 2s", edited: "timeout: 3s", then: "3s", moves: outbound},
		{key: "policies.retry.backoff.base_interval", at: route("retry_policy.retry_back_off.base_interval"), now: "0.100s", old: "base_interval: 100ms", edited: "base_interval: 90ms", then: "0.090s", moves: outbound},
		{key: "policies.retry.backoff.max_interval", at: route("retry_policy.retry_back_off.max_interval"), now: "3s", old: "max_interval: 3s", edited: "max_interval: 4s", then: "4s", moves: outbound},
		{key: "policies.retry.backoff.multiplier", old: "multiplier: 2", edited: "multiplier: 3", refused: "MC1207"},
		{
			// Beside those of what did not reach an application.
			key: "policies.retry.conditions", at: routeOf("lake_service", "request_headers_to_add.0.header.value"), now: "5xx",
			old: "- refused-stream", edited: "- reset", then: "5xx,reset", moves: outbound,
		},
		{
			key: "policies.timeout.idle", at: connectionManager("common_http_protocol_options.idle_timeout"), now: "305s", old: "idle: 5m", edited: "idle: 6m", then: "365s",
			moves: slices.Concat(clusters, listeners),
		},
		{key: "policies.timeout.connect", at: cluster("nexus", "connect_timeout"), now: "5s", old: "connect: 5s", edited: "connect: 6s", then: "6s", moves: slices.Concat([]string{"cluster local_app", "cluster local_app_grpc"}, clusters)},

		{
			key: "telemetry.tracing.enabled", at: listed("cluster", "tracing"), now: true,
			old: "tracing:\n      enabled: true", edited: "tracing:\n      enabled: false", then: false,
			moves: slices.Concat([]string{"cluster tracing"}, listeners, routes), alone: true,
		},
		{
			key: "telemetry.tracing.provider", at: connectionManager("tracing.provider.name"), now: "envoy.tracers.opentelemetry",
			old: "provider: jaeger", edited: "provider: zipkin", then: "envoy.tracers.zipkin", moves: append([]string{"cluster tracing"}, listeners...), alone: true,
		},
		{
			key: "telemetry.tracing.sampling_rate", old: "sampling_rate: 0.1", edited: "sampling_rate: 0.2", now: 1000, then: 2000, moves: routes,
			at: field("route", "inbound", "virtual_hosts.0.routes.1.tracing.random_sampling.numerator"), // of 10,000
		},
		{key: "telemetry.tracing.tags.0.key", at: connectionManager("tracing.custom_tags.0.tag"), now: "service.version", old: `"service.version"`, edited: `"app.version"`, then: "app.version", moves: listeners},
		{key: "telemetry.tracing.tags.0.value", at: connectionManager("tracing.custom_tags.0.environment.name"), now: "SERVICE_VERSION", old: `"${SERVICE_VERSION}"`, edited: `"${APP_VERSION}"`, then: "APP_VERSION", moves: listeners},
		{key: "telemetry.tracing.tags.1.key", at: connectionManager("tracing.custom_tags.1.tag"), now: "environment", old: `"environment"`, edited: `"stage"`, then: "stage", moves: listeners},
		{key: "telemetry.tracing.tags.1.value", at: connectionManager("tracing.custom_tags.1.environment.default_value"), now: "development", old: "${ENV:-development}", edited: "${ENV:-laboratory}", then: "laboratory", moves: listeners},
		{
			key: "telemetry.metrics.enabled", at: listed("listener", "metrics"), now: true,
			old: "metrics:\n      enabled: true", edited: "metrics:\n      enabled: false", then: false, moves: []string{"listener metrics"}, alone: true,
		},
		{key: "telemetry.metrics.provider", old: "provider: prometheus", edited: "provider: graphite", refused: "MC1103"},
		{key: "telemetry.metrics.scrape_interval", at: scraped("__scrape_interval__"), now: []string{"15s"}, old: "scrape_interval: 15s", edited: "scrape_interval: 20s", then: []string{"20s"}},
		{key: "telemetry.metrics.path", at: scraped("__metrics_path__"), now: []string{"/metrics"}, old: `path: "/metrics"`, edited: `path: "/numbers"`, then: []string{"/numbers"}, moves: []string{"listener metrics"}},

		{key: "security.authorization.policies.0.name", at: allowed(".policies.service-to-service.permissions.0.any"), now: true, old: `"service-to-service"`, edited: `"neighbors"`, then: nil, moves: inbound, alone: true},
		{
			key: "security.authorization.policies.0.principals", at: allowed(".policies.service-to-service.principals.0.or_ids.ids.0.authenticated.principal_name"), now: map[string]any{"prefix": "spiffe://datapunk/"},
			old: "spiffe://datapunk/*", edited: "spiffe://datapunk/nexus", then: map[string]any{"exact": "spiffe://datapunk/nexus"}, moves: inbound,
		},
		{key: "security.authorization.policies.0.action", at: allowed(".policies.service-to-service.permissions.0.any"), now: true, old: "action: ALLOW", edited: "action: DENY", then: nil, moves: inbound, alone: true},
		{key: "security.authorization.enabled", at: allowed(".policies.service-to-service.permissions.0.any"), now: true, old: "authorization:\n      enabled: true", edited: "authorization:\n      enabled: false", then: nil, moves: inbound},
		{
			key: "security.mtls.enabled", at: cluster("nexus", "transport_socket.name"), now: "envoy.transport_sockets.tls",
			old: "mtls:\n      enabled: true", edited: "mtls:\n      enabled: false", then: nil, moves: append([]string{"listener inbound"}, clusters...), alone: true,
		},
		{key: "security.mtls.cert_rotation", at: lifetime, now: "48h0m0s", old: "cert_rotation: 24h", edited: "cert_rotation: 20s", then: "at most 40s", moves: []string{"secret default"}},
	}
}

// keysOf are the keys of a file in the words of seedKey, without the "mesh" in
// front. A list of plain values is one key.
func keysOf(t *testing.T, text string) []string {
	t.Helper()
	var file struct {
		Mesh map[string]any `yaml:"mesh"`
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	var keys []string
	var walk func(key string, v any)
	walk = func(key string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, child := range v {
				walk(key+"."+name, child)
			}
			return
		case []any:
			if _, ofMaps := v[0].(map[string]any); ofMaps {
				for i, child := range v {
					walk(fmt.Sprintf("%s.%d", key, i), child)
				}
				return
			}
		}
		keys = append(keys, strings.TrimPrefix(key, "."))
	}
	walk("", file.Mesh)
	slices.Sort(keys)
	return keys
}

// TestTheTableOfKeysIsWhole: what follows says nothing of a key that it leaves
// out.
func TestTheTableOfKeysIsWhole(t *testing.T) {
	var have []string
	for _, k := range seedKeys() {
		have = append(have, k.key)
	}
	for _, k := range consulKeys(nil, "") {
		have = append(have, k.key)
	}
	slices.Sort(have)
	if want := keysOf(t, harness.Seed(t)); !slices.Equal(have, want) {
		t.Errorf("the tables have\n%s\nand the file\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// threeServices starts one instance of each service of the operators' file.
func threeServices(t *testing.T, o harness.Options) *harness.Mesh {
	t.Helper()
	m := harness.Start(t, o)
	m.Add(harness.Spec{Service: "nexus", ID: caller})
	m.Add(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Add(harness.Spec{Service: "stream_service", ID: "stream-1"})
	m.Ready()
	return m
}

// TestEveryKeyOfTheSeedFileShowsUpWithItsValue.
func TestEveryKeyOfTheSeedFileShowsUpWithItsValue(t *testing.T) {
	m := threeServices(t, harness.Options{})
	s, err := look(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range seedKeys() {
		if k.at == nil {
			continue // the file can say nothing else: see refused
		}
		if got := fmt.Sprint(k.at(s)); got != fmt.Sprint(k.now) {
			t.Errorf("%s shows up as %s, want %v", k.key, got, k.now)
		}
	}
	if len(s.targets) != 3 {
		t.Errorf("/sd/prometheus has %d targets, want one for each sidecar: %v", len(s.targets), s.targets)
	}
}
