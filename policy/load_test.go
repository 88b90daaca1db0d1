package policy_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
)

var operators = filepath.Join("testdata", "seed.yaml")

// The vocabulary that the operators' file grows into, but for what is not there yet:
// rollouts and gateways.
func TestTheExtendedFileLoads(t *testing.T) {
	m, err := policy.Load([]string{filepath.Join("testdata", "extended.yaml")}, policy.Options{Environment: "production"})
	if err != nil {
		t.Fatal(err)
	}
	var warned []string
	for _, w := range m.Warnings {
		warned = append(warned, w.Key)
	}
	// Numbers that are traps, which the file has all the same, and datacenters that it does
	// not follow.
	if want := []string{
		"mesh.circuit_breakers.default.max_retries", "mesh.circuit_breakers.default.retry_budget.min_concurrency",
		"mesh.load_balancing.locality.failover[0].from[0]", "mesh.load_balancing.locality.failover[0].to[0]", "mesh.load_balancing.locality.failover[0].to[1]",
	}; !reflect.DeepEqual(warned, want) {
		t.Errorf("warnings of %q, want %q", warned, want)
	}
	lake := m.Service("lake_service")
	for _, c := range []struct{ got, want any }{
		{lake.RateLimit.All, policy.Bucket{Requests: 200, Burst: 200, Interval: time.Second}},
		{lake.CircuitBreakers.RetryBudget, policy.RetryBudget{Set: true, Percent: 20, MinConcurrency: 3}},
		{lake.Subset("v3"), &policy.Subset{Name: "v3", Filter: `Service.Meta.version == "v3"`, OnlyPassing: true}},
		{lake.Routes[0].Split[1].Subset, "canary"},
		{m.Service("stream_service").Routes[0].Fault.Delay.Percent, 50.0},
		{m.Discovery.Consul.Scheme, "https"},
		{m.Discovery.Consul.Select, policy.Select{Tags: []string{}, Exclude: []string{"consul", "nomad*"}}},
		{m.MTLS.CA, policy.CA{Provider: policy.CABuiltin, CertFile: "/var/lib/mesh/ca.crt", KeyFile: "/var/lib/mesh/ca.key"}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("got  %+v\nwant %+v", c.got, c.want)
		}
	}
}

// The operators' file, every key of it.
func TestTheOperatorsFileLoads(t *testing.T) {
	m, err := policy.Load([]string{operators}, policy.Options{LookupEnv: variables("CONSUL_HOST=10.0.0.1", "SERVICE_VERSION=of the control plane")})
	if err != nil {
		t.Fatal(err)
	}
	retry := policy.Retry{
		Attempts: 3, Timeout: 2 * time.Second, BaseInterval: 100 * time.Millisecond, MaxInterval: 3 * time.Second,
		Conditions:   []string{"5xx", "connect-failure", "refused-stream"},
		MaxBodyBytes: 1 << 20, HostSelection: policy.PreviousHosts,
	}
	for _, c := range []struct{ got, want any }{
		{m.Name, "datapunk-mesh"},
		{m.Version, "1.0"},
		{m.Discovery, policy.Discovery{Method: "consul", Consul: policy.Consul{
			Host: "10.0.0.1", Port: 8500, Datacenter: "dc1", Scheme: "http", Consistency: "stale",
			RegisterInterval: 10 * time.Second, DeregisterCriticalServiceAfter: 30 * time.Second,
			Register: policy.Register{Enabled: true},
			Removals: policy.Removals{Confirm: 3 * time.Second, Connected: time.Minute, Restored: 2 * time.Minute, Reconnect: 2 * time.Minute},
		}}},
		{m.Service("lake_service").CircuitBreakers, policy.CircuitBreakers{MaxConnections: 2048, MaxPendingRequests: 2048, MaxRequests: 1024, MaxRetries: 3}},
		{m.Service("stream_service").CircuitBreakers, policy.CircuitBreakers{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 2048, MaxRetries: 3}},
		{m.Service("nexus").CircuitBreakers, policy.CircuitBreakers{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3}},
		{m.Service("nexus").LoadBalancing, policy.LoadBalancing{Policy: "least_request", PanicThreshold: 50, Locality: anywhere}},
		{*m.Service("nexus").HealthChecks, policy.HealthChecks{Protocol: "tcp", Timeout: 5 * time.Second, Interval: 10 * time.Second, UnhealthyThreshold: 3, HealthyThreshold: 2}},
		{m.Service("nexus").Retry, retry},
		{m.Service("nexus").Timeout, policy.Timeout{Connect: 5 * time.Second, Idle: 5 * time.Minute, StreamIdle: 5 * time.Minute, AppIdle: time.Second, MaxConnection: time.Hour}},
		{m.Tracing, policy.Tracing{Enabled: true, Provider: "jaeger", Service: "jaeger", SamplingRate: 0.1, Tags: []policy.Tag{
			{Key: "service.version", Variable: "SERVICE_VERSION", Value: "of the control plane"},
			{Key: "environment", Variable: "ENV", Value: "development"},
		}}},
		{m.Metrics, policy.Metrics{Enabled: true, ScrapeInterval: 15 * time.Second, Path: "/metrics"}},
		{m.MTLS, policy.MTLS{Enabled: true, Mode: policy.Strict, TrustDomain: "datapunk", CertRotation: 24 * time.Hour, CertTTL: 48 * time.Hour, CA: policy.CA{Provider: policy.CABuiltin}}},
		{m.Authorization, policy.Authorization{Enabled: true, DefaultAction: policy.Deny, Policies: []policy.AuthorizationPolicy{{
			Name: "service-to-service", Action: policy.Allow, Key: "security.authorization.policies[0]", Principals: []string{"spiffe://datapunk/*"},
		}}}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("got  %+v\nwant %+v", c.got, c.want)
		}
	}
	var codes []string
	for _, w := range m.Warnings {
		codes = append(codes, string(w.Code))
	}
	if got := strings.Join(codes, " "); got != "MC2103 MC2104" {
		t.Errorf("warnings %s", got)
	}
}

// They are examples, so there is nothing to say of them.
func TestEveryFileInConfigsIsValidInEveryEnvironment(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("..", "configs", "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d files in configs: %v", len(paths), err)
	}
	for _, path := range paths {
		warnings, err := policy.Validate([]string{path}, policy.Options{LookupEnv: func(name string) (string, bool) { return "v1", name == "SERVICE_VERSION" }})
		if err != nil || len(warnings) > 0 {
			t.Error(err, warnings)
		}
	}
}

func TestValidateChecksTheFileAndEachEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, `mesh:
  name: m
  discovery: {consul: {deregister_critical_service_after: 30s}}
  environments:
    good: {version: "1"}
    bad: {bogus: 1}
    worse: {bogus: 1, discovery: {consul: {port: 0}}}
`)
	warnings, err := policy.Validate([]string{path}, policy.Options{})
	if got := strings.Join(places(problems(t, err)), ", "); got != "6:11 MC1003, 7:13 MC1003, 7:50 MC1102" {
		t.Errorf("errors %s", got)
	}
	if got := strings.Join(places(warnings), ", "); got != "3:24 MC2107" { // once, not once an environment
		t.Errorf("warnings %s", got)
	}
	if _, err := policy.Validate([]string{path}, policy.Options{Environment: "good"}); err != nil {
		t.Errorf("the environment that is asked for is good: %v", err)
	}
}

func TestAFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for _, paths := range [][]string{{filepath.Join(dir, "none.yaml")}, {dir}} {
		_, err := policy.Load(paths, policy.Options{})
		var ps policy.Problems
		if err == nil || errors.As(err, &ps) || !strings.Contains(err.Error(), paths[0]) {
			t.Errorf("%s: error %v", paths[0], err)
		}
	}
	if _, err := policy.Load([]string{filepath.Join(dir, "none.yaml")}, policy.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if _, err := policy.Load([]string{operators, operators}, policy.Options{}); err == nil {
		t.Error("one file given twice is no error")
	}
	if _, err := policy.Load(nil, policy.Options{}); err == nil {
		t.Error("no file is no error")
	}
}

func TestFilesWithoutAMesh(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "1:1 MC1006"},
		{"# nothing\n", "1:1 MC1006"},
		{"---\n", "1:1 MC1006"},
		{"x-note: a\n", "1:1 MC1006"},
		{"mesh:\n", "1:1 MC1006"},
		{"mesh: a\n", "1:7 MC1005"},
		{"- mesh\n", "1:1 MC1005"},
		{"word", "1:1 MC1005"},
		{"mesh: {}\n", "1:1 MC1006"},
		{"name: a\n", "1:1 MC1003, 1:1 MC1006"},
		{"\xff\xfem\x00:\x00 \x001\x00", "1:1 MC1001"},
		{"mesh: {name: \"\x01\"}", "1:15 MC1001"},
	} {
		_, err := parse(test.text)
		if got := strings.Join(places(problems(t, err)), ", "); got != test.want {
			t.Errorf("%q: got %s, want %s\n%v", test.text, got, test.want, err)
		}
	}
}

func TestTheRevisionIsThatOfTheContent(t *testing.T) {
	revision := func(text string) string { return load(t, text).Revision }
	if a, b := revision("mesh: {name: m}"), revision("mesh: {name: m}"); a != b || len(a) != 12 {
		t.Errorf("one content is %q and %q", a, b)
	}
	if a, b := revision("mesh: {name: m}"), revision("mesh: {name: n}"); a == b {
		t.Errorf("two contents are %q", a)
	}
}

// yamlBreaks makes every line break that the parser counts a newline.
var yamlBreaks = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n")

func FuzzParse(f *testing.F) {
	for _, path := range []string{operators, filepath.Join("testdata", "ten-mistakes.yaml")} {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data), "")
	}
	f.Add(layered, "")
	f.Add(withEnvironments, "staging")
	f.Add("a: &a [*a]", "")
	f.Add("mesh: {<<: {name: m}, environments: {e: {name: }}}", "e")
	f.Fuzz(func(t *testing.T, text, environment string) {
		opts := policy.Options{Environment: environment, LookupEnv: variables("A=x", "EMPTY=")}
		m, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, opts)
		lines := 1 + strings.Count(yamlBreaks.Replace(text), "\n")
		for _, p := range problems(t, err) {
			if p.Warning() || p.Source.Line < 1 || p.Source.Line > lines || p.Source.Column < 1 || p.Message == "" {
				t.Errorf("a problem without a place: %+v", p)
			}
		}
		if (m == nil) != (err != nil) {
			t.Fatalf("mesh %v with error %v", m, err)
		}
		if m == nil {
			return
		}
		for _, name := range append(m.Names(), "another") {
			s := m.Service(name)
			if s.Name != name || s.ConsulService == "" || s.Retry.MaxInterval < s.Retry.BaseInterval || s.OutlierDetection.MaxEjectionTime < s.OutlierDetection.BaseEjectionTime {
				t.Errorf("settings that cannot be: %+v", *s)
			}
			for _, setting := range settings() {
				for _, key := range s.Keys(setting) {
					if m.Source(key).Line == 0 {
						t.Errorf("%s stands nowhere", key)
					}
				}
			}
		}
		if m.MTLS.CertTTL <= m.MTLS.CertRotation || m.MTLS.TrustDomain == "" || m.Authorization.Enabled && !m.MTLS.Enabled {
			t.Errorf("security that is none: %+v %+v", m.MTLS, m.Authorization)
		}
	})
}
