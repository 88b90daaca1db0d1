package policy_test

import (
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
)

func files(texts ...string) []policy.File {
	var all []policy.File
	for i, text := range texts {
		all = append(all, policy.File{Name: string(rune('a'+i)) + ".yaml", Data: []byte(text)})
	}
	return all
}

func mustParse(t *testing.T, fs []policy.File, environment string) *policy.Mesh {
	t.Helper()
	m, err := policy.Parse(fs, policy.Options{Environment: environment})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFilesMergeLeftToRight(t *testing.T) {
	m := mustParse(t, files(`
mesh:
  name: base
  discovery: {consul: {host: one, port: 1111}}
  policies:
    retry: {attempts: 5, conditions: [reset, connect-failure]}
    timeout: {connect: 1s}
`, `
mesh:
  discovery: {consul: {host: two}}
  policies:
    retry: {conditions: [refused-stream]}
    timeout: null
`), "")
	if c := m.Discovery.Consul; c.Host != "two" || c.Port != 1111 {
		t.Errorf("maps do not merge: %+v", c)
	}
	s := m.Service("any")
	if s.Retry.Attempts != 5 || strings.Join(s.Retry.Conditions, " ") != "refused-stream" {
		t.Errorf("a list is not replaced: %+v", s.Retry)
	}
	if s.Timeout.Connect != 5*time.Second || len(s.Keys(policy.SettingTimeout)) != 0 {
		t.Errorf("null does not delete: %+v", s.Timeout)
	}
}

func TestAValueKeepsTheFileThatItCameFrom(t *testing.T) {
	m := mustParse(t, files(`
mesh:
  name: base
  circuit_breakers:
    default: {max_requests: 1, max_connections: 1}
`, `
mesh:
  circuit_breakers:
    default: {max_requests: 2}
    custom: {lake: {max_requests: 3}}
`), "")
	for key, want := range map[string]string{
		"circuit_breakers.default":                 "a.yaml:5:5",
		"circuit_breakers.default.max_connections": "a.yaml:5:32",
		"circuit_breakers.default.max_requests":    "b.yaml:4:15",
		"circuit_breakers.custom.lake":             "b.yaml:5:14",
		// Not written: the nearest ancestor that is.
		"circuit_breakers.default.max_retries":      "a.yaml:5:5",
		"circuit_breakers.custom.nexus":             "b.yaml:5:5",
		"mesh.circuit_breakers.default.max_retries": "a.yaml:5:5",
		"telemetry.tracing.tags[3]":                 "a.yaml:2:1",
	} {
		if got := m.Source(key).String(); got != want {
			t.Errorf("%s is at %s, want %s", key, got, want)
		}
	}
}

const withEnvironments = `
mesh:
  name: base
  discovery: {consul: {datacenter: dc1}}
  services: {lake: {protocol: http2}}
  environments:
    staging: {discovery: {consul: {datacenter: staging}}}
    production:
      discovery: {consul: {datacenter: prod}}
      services: {lake: null}
    empty:
`

func TestAnEnvironmentIsLaidOverTheFile(t *testing.T) {
	for environment, want := range map[string]string{"": "dc1", "staging": "staging", "production": "prod"} {
		m := mustParse(t, files(withEnvironments), environment)
		if got := m.Discovery.Consul.Datacenter; got != want {
			t.Errorf("in %q the datacenter is %q, want %q", environment, got, want)
		}
		if m.Environment != environment {
			t.Errorf("the mesh says environment %q, want %q", m.Environment, environment)
		}
		if deleted := len(m.Names()) == 0; deleted != (environment == "production") {
			t.Errorf("in %q the services are %v", environment, m.Names())
		}
	}
	if got := policy.Environments(files(withEnvironments)); strings.Join(got, " ") != "production staging" {
		t.Errorf("environments %v", got)
	}
}

func TestEnvironmentsOfSeveralFilesMergeFirst(t *testing.T) {
	m := mustParse(t, files(withEnvironments,
		"mesh: {version: \"2\", discovery: {consul: {datacenter: over}}, environments: {staging: {discovery: {consul: {host: far}}}}}"), "staging")
	if c := m.Discovery.Consul; c.Datacenter != "staging" || c.Host != "far" || m.Version != "2" {
		t.Errorf("got %+v", c)
	}
}

func TestAnUnknownEnvironmentIsAnErrorIfThereAreAny(t *testing.T) {
	_, err := policy.Parse(files(withEnvironments), policy.Options{Environment: "stagin"})
	ps := problems(t, err)
	if len(ps) != 1 || ps[0].Code != policy.CodeEnvironment || ps[0].Hint != `did you mean "staging"?` {
		t.Errorf("got %v", err)
	}
	mustParse(t, files("mesh: {name: m}"), "production") // has none, needs none
}

func TestAMistakeInAnEnvironmentIsFoundThere(t *testing.T) {
	text := "mesh:\n  name: m\n  environments:\n    prod: {discovery: {consul: {prot: 1}}}\n    nested: {environments: {}}\n"
	mustParse(t, files(text), "")
	for environment, want := range map[string]string{"prod": "4:33 MC1003", "nested": "5:14 MC1003"} {
		_, err := policy.Parse(files(text), policy.Options{Environment: environment})
		if got := strings.Join(places(problems(t, err)), ", "); got != want {
			t.Errorf("%s: got %s, want %s", environment, got, want)
		}
	}
}

func TestAnchorsMergeKeysAndFreeKeys(t *testing.T) {
	m := mustParse(t, files(`
x-limits: &limits {max_requests: 7, max_connections: 8}
mesh:
  name: m
  x-note: {any: [thing]}
  circuit_breakers:
    default: {<<: *limits, max_connections: 9}
    custom:
      lake:
        <<: [{max_requests: 1}, *limits]
      copy: *limits
`), "")
	if b := m.Service("any").CircuitBreakers; b.MaxRequests != 7 || b.MaxConnections != 9 {
		t.Errorf("the map's own key does not win over <<: %+v", b)
	}
	if b := m.Service("lake").CircuitBreakers; b.MaxRequests != 1 || b.MaxConnections != 8 {
		t.Errorf("the first of a list of merges does not win: %+v", b)
	}
	if b := m.Service("copy").CircuitBreakers; b.MaxRequests != 7 {
		t.Errorf("an alias is not its anchor: %+v", b)
	}
	if got := m.Source("circuit_breakers.default.max_requests").String(); got != "a.yaml:2:20" {
		t.Errorf("a merged value is at %s, want its anchor", got)
	}
}

func TestAliasesCannotFillTheMemory(t *testing.T) {
	var b strings.Builder
	b.WriteString("x-a0: &a0 [x]\n")
	for i := 1; i < 12; i++ {
		last := "*a" + string(rune('a'+i-1))
		if i == 1 {
			last = "*a0"
		}
		b.WriteString("x-a" + string(rune('a'+i)) + ": &a" + string(rune('a'+i)) + " [" + strings.Repeat(last+", ", 9) + last + "]\n")
	}
	_, err := policy.Parse(files(b.String()), policy.Options{})
	if ps := problems(t, err); len(ps) != 1 || ps[0].Code != policy.CodeAlias {
		t.Errorf("got %v", err)
	}
}
