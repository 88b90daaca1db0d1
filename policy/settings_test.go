package policy_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
)

func load(t *testing.T, text string, env ...string) *policy.Mesh {
	t.Helper()
	m, err := parse(text, env...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// anywhere is how much it counts where an instance is, unless a file says otherwise.
var anywhere = policy.Locality{Mode: policy.AnyLocality, ZoneMeta: "zone", MinHealthyPercent: 70}

func TestAServiceOfWhichTheFileSaysNothing(t *testing.T) {
	got := load(t, "mesh: {name: m}").Service("lake")
	want := &policy.Service{
		Name: "lake", ConsulService: "lake", Protocol: policy.HTTP, AllUpstreams: true, EncodedSlashes: policy.Refuse, OnEmptySubset: policy.Redistribute,
		CircuitBreakers: policy.CircuitBreakers{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 1024},
		OutlierDetection: policy.OutlierDetection{
			Consecutive5xx: 5, ConsecutiveGatewayFailure: 5, Interval: 10 * time.Second,
			BaseEjectionTime: 30 * time.Second, MaxEjectionTime: 5 * time.Minute, MaxEjectionPercent: 50,
		},
		LoadBalancing: policy.LoadBalancing{Policy: "least_request", PanicThreshold: 50, Locality: anywhere},
		Retry: policy.Retry{
			Attempts: 2, BaseInterval: 25 * time.Millisecond, MaxInterval: 250 * time.Millisecond,
			Conditions: []string{"connect-failure", "refused-stream", "reset-before-request"}, MaxBodyBytes: 1 << 20, HostSelection: policy.PreviousHosts,
		},
		Timeout: policy.Timeout{Connect: 5 * time.Second, Idle: time.Hour, StreamIdle: 5 * time.Minute, AppIdle: time.Second, MaxConnection: time.Hour},
	}
	if !got.Equal(want) {
		t.Errorf("got  %+v\nwant %+v", *got, *want)
	}
	for _, setting := range settings() {
		if keys := got.Keys(setting); len(keys) != 0 {
			t.Errorf("%s came from %v, and is built in", setting, keys)
		}
	}
}

func settings() []policy.Setting {
	return []policy.Setting{
		policy.SettingConsulService, policy.SettingProtocol, policy.SettingUpstreams, policy.SettingCircuitBreakers, policy.SettingOutlierDetection,
		policy.SettingLoadBalancing, policy.SettingHealthChecks, policy.SettingRetry, policy.SettingTimeout,
	}
}

const layered = `
mesh:
  name: m
  circuit_breakers:
    default:
      max_connections: 10
      max_requests: 10
      outlier_detection: {consecutive_5xx: 10, interval: 1s}
    custom:
      lake:
        max_connections: 20
        outlier_detection: {consecutive_5xx: 20}
  load_balancing:
    policy: round_robin
    health_checks: {timeout: 1s, interval: 2s, protocol: http, path: /health}
  policies:
    retry: {attempts: 5, timeout: 1s, conditions: [reset-before-request], backoff: {base_interval: 1s}}
    timeout: {connect: 1s, idle: 0s}
  services:
    lake:
      consul_service: lake-prod
      protocol: grpc
      upstreams: [stream, {service: postgres, local_bind_port: 5432}]
      circuit_breakers: {max_requests: 30}
      outlier_detection: {interval: 30s}
      load_balancing: {policy: ring_hash, hash_policy: [{header: X-User}, {cookie: session}, {source_ip: true}]}
      health_checks: {protocol: grpc, interval: 20s}
      retry: {attempts: 1, timeout: 3s, methods: [GET], status_codes: [503]}
      timeout: {request: 0s}
    postgres: {protocol: tcp, upstreams: []}
`

func TestTheMoreSpecificSettingWins(t *testing.T) {
	m := load(t, layered)
	lake := m.Service("lake")
	zero := time.Duration(0)
	want := &policy.Service{
		Name: "lake", ConsulService: "lake-prod", Protocol: policy.GRPC, EncodedSlashes: policy.Refuse, OnEmptySubset: policy.Redistribute,
		Upstreams:       []policy.Upstream{{Service: "stream"}, {Service: "postgres", LocalBindPort: 5432}},
		CircuitBreakers: policy.CircuitBreakers{MaxConnections: 20, MaxPendingRequests: 1024, MaxRequests: 30, MaxRetries: 1024},
		OutlierDetection: policy.OutlierDetection{
			Consecutive5xx: 20, ConsecutiveGatewayFailure: 5, Interval: 30 * time.Second,
			BaseEjectionTime: 30 * time.Second, MaxEjectionTime: 5 * time.Minute, MaxEjectionPercent: 50,
		},
		HealthChecks: &policy.HealthChecks{Protocol: "grpc", Timeout: time.Second, Interval: 20 * time.Second, UnhealthyThreshold: 3, HealthyThreshold: 2},
		LoadBalancing: policy.LoadBalancing{
			Policy: "ring_hash", PanicThreshold: 50, Locality: anywhere,
			HashPolicy: []policy.HashPolicy{{Header: "x-user"}, {Cookie: "session"}, {SourceIP: true}},
		},
		Retry: policy.Retry{
			Attempts: 1, Timeout: 3 * time.Second, TimeoutOfService: true,
			BaseInterval: time.Second, MaxInterval: 10 * time.Second,
			Conditions: []string{"reset-before-request"}, Methods: []string{"GET"}, StatusCodes: []uint32{503}, MaxBodyBytes: 1 << 20, HostSelection: policy.PreviousHosts,
		},
		Timeout: policy.Timeout{Connect: time.Second, Request: &zero, StreamIdle: 5 * time.Minute, AppIdle: time.Second, MaxConnection: time.Hour},
	}
	if !lake.Equal(want) {
		t.Errorf("got  %+v\nwant %+v", *lake, *want)
	}
	if other := m.Service("other"); other.CircuitBreakers.MaxConnections != 10 || other.Retry.TimeoutOfService || other.HealthChecks.Protocol != "http" {
		t.Errorf("another service has settings of lake: %+v", *other)
	}
	if names := strings.Join(m.Names(), " "); names != "lake postgres" {
		t.Errorf("the file names %s", names)
	}
}

func TestEverySettingKnowsTheKeysThatItCameFrom(t *testing.T) {
	m := load(t, layered)
	for setting, want := range map[policy.Setting]string{
		policy.SettingCircuitBreakers:  "services.lake.circuit_breakers circuit_breakers.custom.lake circuit_breakers.default",
		policy.SettingOutlierDetection: "services.lake.outlier_detection circuit_breakers.custom.lake.outlier_detection circuit_breakers.default.outlier_detection",
		policy.SettingHealthChecks:     "services.lake.health_checks load_balancing.health_checks",
		policy.SettingLoadBalancing:    "services.lake.load_balancing load_balancing",
		policy.SettingRetry:            "services.lake.retry policies.retry",
		policy.SettingTimeout:          "services.lake.timeout policies.timeout",
		policy.SettingProtocol:         "services.lake.protocol",
		policy.SettingUpstreams:        "services.lake.upstreams",
		policy.SettingConsulService:    "services.lake.consul_service",
	} {
		keys := m.Service("lake").Keys(setting)
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("%s came from %s, want %s", setting, got, want)
		}
		for _, key := range keys {
			if at := m.Source(key); at.Line < 4 {
				t.Errorf("%s is at %v", key, at)
			}
		}
	}
	if keys := m.Service("other").Keys(policy.SettingCircuitBreakers); strings.Join(keys, " ") != "circuit_breakers.default" {
		t.Errorf("the circuit breakers of another service came from %v", keys)
	}
}

// A check that speaks HTTP is inherited, and a TCP service cannot answer it.
func TestATCPServiceIsCheckedByTCP(t *testing.T) {
	h := load(t, layered).Service("postgres").HealthChecks
	if h.Protocol != "tcp" || h.Path != "" || h.Interval != 2*time.Second {
		t.Errorf("got %+v", *h)
	}
}

func TestUpstreamsAreAllUnlessDeclared(t *testing.T) {
	m := load(t, layered)
	if s := m.Service("postgres"); s.AllUpstreams || len(s.Upstreams) != 0 {
		t.Errorf("an empty list is not nobody: %+v", *s)
	}
	if s := m.Service("other"); !s.AllUpstreams {
		t.Errorf("no list is not everybody: %+v", *s)
	}
}

// What sets the policy back also sets aside the hash that only it used.
func TestAHashPolicyGoesWithThePolicyThatUsesIt(t *testing.T) {
	m := load(t, "mesh: {name: m, load_balancing: {policy: maglev, hash_policy: [{source_ip: true}]}, services: {a: {load_balancing: {policy: random}}}}")
	if got := m.Service("a").LoadBalancing; got.HashPolicy != nil || got.Policy != "random" {
		t.Errorf("got %+v", got)
	}
	if got := m.Service("b").LoadBalancing; len(got.HashPolicy) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestEqualLooksAtSettingsAlone(t *testing.T) {
	a := load(t, "mesh: {name: m, circuit_breakers: {default: {max_requests: 7}}}").Service("lake")
	b := load(t, "mesh: {name: m, circuit_breakers: {custom: {lake: {max_requests: 7}}}}").Service("lake")
	if !a.Equal(b) || reflect.DeepEqual(a.Keys(policy.SettingCircuitBreakers), b.Keys(policy.SettingCircuitBreakers)) {
		t.Error("the same number from another key is another setting")
	}
	if c := load(t, "mesh: {name: m, circuit_breakers: {custom: {lake: {max_requests: 8}}}}").Service("lake"); a.Equal(c) {
		t.Error("another number is the same setting")
	}
	for _, edit := range []string{
		"protocol: grpc", "consul_service: x", "upstreams: []", "outlier_detection: {interval: 1s}", "load_balancing: {policy: random}",
		"health_checks: {}", "retry: {timeout: 1s}", "timeout: {request: 0s}", "circuit_breakers: {max_requests: 8}",
	} {
		c := load(t, "mesh: {name: m, circuit_breakers: {default: {max_requests: 7}}, services: {lake: {"+edit+"}}}").Service("lake")
		if a.Equal(c) {
			t.Errorf("%s changes nothing", edit)
		}
	}
}

const wholeVocabulary = `
mesh:
  name: m
  discovery:
    method: file
    file: catalog.yaml
    consul:
      host: consul.example
      scheme: https
      token_file: /run/token
      consistency: consistent
      tls: {ca_file: ca, cert_file: cert, key_file: key, server_name: consul}
  telemetry:
    tracing: {provider: zipkin, endpoint: "zipkin:9411", sampling_rate: 1}
    metrics: {port: 9900, path: /m, scrape_interval: 1m}
    access_logs: {path: /var/log/mesh.log, format: text, provider: file, filter: {min_status: 400, sample: 0.01}}
  security:
    mtls: {mode: permissive, trust_domain: mesh.example, cert_rotation: 12h, cert_ttl: 36h}
    authorization:
      default_action: ALLOW
      policies:
        - name: all
          action: DENY
          mode: shadow
          principals: ["spiffe://mesh.example/a*/b"]
          not_principals: ["spiffe://mesh.example/ax/b"]
          sources: [nexus]
          not_sources: [lake]
          destinations: [lake]
          not_destinations: [nexus]
          paths: [/admin/*, /x]
          not_paths: ["*"]
          methods: [GET, PURGE]
          not_methods: [POST]
          headers: [{name: X-Tenant, exact: ""}, {name: a, prefix: b}, {name: a, suffix: b}]
          not_headers: [{name: a, regex: "^b$"}, {name: a, present: false}]
          ports: [8080]
          not_ports: [9090]
`

func TestTheRestOfTheVocabulary(t *testing.T) {
	m := load(t, wholeVocabulary)
	text := func(s string) *string { return &s }
	absent := false
	for _, c := range []struct{ got, want any }{
		{m.Discovery, policy.Discovery{Method: "file", File: "catalog.yaml", Consul: policy.Consul{
			Host: "consul.example", Port: 8501, Scheme: "https", TokenFile: "/run/token", Consistency: "consistent",
			TLS:      policy.ConsulTLS{CAFile: "ca", CertFile: "cert", KeyFile: "key", ServerName: "consul"},
			Removals: policy.Removals{Confirm: 3 * time.Second, Connected: time.Minute, Restored: 2 * time.Minute, Reconnect: 2 * time.Minute},
		}}},
		{m.Tracing, policy.Tracing{Enabled: true, Provider: "zipkin", Endpoint: "zipkin:9411", Service: "jaeger", SamplingRate: 1}},
		{m.Metrics, policy.Metrics{Enabled: true, ScrapeInterval: time.Minute, Path: "/m", Port: 9900}},
		{m.AccessLogs, policy.AccessLogs{Enabled: true, Path: "/var/log/mesh.log", Format: "text", MinStatus: 400, Sample: 0.01}},
		{m.MTLS, policy.MTLS{Enabled: true, Mode: policy.Permissive, TrustDomain: "mesh.example", CertRotation: 12 * time.Hour, CertTTL: 36 * time.Hour, CA: policy.CA{Provider: policy.CABuiltin}}},
		{m.Authorization, policy.Authorization{Enabled: true, DefaultAction: policy.Allow, Policies: []policy.AuthorizationPolicy{{
			Name: "all", Action: policy.Deny, Shadow: true, Key: "security.authorization.policies[0]",
			Principals: []string{"spiffe://mesh.example/a*/b"}, NotPrincipals: []string{"spiffe://mesh.example/ax/b"},
			Sources: []string{"nexus"}, NotSources: []string{"lake"}, Destinations: []string{"lake"}, NotDestinations: []string{"nexus"},
			Paths: []string{"/admin/*", "/x"}, NotPaths: []string{"*"}, Methods: []string{"GET", "PURGE"}, NotMethods: []string{"POST"},
			Headers:    []policy.HeaderMatch{{Name: "x-tenant", Exact: text("")}, {Name: "a", Prefix: text("b")}, {Name: "a", Suffix: text("b")}},
			NotHeaders: []policy.HeaderMatch{{Name: "a", Regex: text("^b$")}, {Name: "a", Present: &absent}},
			Ports:      []uint16{8080}, NotPorts: []uint16{9090},
		}}}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("got  %+v\nwant %+v", c.got, c.want)
		}
	}
}

// Of other addresses of Consul, each has the port of the first, or its own.
func TestOtherAddressesOfConsul(t *testing.T) {
	c := load(t, `mesh: {name: m, discovery: {consul: {scheme: https, fallbacks: [consul-2, "consul-3:8543", 10.0.0.3, "fd00::4", "[fd00::5]:9"]}}}`).Discovery.Consul
	if want := []string{"consul-2:8501", "consul-3:8543", "10.0.0.3:8501", "[fd00::4]:8501", "[fd00::5]:9"}; !slices.Equal(c.Fallbacks, want) {
		t.Errorf("%q, want %q", c.Fallbacks, want)
	}
}

// Nothing that the file leaves out is open, listens, or reports anything.
func TestTheDefaultsAreSafe(t *testing.T) {
	m := load(t, "mesh: {name: m}")
	if !m.MTLS.Enabled || m.MTLS.Mode != policy.Strict || m.MTLS.CertRotation != 24*time.Hour || m.MTLS.CertTTL != 48*time.Hour {
		t.Errorf("mTLS %+v", m.MTLS)
	}
	if m.Tracing.Enabled || m.Metrics.Enabled || m.AccessLogs.Enabled {
		t.Errorf("telemetry is on: %+v %+v %+v", m.Tracing, m.Metrics, m.AccessLogs)
	}
	if m.Discovery.Method != "consul" || m.Discovery.Consul.Host != "127.0.0.1" || m.Discovery.Consul.Consistency != "stale" {
		t.Errorf("discovery %+v", m.Discovery)
	}
	if a := load(t, "mesh: {name: m, security: {authorization: {}}}").Authorization; !a.Enabled || a.DefaultAction != policy.Deny {
		t.Errorf("authorization %+v", a)
	}
}

func TestTheTrustDomain(t *testing.T) {
	policies := func(principal string) string {
		return "authorization: {policies: [{name: p, action: ALLOW, principals: [\"" + principal + "\"]}]}"
	}
	for _, test := range []struct{ name, text, want string }{
		{"is the mesh's name at last", "mesh: {name: the-mesh}", "the-mesh"},
		{"is the one that the principals name", "mesh: {name: the-mesh, security: {" + policies("spiffe://pay/*") + "}}", "pay"},
		{"is the key's before all", "mesh: {name: the-mesh, security: {mtls: {trust_domain: key}, " + policies("spiffe://pay/*") + "}}", "key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := load(t, test.text).MTLS.TrustDomain; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	_, err := parse("mesh: {name: The Mesh}")
	if ps := problems(t, err); len(ps) != 1 || ps[0].Code != policy.CodeTrustDomain {
		t.Errorf("a name that is no trust domain: %v", err)
	}
}

// A budget of nothing is a budget: nothing is retried, where a service without one
// has the mesh's, or its own max_retries.
func TestARetryBudgetOfNothing(t *testing.T) {
	m := load(t, `
mesh:
  name: m
  circuit_breakers:
    default: {retry_budget: {percent: 0, min_concurrency: 0}}
    custom: {lake: {retry_budget: {percent: 5}}, bare: {max_requests: 7}}
`)
	for name, want := range map[string]policy.RetryBudget{
		"any":  {Set: true},
		"bare": {Set: true},
		"lake": {Set: true, Percent: 5},
	} {
		if got := m.Service(name).CircuitBreakers.RetryBudget; got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if got := load(t, "mesh: {name: m}").Service("any").CircuitBreakers.RetryBudget; got.Set {
		t.Errorf("a mesh that says nothing has a budget: %+v", got)
	}
}
