package policy_test

import (
	"strings"
	"testing"

	"datapunk.dev/controlplane/policy"
)

// warnings are texts that stand below "mesh:" and "  name: m", so that their
// first line is line 3, and what is said of them though they load.
var warnings = []struct{ name, text, want string }{
	{"nothing to say", "", ""},
	{"a time after which nothing is removed", "  discovery: {consul: {deregister_critical_service_after: 30s}}\n", "3:24 MC2107"},
	{"a second is a second", "  discovery: {consul: {register_interval: 1s, deregister_critical_service_after: 1s}}\n", ""},
	{"few retries at one time", "  circuit_breakers: {default: {max_retries: 9}, custom: {a: {max_retries: 0}, b: {max_retries: 10}}}\n", "3:45 MC2103, 3:75 MC2103"},
	{"POST is retried", "  policies: {retry: {conditions: [5xx]}}\n", "3:22 MC2104"},
	{"POST is retried, by a status", "  policies: {retry: {status_codes: [503]}}\n", "3:22 MC2104"},
	{"POST is retried, by one service", "  services: {a: {retry: {conditions: [reset]}}}\n", "3:26 MC2104"},
	{"only methods that may be", "  policies: {retry: {conditions: [5xx], methods: [GET]}}\n", ""},
	{"only what never arrived", "  policies: {retry: {conditions: [connect-failure, reset-before-request]}}\n", ""},
	{"no retries at all", "  policies: {retry: {conditions: [5xx], attempts: 0}}\n", ""},
	{"codes without the condition's codes", "  policies: {retry: {conditions: [retriable-status-codes], methods: [GET]}}\n", "3:22 MC2107"},
	{"headers that nothing names", "  policies: {retry: {conditions: [retriable-headers], methods: [GET]}}\n", "3:22 MC2107"},
	{"a request that ends before its tries", "  policies: {retry: {attempts: 3, timeout: 2s}, timeout: {request: 5s}}\n", "3:68 MC2111"},
	{"a request that never ends", "  policies: {retry: {attempts: 3, timeout: 2s}, timeout: {request: 0s}}\n", ""},
	{"a hash for a policy that has none", "  load_balancing: {hash_policy: [{header: a}]}\n", "3:20 MC2107"},
	{"a ring without a hash", "  load_balancing: {policy: ring_hash}\n", "3:20 MC2107"},
	{"a TCP upstream without a port", "  services: {a: {upstreams: [b]}, b: {protocol: tcp}}\n", "3:18 MC2107"},
	{"a port for an HTTP upstream", "  services: {a: {upstreams: [{service: b, local_bind_port: 1}]}}\n", "3:18 MC2107"},
	{"the port of the outbound listener", "  services: {a: {upstreams: [{service: b, local_bind_port: 15001}]}, b: {protocol: tcp}}\n", "3:18 MC2113"},
	{"a sample of everything", "  telemetry: {access_logs: {filter: {sample: 0.5}}}\n", "3:38 MC2107"},
	{"certificates of minutes", "  security: {mtls: {cert_rotation: 20s, cert_ttl: 1m}}\n", "3:36 MC2106"},
	{"plaintext callers", "  security: {mtls: {mode: permissive}, authorization: {policies: [{name: p, action: ALLOW, sources: [a]}]}}\n", "3:27 MC2112"},
	{"nobody is admitted", "  security: {authorization: {policies: [{name: p, action: ALLOW, mode: shadow, sources: [a]}]}}\n", "3:14 MC2108"},
	{"a DENY of everything", "  security: {authorization: {default_action: ALLOW, policies: [{name: p, action: DENY}]}}\n", "3:64 MC2108"},
	{"a shadow of nothing", "  security: {authorization: {default_action: ALLOW, policies: [{name: p, action: AUDIT, mode: shadow}]}}\n", "3:95 MC2107"},
	{"a stranger", "  security: {mtls: {trust_domain: a}, authorization: {policies: [{name: p, action: ALLOW, principals: [\"spiffe://a/x\", \"spiffe://b/x\"]}]}}\n", "3:120 MC2109"},
	{"an ALLOW by path of a TCP service", "  services: {db: {protocol: tcp}}\n  security: {authorization: {policies: [{name: p, action: ALLOW, sources: [a], destinations: [db, web], paths: [/x]}]}}\n", "4:80 MC2107"},
	{"a DENY by method of a TCP service", "  services: {db: {protocol: tcp}}\n  security: {authorization: {default_action: ALLOW, policies: [{name: p, action: DENY, destinations: [db], methods: [GET]}]}}\n", "4:88 MC2114"},
	{"a DENY that takes one from all the callers of TCP", "  services: {db: {protocol: tcp}}\n  security: {authorization: {policies: [{name: a, action: ALLOW, principals: [\"spiffe://m/*\"]}, {name: p, action: DENY, sources: [x]}]}}\n", "4:104 MC2115"},
	{"an ALLOW of all callers of TCP but one", "  services: {db: {protocol: tcp}}\n  security: {authorization: {policies: [{name: p, action: ALLOW, principals: [\"spiffe://m/*\"], not_sources: [x]}]}}\n", "4:48 MC2115"},
	{"a DENY of others than the callers of TCP", "  services: {db: {protocol: tcp}}\n  security: {authorization: {policies: [{name: a, action: ALLOW, sources: [y]}, {name: p, action: DENY, sources: [x]}]}}\n", ""},
	{"a DENY of strangers to TCP", "  services: {db: {protocol: tcp}}\n  security: {authorization: {policies: [{name: a, action: ALLOW, principals: [\"spiffe://m/*\"]}, {name: p, action: DENY, not_principals: [\"spiffe://m/*\"]}]}}\n", ""},
	{"a variable that is not set", "  version: \"v${NOT_SET}\"\n", "3:12 MC2102"},
	{"a variable that is set and empty", "  version: \"v${EMPTY}${NOT_SET:-}\"\n", ""},
	{"a tag that is each proxy's", "  telemetry: {tracing: {tags: [{key: a, value: \"${NOT_SET}\"}]}}\n", ""},
}

func TestWarnings(t *testing.T) {
	for _, test := range warnings {
		t.Run(test.name, func(t *testing.T) {
			m, err := parse("mesh:\n  name: m\n"+test.text, "EMPTY=")
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(places(m.Warnings), ", "); got != test.want {
				t.Errorf("got %s, want %s\n%v", got, test.want, m.Warnings)
			}
			for _, w := range m.Warnings {
				if !w.Warning() || !strings.Contains(w.String(), ": warning: ") {
					t.Errorf("%v is no warning", w)
				}
			}
		})
	}
}

func TestVariables(t *testing.T) {
	m := load(t, `
mesh:
  name: m
  version: "${VERSION}"
  discovery: {consul: {host: "${HOST:-consul}", port: "${PORT:-8500}", token_file: "/run/$$HOME/$token"}}
  telemetry: {metrics: {enabled: "${METRICS}", path: "${P}"}}
  policies: {timeout: {connect: "${SECONDS}s"}}
`[1:], "VERSION=1.0", "PORT=1234", "METRICS=true", "SECONDS=3", "P=/a")
	if m.Version != "1.0" || m.Discovery.Consul.Host != "consul" || m.Discovery.Consul.Port != 1234 || !m.Metrics.Enabled || m.Metrics.Path != "/a" || m.Discovery.Consul.TokenFile != "/run/$HOME/$token" {
		t.Errorf("got %+v", *m)
	}
	if got := m.Service("a").Timeout.Connect.String(); got != "3s" {
		t.Errorf("connect is %s", got)
	}
}

// A quoted number is the number that the key wants; what a variable holds is
// never YAML.
func TestAValueCannotInjectYAML(t *testing.T) {
	m := load(t, `mesh: {name: m, version: "${V}", circuit_breakers: {default: {max_requests: "12"}}}`, "V={a: b}\nmesh: 1 # x")
	if m.Version != "{a: b}\nmesh: 1 # x" || m.Service("a").CircuitBreakers.MaxRequests != 12 {
		t.Errorf("got %q, %+v", m.Version, m.Service("a").CircuitBreakers)
	}
}

func TestVariablesThatAreWrong(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"required", "mesh: {name: m, version: \"${V:?say which}\"}", "1:26 MC1301"},
		{"never closed", "mesh: {name: m, version: \"${V\"}", "1:26 MC1302"},
		{"not what the key wants", "mesh: {name: m, discovery: {consul: {port: \"${PORT}\"}}}", "1:44 MC1005"},
		{"empty, where something must stand", "mesh: {name: m, discovery: {consul: {host: \"${EMPTY}\"}}}", "1:44 MC1104"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(test.text, "PORT=http", "EMPTY=")
			if got := strings.Join(places(problems(t, err)), ", "); got != test.want {
				t.Errorf("got %s, want %s\n%v", got, test.want, err)
			}
		})
	}
	_, err := parse("mesh: {name: m, version: \"${V:?say which}\"}")
	if want := "mesh.yaml:1:26: MC1301: version: V is not set: say which"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A tag that is one variable is filled in by each proxy: what the variable is
// beside the control plane is only the default.
func TestTagsFromTheEnvironment(t *testing.T) {
	for value, want := range map[string]policy.Tag{
		"${VERSION}":        {Key: "k", Variable: "VERSION", Value: "1.2"},
		"${NOT_SET}":        {Key: "k", Variable: "NOT_SET"},
		"${NOT_SET:-d}":     {Key: "k", Variable: "NOT_SET", Value: "d"},
		"${NOT_SET-d}":      {Key: "k", Variable: "NOT_SET", Value: "d"},
		"${VERSION:-d}":     {Key: "k", Variable: "VERSION", Value: "1.2"},
		"v${VERSION}":       {Key: "k", Value: "v1.2"},
		"${VERSION:+known}": {Key: "k", Value: "known"},
		"plain":             {Key: "k", Value: "plain"},
		"$${VERSION}":       {Key: "k", Value: "${VERSION}"},
	} {
		m := load(t, `mesh: {name: m, telemetry: {tracing: {tags: [{key: k, value: "`+value+`"}]}}}`, "VERSION=1.2")
		if got := m.Tracing.Tags[0]; got != want {
			t.Errorf("%s is %+v, want %+v", value, got, want)
		}
	}
}
