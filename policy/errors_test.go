package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"datapunk.dev/controlplane/policy"
)

// parse loads one file, named mesh.yaml.
func parse(text string, env ...string) (*policy.Mesh, error) {
	return policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, policy.Options{LookupEnv: variables(env...)})
}

// variables is an environment of NAME=value.
func variables(env ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, e := range env {
			if value, ok := strings.CutPrefix(e, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
}

// places are problems as "line:col code".
func places(ps []policy.Problem) []string {
	var all []string
	for _, p := range ps {
		all = append(all, fmt.Sprintf("%d:%d %s", p.Source.Line, p.Source.Column, p.Code))
	}
	return all
}

func problems(t *testing.T, err error) policy.Problems {
	t.Helper()
	var ps policy.Problems
	if err != nil && !errors.As(err, &ps) {
		t.Fatalf("error %v is not Problems", err)
	}
	return ps
}

// mistakes are texts that stand below "mesh:" and "  name: m", so that their
// first line is line 3, and what is said of them.
var mistakes = []struct{ name, text, want string }{
	{"a second try that never begins", "  services: {a: {}}\n  routes: [{name: r, service: a, hedging: true}]\n", "4:43 MC1006"},
	{"limits of callers whom nothing tells apart", "  policies: {rate_limit: {default: {callers: {a: {requests: 1}}}}}\n  security: {mtls: {enabled: false}, authorization: {enabled: false}}\n", "3:37 MC1505"},
	{"a limit of a caller with no name", "  policies: {rate_limit: {default: {callers: {\"a*\": {requests: 1}}}}}\n", "3:47 MC1401"},
	{"a limit that says not how much", "  policies: {rate_limit: {default: {callers: {a: {burst: 1}}}}}\n", "3:47 MC1006"},
	{"another status for too many", "  policies: {rate_limit: {default: {requests: 1, status: 404}}}\n", "3:58 MC1102"},
	{"a limit faster than Envoy's", "  policies: {rate_limit: {default: {requests: 1, interval: 20ms}}}\n", "3:60 MC1102"},
	{"a page that is no origin", "  services: {a: {}}\n  routes: [{name: r, service: a, cors: {allow_origins: [shop.example]}}]\n", "4:57 MC1507"},
	{"an origin with a path", "  services: {a: {}}\n  routes: [{name: r, service: a, cors: {allow_origins: [\"https://shop.example/\"]}}]\n", "4:57 MC1507"},
	{"credentials for every page", "  services: {a: {}}\n  routes: [{name: r, service: a, cors: {allow_origins: [\"*\"], allow_credentials: true}}]\n", "4:82 MC1105"},
	{"sticky by two", "  services: {a: {}}\n  routes: [{name: r, service: a, split: [{service: a, weight: 50}, {service: b, weight: 50}], sticky: {header: x, cookie: y}}]\n", "4:95 MC1507"},
	{"a cookie that is none", "  services: {a: {}}\n  routes: [{name: r, service: a, split: [{service: a, weight: 50}, {service: b, weight: 50}], sticky: {cookie: \"a;b\"}}]\n", "4:112 MC1704"},
	{"a registration that says not enough", "  discovery: {consul: {register: {services: [{name: db}]}}}\n", "3:46 MC1006, 3:46 MC1006, 3:46 MC1006"},
	{"a registration twice", "  discovery: {consul: {register: {services: [{name: a, id: x, address: h, port: 1}, {name: b, id: X, address: h, port: 2}]}}}\n", "3:99 MC1105"},
	{"a check of nothing", "  discovery: {consul: {register: {services: [{name: a, id: x, address: h, port: 1, check: {interval: 5s}}]}}}\n", "3:84 MC1006"},
	{"a check that is no URL", "  discovery: {consul: {register: {services: [{name: a, id: x, address: h, port: 1, check: {http: \"ftp://x\"}}]}}}\n", "3:98 MC1104"},
	{"a gRPC check of no port", "  discovery: {consul: {register: {services: [{name: a, id: x, address: h, port: 1, check: {grpc: h/health}}]}}}\n", "3:98 MC1104"},
	{"a gRPC check of an empty service", "  discovery: {consul: {register: {services: [{name: a, id: x, address: h, port: 1, check: {grpc: \"h:1/\"}}]}}}\n", "3:98 MC1104"},
	{"a check of two kinds", "  discovery: {consul: {register: {services: [{name: a, id: x, address: h, port: 1, check: {grpc: \"h:1\", tcp: \"h:1\"}}]}}}\n", "3:84 MC1006"},
	{"a check by nobody known", "  discovery: {consul: {register: {services: [{name: a, id: x, address: h, port: 1, check: {tcp: \"h:1\", by: nomad}}]}}}\n", "3:108 MC1103"},
	{"metadata that is no text", "  discovery: {consul: {register: {services: [{name: a, id: x, address: h, port: 1, meta: {version: 1}}]}}}\n", "3:84 MC1005"},
	// The shape of the file.
	{"an unknown key", "  bogus: 1\n", "3:3 MC1003"},
	{"an unknown key without a value", "  bogus:\n", "3:3 MC1003"},
	{"an unknown key deep down", "  policies: {retry: {backoff: {base: 1s}}}\n", "3:32 MC1003"},
	{"a key twice", "  version: \"1\"\n  version: \"2\"\n", "4:3 MC1004"},
	{"the same key twice, far below", "  telemetry: {metrics: {port: 1, port: 2}}\n", "3:34 MC1004"},
	{"a word where a map is wanted", "  discovery: consul\n", "3:14 MC1005"},
	{"a map where a list is wanted", "  policies: {retry: {conditions: {a: b}}}\n", "3:22 MC1005"},
	{"a list where a value is wanted", "  version: [1]\n", "3:3 MC1005"},
	{"a number where a text is wanted", "  version: 1.0\n", "3:12 MC1005"},
	{"a word where a number is wanted", "  circuit_breakers: {default: {max_requests: many}}\n", "3:46 MC1005"},
	{"a fraction where a whole number is wanted", "  circuit_breakers: {default: {max_requests: 1.5}}\n", "3:46 MC1005"},
	{"octal", "  circuit_breakers: {default: {max_requests: 010}}\n", "3:46 MC1005"},
	{"a number where true or false is wanted", "  security: {mtls: {enabled: 1}}\n", "3:30 MC1005"},
	{"yes where true or false is wanted", "  security: {mtls: {enabled: yes}}\n", "3:30 MC1005"},
	{"a second document", "---\nmesh: {}\n", "3:1 MC1002"},
	{"not YAML", "  a: b: c\n", "3:7 MC1001"},
	{"a tab", "\tname: x\n", "3:1 MC1001"},
	{"a variable without quotes within braces", "  discovery: {method: ${M:-consul}}\n", "3:24 MC1001"},
	{"an alias within its anchor", "  x-a: &a [*a]\n", "3:12 MC1008"},
	{"a merge of a list of words", "  x-a: &a [b]\n  discovery: {<<: *a}\n", "4:19 MC1008"},
	{"a list as key", "  ? [a]\n  : b\n", "3:5 MC1005"},
	{"what is not built yet", "  routes: []\n  gateways: []\n  rollouts: []\n", "4:3 MC1007, 5:3 MC1007"},

	// Values.
	{"a duration without a unit", "  policies: {timeout: {connect: 5}}\n", "3:33 MC1101"},
	{"a duration in a unit of its own", "  policies: {timeout: {connect: 5 sec}}\n", "3:33 MC1101"},
	{"a rotation whose double is no duration", "  security: {mtls: {cert_rotation: 2562047h}}\n", "3:36 MC1102"},
	{"a life beyond the authority's", "  security: {mtls: {cert_ttl: 43801h}}\n", "3:31 MC1102"},
	{"a duration that Envoy refuses", "  policies: {timeout: {connect: 9223372036s}}\n", "3:33 MC1102"},
	{"a duration that Envoy takes for none", "  policies: {timeout: {request: 500us}}\n", "3:33 MC1102"},
	{"a control character by its escape", "  version: \"a\\u0007\"\n", "3:12 MC1104"},
	{"a duration in days", "  security: {mtls: {cert_rotation: 1d}}\n", "3:36 MC1101"},
	{"a negative duration", "  policies: {timeout: {idle: -5s}}\n", "3:30 MC1102"},
	{"no time to connect", "  policies: {timeout: {connect: 0s}}\n", "3:33 MC1102"},
	{"a ratio above 1", "  telemetry: {tracing: {sampling_rate: 10}}\n", "3:40 MC1102"},
	{"a ratio that is no number", "  telemetry: {tracing: {sampling_rate: .nan}}\n", "3:40 MC1005"},
	{"a percentage above 100", "  load_balancing: {panic_threshold: 101}\n", "3:37 MC1102"},
	{"a port of 0", "  telemetry: {metrics: {port: 0}}\n", "3:31 MC1102"},
	{"a port above 65535", "  discovery: {consul: {port: 65536}}\n", "3:30 MC1102"},
	{"a negative number", "  circuit_breakers: {default: {max_requests: -1}}\n", "3:46 MC1102"},
	{"a number beyond all", "  circuit_breakers: {default: {max_requests: 99999999999999999999}}\n", "3:46 MC1102"},
	{"a circuit breaker of 0", "  circuit_breakers: {default: {max_requests: 0}}\n", "3:46 MC1102"},
	{"too many attempts", "  policies: {retry: {attempts: 101}}\n", "3:32 MC1102"},
	{"no threshold", "  load_balancing: {health_checks: {unhealthy_threshold: 0}}\n", "3:57 MC1102"},
	{"a word that is none", "  load_balancing: {policy: least_requests}\n", "3:28 MC1103"},
	{"a word in the wrong case", "  security: {mtls: {mode: STRICT}}\n", "3:27 MC1103"},

	// Discovery.
	{"another source", "  discovery: {method: dns}\n", "3:23 MC1103"},
	{"a file source without file", "  discovery: {method: file}\n", "3:3 MC1006"},
	{"a file for Consul", "  discovery: {file: a.yaml}\n", "3:15 MC1105"},
	{"a URL as host", "  discovery: {consul: {host: \"http://consul:8500\"}}\n", "3:30 MC1104"},
	{"an address that is none", "  discovery: {consul: {host: 10.0.0.256}}\n", "3:30 MC1104"},
	{"a root that is no hash", "  security: {mtls: {root: \"sha256:abc\"}}\n", "3:27 MC1104"},
	{"an authority that is not built yet", "  security: {mtls: {ca: {provider: vault}}}\n", "3:36 MC1007"},
	{"an authority of another kind", "  security: {mtls: {ca: {provider: acme}}}\n", "3:36 MC1103"},
	{"half an authority", "  security: {mtls: {ca: {cert_file: /a}}}\n", "3:21 MC1006"},
	{"an authority of files without them", "  security: {mtls: {ca: {provider: files}}}\n", "3:21 MC1006"},
	{"one file for the certificate and its key", "  security: {mtls: {ca: {cert_file: /a, key_file: /a}}}\n", "3:51 MC1105"},
	{"a tag that no filter can say", "  discovery: {consul: {select: {tags: ['a\"b']}}}\n", "3:40 MC1104"},
	{"a pattern that is none", "  discovery: {consul: {select: {exclude: [\"nomad/*\"]}}}\n", "3:43 MC1401"},
	{"another host that is none", "  discovery: {consul: {fallbacks: [\"http://consul\"]}}\n", "3:36 MC1104"},
	{"another host with a port that is none", "  discovery: {consul: {fallbacks: [\"consul:0\"]}}\n", "3:36 MC1104"},
	{"a datacenter with a slash", "  discovery: {consul: {datacenter: dc/1}}\n", "3:36 MC1104"},
	{"a token in the file", "  discovery: {consul: {token: abc}}\n", "3:24 MC1003"},
	{"TLS without https", "  discovery: {consul: {tls: {ca_file: a}}}\n", "3:24 MC1105"},
	{"half a key pair", "  discovery: {consul: {scheme: https, tls: {cert_file: a}}}\n", "3:39 MC1006"},

	// Services and their settings.
	{"an ejection that ends before it begins", "  circuit_breakers: {default: {outlier_detection: {max_ejection_time: 10s}}}\n", "3:71 MC1105"},
	{"the same, against the default", "  services: {a: {outlier_detection: {base_ejection_time: 10m}}}\n", "3:58 MC1105"},
	{"a check that outlasts its interval", "  load_balancing: {health_checks: {timeout: 11s}}\n", "3:45 MC1105"},
	{"an HTTP check without a path", "  load_balancing: {health_checks: {protocol: http}}\n", "3:46 MC1006"},
	{"a path for a TCP check", "  load_balancing: {health_checks: {path: /x}}\n", "3:42 MC1105"},
	{"a path that is none", "  load_balancing: {health_checks: {protocol: http, path: x}}\n", "3:58 MC1504"},
	{"an HTTP check of a TCP service", "  services: {a: {protocol: tcp, health_checks: {protocol: http, path: /}}}\n", "3:59 MC1105"},
	{"health checks inside load_balancing", "  services: {a: {load_balancing: {health_checks: {}}}}\n", "3:35 MC1003"},
	{"a back-off that does not double", "  policies: {retry: {backoff: {multiplier: 1.5}}}\n", "3:44 MC1207"},
	{"a back-off that shrinks", "  policies: {retry: {backoff: {base_interval: 2s, max_interval: 1s}}}\n", "3:65 MC1105"},
	{"an unknown condition", "  policies: {retry: {conditions: [5xx, conect-failure]}}\n", "3:40 MC1208"},
	{"a condition in the wrong case", "  policies: {retry: {conditions: [5XX]}}\n", "3:35 MC1208"},
	{"conditions in one text", "  policies: {retry: {conditions: [\"5xx,reset\"]}}\n", "3:35 MC1208"},
	{"a status that is none", "  policies: {retry: {status_codes: [99]}}\n", "3:37 MC1102"},
	{"a try longer than the request", "  policies: {retry: {timeout: 3s}, timeout: {request: 2s}}\n", "3:55 MC1105"},
	{"the same, for one service", "  policies: {timeout: {request: 2s}}\n  services: {a: {retry: {timeout: 3s}}}\n", "4:35 MC1105"},
	{"a service called control-plane", "  services: {control-plane: {}}\n", "3:14 MC1401"},
	{"a name that is no path segment", "  circuit_breakers: {custom: {\"a/b\": {}}}\n", "3:31 MC1401"},
	{"the name of a proxy's own cluster", "  services: {local_app: {}}\n", "3:14 MC1401"},
	{"a second name as name", "  services: {a.mesh: {}}\n", "3:14 MC1401"},
	{"an upstream in another case", "  services: {Lake: {}, a: {upstreams: [b, lake]}}\n", "3:43 MC1401"},
	{"an upstream with a port in another case", "  services:\n    Lake: {protocol: tcp}\n    a: {upstreams: [{service: LAKE, local_bind_port: 1}]}\n", "5:21 MC1401"},
	{"a source in another case", "  services: {Lake: {}}\n  security: {authorization: {policies: [{name: p, action: DENY, sources: [x, lake]}]}}\n", "4:78 MC1401"},
	{"a destination in another case", "  services: {Lake: {}}\n  security: {authorization: {policies: [{name: p, action: ALLOW, not_destinations: [LAKE]}]}}\n", "4:41 MC1502, 4:85 MC1401"},
	{"a principal in another case", "  services: {Lake: {}}\n  security: {authorization: {policies: [{name: p, action: DENY, principals: [\"spiffe://m/lake\"]}]}}\n", "4:78 MC1401"},
	{"names that differ in case", "  services: {a: {}, A: {}}\n", "3:14 MC1401"},
	{"two claims on one service of Consul", "  services: {a: {consul_service: x}, b: {consul_service: x}}\n", "3:58 MC1402"},
	{"a claim on a service of its own", "  circuit_breakers: {custom: {lake: {}}}\n  services: {lake_service: {consul_service: lake}}\n", "4:45 MC1402"},
	{"an upstream twice", "  services: {a: {upstreams: [b, {service: b}]}}\n", "3:33 MC1403"},
	{"a port for two upstreams", "  services:\n    b: {protocol: tcp}\n    c: {protocol: tcp}\n    a: {upstreams: [{service: b, local_bind_port: 1}, {service: c, local_bind_port: 1}]}\n", "6:55 MC1403"},
	{"an upstream without a name", "  services: {a: {upstreams: [{local_bind_port: 1}]}}\n", "3:30 MC1006"},
	{"a hash of a header that is taken out", "  load_balancing: {policy: maglev, hash_policy: [{header: X-Envoy-Internal}]}\n", "3:59 MC1507"},
	{"a hash of two things", "  load_balancing: {policy: maglev, hash_policy: [{header: x, cookie: y}]}\n", "3:50 MC1105"},
	{"a subset of no service", "  services: {a: {subsets: {stable: {}}, default_subset: stabel}}\n", "3:57 MC1404"},
	{"a default without subsets", "  services: {a: {default_subset: b}}\n", "3:34 MC1404"},
	{"a subset at whose name statistics are cut", "  services: {a: {subsets: {v1.2: {}}}}\n", "3:28 MC1404"},
	{"a subset with a bar in its name", "  services: {a: {subsets: {\"a|b\": {}}}}\n", "3:28 MC1404"},
	{"a version twice", "  services: {a: {subsets: {b: {version: \"1\", meta: {version: \"2\"}}}}}\n", "3:41 MC1105"},
	{"a subset of nothing", "  services: {a: {subsets: {b: {meta: null}}}}\n", "3:32 MC1502"},
	{"a filter that is none", "  services: {a: {subsets: {b: {filter: x}}}}\n", "3:40 MC1507"},
	{"a filter of what no instance has", "  services: {a: {subsets: {b: {filter: 'Service.ID == a or Node.Node == \"x\"'}}}}\n", "3:40 MC1507"},
	{"a filter of a number by a word", "  services: {a: {subsets: {b: {filter: 'Service.Port == http'}}}}\n", "3:40 MC1507"},

	// Telemetry.
	{"an empty tag", "  telemetry: {tracing: {tags: [{key: a, value: \"\"}]}}\n", "3:48 MC1601"},
	{"a tag that its variables leave empty", "  telemetry: {tracing: {tags: [{key: a, value: \"${A:-}${B:-}\"}]}}\n", "3:48 MC1601"},
	{"a tag twice", "  telemetry: {tracing: {tags: [{key: a, value: b}, {key: a, value: c}]}}\n", "3:52 MC1004"},
	{"a tag without a value", "  telemetry: {tracing: {tags: [{key: a}]}}\n", "3:32 MC1006"},
	{"a collector's URL", "  telemetry: {tracing: {endpoint: \"http://jaeger:4317\"}}\n", "3:35 MC1104"},
	{"a collector without a port", "  telemetry: {tracing: {endpoint: jaeger}}\n", "3:35 MC1104"},
	{"two places of the collector", "  telemetry: {tracing: {endpoint: \"a:1\", service: b}}\n", "3:42 MC1105"},
	{"metrics for another system", "  telemetry: {metrics: {provider: statsd}}\n", "3:35 MC1103"},
	{"a metrics path with a query", "  telemetry: {metrics: {path: \"/metrics?x\"}}\n", "3:31 MC1504"},
	{"a provider of access logs to come", "  telemetry: {access_logs: {provider: otlp}}\n", "3:39 MC1007"},
	{"an access log beside the working directory", "  telemetry: {access_logs: {path: log}}\n", "3:35 MC1104"},

	// Security.
	{"certificates that end before they are replaced", "  security: {mtls: {cert_rotation: 24h, cert_ttl: 24h}}\n", "3:51 MC1508"},
	{"a trust domain with capitals", "  security: {mtls: {trust_domain: Mesh}}\n", "3:35 MC1506"},
	{"a trust domain as URL", "  security: {mtls: {trust_domain: \"spiffe://mesh\"}}\n", "3:35 MC1506"},
	{"authorization without mTLS", "  security: {mtls: {enabled: false}, authorization: {enabled: true}}\n", "3:63 MC1505"},
	{"the same, without enabled", "  security: {mtls: {enabled: false}, authorization: {policies: []}}\n", "3:38 MC1505"},
	{"audit as default", "  security: {authorization: {default_action: AUDIT}}\n", "3:46 MC1103"},
}

func TestErrorsNameTheirPlaceAndCode(t *testing.T) {
	const head = "mesh:\n  name: m\n"
	for _, test := range mistakes {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(head + test.text)
			if got := strings.Join(places(problems(t, err)), ", "); got != test.want {
				t.Errorf("got %s, want %s\n%v", got, test.want, err)
			}
		})
	}
}

// refusedPolicies are policies of security.authorization, and what is said of
// each.
var refusedPolicies = []struct{ name, text, code string }{
	{"without a name", `{action: DENY, sources: [a]}`, "MC1006"},
	{"without an action", `{name: p, sources: [a]}`, "MC1006"},
	{"an action in small letters", `{name: p, sources: [a], action: allow}`, "MC1103"},
	{"a name twice", `{name: ok, action: DENY, sources: [a]}`, "MC1503"},
	{"an ALLOW for nobody", `{name: p, action: ALLOW}`, "MC1502"},
	{"an ALLOW for nobody, of a path", `{name: p, action: ALLOW, paths: [/x]}`, "MC1502"},
	{"an ALLOW for an empty list", `{name: p, action: ALLOW, principals: []}`, "MC1502"},
	{"an ALLOW for nothing", `{name: p, action: ALLOW, principals: }`, "MC1502"},
	{"an ALLOW of no method", `{name: p, action: ALLOW, sources: [a], methods: []}`, "MC1502"},
	{"an unknown key", `{name: p, action: DENY, source: [a]}`, "MC1003"},
	{"an unknown mode", `{name: p, action: DENY, sources: [a], mode: dry-run}`, "MC1103"},

	{"everybody of every domain", `{name: p, action: ALLOW, principals: ["*"]}`, "MC1501"},
	{"a star as trust domain", `{name: p, action: ALLOW, principals: ["spiffe://*/a"]}`, "MC1501"},
	{"a star at the trust domain", `{name: p, action: ALLOW, principals: ["spiffe://mesh*"]}`, "MC1501"},
	{"a star in the trust domain", `{name: p, action: ALLOW, principals: ["spiffe://me*sh/a"]}`, "MC1501"},
	{"a trust domain alone", `{name: p, action: ALLOW, principals: ["spiffe://mesh"]}`, "MC1501"},
	{"a trust domain and a slash", `{name: p, action: ALLOW, principals: ["spiffe://mesh/"]}`, "MC1501"},
	{"capitals in the trust domain", `{name: p, action: ALLOW, principals: ["spiffe://Mesh/a"]}`, "MC1501"},
	{"capitals in the scheme", `{name: p, action: ALLOW, principals: ["SPIFFE://mesh/a"]}`, "MC1501"},
	{"another scheme", `{name: p, action: ALLOW, principals: ["https://mesh/a"]}`, "MC1501"},
	{"an escape", `{name: p, action: ALLOW, principals: ["spiffe://mesh/%61"]}`, "MC1501"},
	{"an empty segment", `{name: p, action: ALLOW, principals: ["spiffe://mesh//a"]}`, "MC1501"},
	{"a dot segment", `{name: p, action: ALLOW, principals: ["spiffe://mesh/../a"]}`, "MC1501"},
	{"a query", `{name: p, action: ALLOW, principals: ["spiffe://mesh/a?b"]}`, "MC1501"},
	{"a port", `{name: p, action: ALLOW, principals: ["spiffe://mesh:1/a"]}`, "MC1501"},
	{"a user", `{name: p, action: ALLOW, principals: ["spiffe://u@mesh/a"]}`, "MC1501"},
	{"two stars", `{name: p, action: ALLOW, principals: ["spiffe://mesh/**"]}`, "MC1501"},
	{"a bad exception", `{name: p, action: ALLOW, sources: [a], not_principals: ["mesh/a"]}`, "MC1501"},
	{"principals of two domains", `{name: p, action: ALLOW, principals: ["spiffe://a/x", "spiffe://b/x"]}`, "MC1506"},
	{"a source with a star", `{name: p, action: ALLOW, sources: ["*"]}`, "MC1401"},
	{"a source that is an identity", `{name: p, action: ALLOW, sources: ["spiffe://mesh/a"]}`, "MC1401"},
	{"the control plane as source", `{name: p, action: ALLOW, sources: [control-plane]}`, "MC1401"},

	{"a relative path", `{name: p, action: DENY, paths: [admin]}`, "MC1504"},
	{"a double slash", `{name: p, action: DENY, paths: [//admin]}`, "MC1504"},
	{"a dot", `{name: p, action: DENY, paths: [/./admin]}`, "MC1504"},
	{"two dots", `{name: p, action: DENY, paths: [/a/../admin]}`, "MC1504"},
	{"two dots at the end", `{name: p, action: DENY, paths: [/a/..]}`, "MC1504"},
	{"a backslash", `{name: p, action: DENY, paths: ['/a\b']}`, "MC1504"},
	{"an encoded slash", `{name: p, action: DENY, paths: [/a%2Fb]}`, "MC1504"},
	{"an encoded backslash", `{name: p, action: DENY, paths: [/a%5cb]}`, "MC1504"},
	{"an encoded letter", `{name: p, action: DENY, paths: [/%61dmin]}`, "MC1504"},
	{"a broken escape", `{name: p, action: DENY, paths: [/a%2]}`, "MC1504"},
	{"a query", `{name: p, action: DENY, paths: ["/a?b"]}`, "MC1504"},
	{"a fragment", `{name: p, action: DENY, paths: ["/a#b"]}`, "MC1504"},
	{"a star inside", `{name: p, action: DENY, paths: ["/a/*/b"]}`, "MC1504"},
	{"two stars", `{name: p, action: DENY, paths: ["/a/**"]}`, "MC1504"},
	{"a blank", `{name: p, action: DENY, paths: ["/a b"]}`, "MC1504"},
	{"letters beyond ASCII", `{name: p, action: DENY, paths: ["/ä"]}`, "MC1504"},
	{"a bad exception", `{name: p, action: DENY, not_paths: [//x]}`, "MC1504"},

	{"a method in small letters", `{name: p, action: DENY, methods: [get]}`, "MC1507"},
	{"a method that is nearly one", `{name: p, action: DENY, methods: [PSOT]}`, "MC1507"},
	{"the path as a header", `{name: p, action: DENY, headers: [{name: ":path", exact: /x}]}`, "MC1507"},
	{"the host header", `{name: p, action: DENY, headers: [{name: Host, exact: x}]}`, "MC1507"},
	{"a header that a sidecar takes out", `{name: p, action: DENY, headers: [{name: X-Envoy-Retry-On, present: true}]}`, "MC1507"},
	{"a header of one hop", `{name: p, action: DENY, headers: [{name: Connection, exact: x}]}`, "MC1507"},
	{"a header that a sidecar writes", `{name: p, action: DENY, not_headers: [{name: x-forwarded-client-cert, present: true}]}`, "MC1507"},
	{"a header of a trace", `{name: p, action: AUDIT, headers: [{name: traceparent, suffix: "-01"}]}`, "MC1507"},
	{"the scheme", `{name: p, action: DENY, headers: [{name: ":scheme", exact: http}]}`, "MC1507"},
	{"a host with its port", `{name: p, action: DENY, headers: [{name: ":authority", exact: "lake:80"}]}`, "MC1507"},
	{"an IPv6 host with its port", `{name: p, action: DENY, headers: [{name: ":authority", exact: "[::1]:80"}]}`, "MC1507"},
	{"a host by an expression", `{name: p, action: DENY, headers: [{name: ":authority", regex: "lake.*"}]}`, "MC1507"},
	{"a header's name with a blank", `{name: p, action: DENY, headers: [{name: "x y", exact: x}]}`, "MC1507"},
	{"a header without a condition", `{name: p, action: DENY, headers: [{name: x}]}`, "MC1507"},
	{"a header with two", `{name: p, action: DENY, headers: [{name: x, exact: a, prefix: b}]}`, "MC1507"},
	{"a regular expression that is none", `{name: p, action: DENY, headers: [{name: x, regex: "("}]}`, "MC1507"},
	{"a regular expression that Envoy refuses", `{name: p, action: DENY, headers: [{name: x, regex: "[a-z]{64}-[a-z]{64}"}]}`, "MC1507"},
	{"a star that makes one", `{name: p, action: DENY, principals: ["spiffe://mesh/` + strings.Repeat("a", 100) + `*"]}`, "MC1501"},
	{"a look-ahead", `{name: p, action: DENY, headers: [{name: x, regex: "(?!a)"}]}`, "MC1507"},
	{"a port of 0", `{name: p, action: DENY, ports: [0]}`, "MC1102"},
}

// Each stands in line 5 from column 9.
func TestPoliciesThatAreRefused(t *testing.T) {
	const head = "mesh:\n  name: m\n  security: {authorization: {policies: [\n    {name: ok, action: ALLOW, sources: [a]},\n        "
	for _, test := range refusedPolicies {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(head + test.text + "\n  ]}}\n")
			ps := problems(t, err)
			if !slices.ContainsFunc(ps, func(p policy.Problem) bool { return string(p.Code) == test.code && p.Source.Line == 5 }) {
				t.Errorf("got %v, want %s in line 5", err, test.code)
			}
			if slices.ContainsFunc(ps, func(p policy.Problem) bool { return p.Source.Line != 5 }) {
				t.Errorf("another line is blamed: %v", err)
			}
		})
	}
}
