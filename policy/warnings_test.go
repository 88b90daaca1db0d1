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
	{"a check whose result goes nowhere", "  services: {a: {health_check: {tcp: true}}}\n", "3:18 MC2107"},
	{"a check of the application, registered in Consul", "  discovery: {consul: {register_interval: 1s}}\n  services: {a: {health_check: {tcp: true}}}\n", ""},
	{"a check of the application, with registration off", "  discovery: {consul: {register: {enabled: false}}}\n  services: {a: {health_check: {tcp: true}}}\n", "4:18 MC2107"},
	{"a check beside a file", "  discovery: {method: file, file: c.yaml, register: true}\n  services: {a: {health_check: {tcp: true}}}\n", ""},
	{"a check beside a file that nobody is added to", "  discovery: {method: file, file: c.yaml, consul: {register_interval: 1s}}\n  services: {a: {health_check: {tcp: true}}}\n", "4:18 MC2107"},
	{"few retries at one time", "  circuit_breakers: {default: {max_retries: 9}, custom: {a: {max_retries: 0}, b: {max_retries: 10}}}\n", "3:45 MC2103, 3:75 MC2103"},
	{"a budget of few retries, beside their number", "  circuit_breakers: {default: {max_retries: 3, retry_budget: {percent: 20, min_concurrency: 3}}}\n", "3:45 MC2107, 3:93 MC2103"},
	{"a number of retries where the mesh has a budget", "  circuit_breakers: {default: {retry_budget: {}}, custom: {a: {max_retries: 50}}}\n", "3:77 MC2107"},
	{"a budget", "  circuit_breakers: {default: {retry_budget: {percent: 25}}}\n", ""},
	{"a wait that no answer can ask for", "  policies: {retry: {backoff: {retry_after: 1s}}}\n", "3:45 MC2107"},
	{"a wait that an answer asks for", "  policies: {retry: {methods: [GET], status_codes: [429], backoff: {retry_after: 1s}}}\n", ""},
	{"a slow POST", "  services: {a: {}}\n  routes: [{name: r, service: a, retry: {attempts: 1, timeout: 1s}, hedging: true}]\n", "4:78 MC2104"},
	{"a slow GET", "  services: {a: {}}\n  routes: [{name: r, service: a, match: [{methods: [GET]}], retry: {attempts: 1, timeout: 1s}, hedging: true}]\n", ""},
	{"a limit of nothing", "  policies: {rate_limit: {default: {burst: 10}}}\n", "3:27 MC2107"},
	{"a limit of a service of TCP", "  services: {db: {protocol: tcp, rate_limit: {requests: 1}}}\n", "3:34 MC2107"},
	{"limits of callers in plaintext", "  policies: {rate_limit: {default: {callers: {a: {requests: 1}}}}}\n  security: {mtls: {mode: permissive}, authorization: {enabled: false}}\n", "3:37 MC2112"},
	{"a limit", "  policies: {rate_limit: {default: {requests: 1}, custom: {a: {mode: off}}}}\n", ""},
	{"a limit where all are off", "  policies: {rate_limit: {default: {mode: off}}}\n  services: {a: {rate_limit: {requests: 5}}, b: {rate_limit: {mode: shadow, requests: 5}}}\n", "4:41 MC2107"},
	{"a limit of a caller where the service is off", "  policies: {rate_limit: {custom: {a: {mode: off}}}}\n  services: {a: {rate_limit: {callers: {b: {requests: 5}}}}}\n", "4:31 MC2107"},
	{"a limit that is off where it stands", "  services: {a: {rate_limit: {mode: off, requests: 5}}}\n", ""},
	{"a check at the root, with a limit", "  services: {a: {rate_limit: {requests: 5}, health_checks: {protocol: http, path: /}}, b: {health_checks: {protocol: http, path: /}}}\n", "3:83 MC2107"},
	{"checks of all at the root, with a limit of one", "  load_balancing: {health_checks: {protocol: http, path: /}}\n  policies: {rate_limit: {custom: {a: {requests: 5}, b: {requests: 5}}}}\n", "3:58 MC2107"},
	{"a check below a route, with a limit", "  services: {a: {rate_limit: {requests: 5}, health_checks: {protocol: http, path: /api/health}}}\n  routes: [{name: r, service: a, match: [{path: {prefix: /api}}]}]\n", "3:83 MC2107"},
	{"a check beside the routes, with a limit", "  services: {a: {rate_limit: {requests: 5}, health_checks: {protocol: http, path: /health}}}\n  routes: [{name: r, service: a, match: [{path: {prefix: /api}}]}, {name: posts, service: a, match: [{path: {prefix: /health}, methods: [POST]}]}, {name: rest, service: a}]\n", ""},
	{"a preflight that does not match", "  services: {a: {}}\n  routes: [{name: r, service: a, match: [{methods: [GET]}], cors: {allow_origins: [\"https://a.example\"]}}]\n", "4:43 MC2107"},
	{"a preflight that does", "  services: {a: {}}\n  routes: [{name: r, service: a, match: [{methods: [GET, OPTIONS]}], cors: {allow_origins: [\"https://*.a.example:8443\"]}}]\n", ""},
	{"a preflight has no header of the request", "  services: {a: {}}\n  routes: [{name: r, service: a, match: [{headers: [{name: origin, present: true}, {name: x-user, exact: u}]}], cors: {allow_origins: [\"https://a.example\"]}}]\n", "4:84 MC2107"},
	{"a preflight has its own headers", "  services: {a: {}}\n  routes: [{name: r, service: a, match: [{headers: [{name: Origin, present: true}, {name: access-control-request-method, exact: PUT}]}], cors: {allow_origins: [\"https://a.example\"]}}]\n", ""},
	{"a preflight has what is not there", "  services: {a: {}}\n  routes: [{name: r, service: a, match: [{headers: [{name: x-user, present: false}, {name: x-beta, exact: y, invert: true}]}], cors: {allow_origins: [\"https://a.example\"]}}]\n", ""},
	{"a preflight is no call of gRPC", "  services: {a: {}}\n  routes: [{name: r, service: a, match: [{grpc: {}}], cors: {allow_origins: [\"https://a.example\"]}}]\n", "4:43 MC2107"},
	{"one place to come back to", "  services: {a: {}}\n  routes: [{name: r, service: a, sticky: {header: x}}]\n", "4:34 MC2107"},
	{"a slow start of a ring", "  load_balancing: {policy: ring_hash, hash_policy: [{header: a}], slow_start: {}}\n", "3:67 MC2107"},
	{"what adapts by itself", "  load_balancing: {slow_start: {}}\n  policies: {admission_control: {}}\n", ""},
	{"what adapts by itself where all is off", "  policies: {admission_control: {enabled: false, min_rps: 3}}\n  services: {a: {admission_control: {min_rps: 5}}, b: {admission_control: {enabled: true}}}\n", "4:47 MC2107"},
	{"a service of TCP that refuses a part", "  services: {db: {protocol: tcp, admission_control: {}}}\n", "3:34 MC2107"},
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
	{"a request that ends before a wait", "  policies: {retry: {methods: [GET], status_codes: [429], backoff: {retry_after: 10s}}, timeout: {request: 10s}}\n", "3:108 MC2111"},
	{"a route that waits longer than the service", "  services: {a: {timeout: {request: 5s}}}\n  routes: [{name: r, service: a, retry: {methods: [GET], status_codes: [429], backoff: {retry_after: 5s}}}]\n", "4:79 MC2111"},
	{"a request that ends after a wait", "  policies: {retry: {methods: [GET], status_codes: [429], backoff: {retry_after: 9s}}, timeout: {request: 10s}}\n", ""},
	{"a hash for a policy that has none", "  load_balancing: {hash_policy: [{header: a}]}\n", "3:20 MC2107"},
	{"a ring without a hash", "  load_balancing: {policy: ring_hash}\n", "3:20 MC2107"},
	{"a TCP upstream without a port", "  services: {a: {upstreams: [b]}, b: {protocol: tcp}}\n", "3:18 MC2107"},
	{"a port for an HTTP upstream", "  services: {a: {upstreams: [{service: b, local_bind_port: 1}]}}\n", "3:18 MC2107"},
	{"subsets of a service of TCP", "  services: {a: {protocol: tcp, subsets: {b: {}}}}\n", "3:33 MC2107"},
	{"no subset that could be empty", "  services: {a: {on_empty_subset: fail}}\n", "3:35 MC2107"},
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
