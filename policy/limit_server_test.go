package policy_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
)

// A server that counts is a service of the mesh, or is at an address; what is counted by
// it may be bounded by each instance too.
func TestAServerOfLimits(t *testing.T) {
	m := load(t, `
mesh:
  name: shop
  policies:
    rate_limit:
      server: {service: limits}
      default: {per: global}
      custom: {lake: {requests: 200, mode: shadow}, quiet: {mode: off}}
  services: {limits: {protocol: grpc}, db: {protocol: tcp}}
`)
	want := policy.LimitServer{Service: "limits", Domain: "shop", Timeout: 50 * time.Millisecond, OnFailure: policy.AllowOnFailure}
	if m.LimitServer != want {
		t.Errorf("the server: %+v, want %+v", m.LimitServer, want)
	}
	for name, want := range map[string]struct{ counted, local bool }{
		"any": {counted: true}, "lake": {counted: true, local: true}, "quiet": {}, "db": {}, "limits": {},
	} {
		r := m.Service(name).RateLimit
		if counted := m.LimitServer.Counts(name, r); counted != want.counted || r.Local() != want.local {
			t.Errorf("%s: counted by the server %v, by its instances %v", name, counted, r.Local())
		}
	}

	root, err := os.ReadFile("../features/testdata/root.pem")
	if err != nil {
		t.Fatal(err)
	}
	pem := strings.ReplaceAll(strings.TrimSpace(string(root)), "\n", "\n          ")
	m = load(t, `
mesh:
  name: shop
  policies:
    rate_limit:
      server:
        address: limits.example:8081
        domain: all
        timeout: 5ms
        on_failure: deny
        tls:
          server_name: limits
          ca: |
          `+"  "+strings.ReplaceAll(pem, "          ", "            ")+`
`)
	if s := m.LimitServer; s.Address != "limits.example:8081" || s.Domain != "all" || s.Timeout != 5*time.Millisecond || s.OnFailure != policy.DenyOnFailure ||
		s.TLS == nil || s.TLS.ServerName != "limits" || !strings.HasPrefix(s.TLS.CA, "-----BEGIN CERTIFICATE-----") {
		t.Errorf("the server: %+v", s)
	}
}

// What would leave a limit without anybody who counts is an error.
func TestAServerOfLimitsThatCannotCount(t *testing.T) {
	for text, code := range map[string]policy.Code{
		`policies: {rate_limit: {default: {per: global}}}`:                                                                                policy.CodeMissing,
		`services: {lake: {rate_limit: {per: global}}}`:                                                                                   policy.CodeMissing,
		`policies: {rate_limit: {server: {domain: a}}}`:                                                                                   policy.CodeMissing,
		`policies: {rate_limit: {server: {address: "a:1", service: limits}}}, services: {limits: {protocol: grpc}}`:                       policy.CodeConflict,
		`policies: {rate_limit: {server: {service: limits}}}`:                                                                             policy.CodeConflict,
		`policies: {rate_limit: {server: {service: limits}, custom: {limits: {per: global}}}}, services: {limits: {protocol: grpc}}`:      policy.CodeConflict,
		`policies: {rate_limit: {server: {service: limits, tls: {ca: a}}}}, services: {limits: {protocol: grpc}}`:                         policy.CodeValue,
		`policies: {rate_limit: {server: {address: "a:1", tls: {}}}}`:                                                                     policy.CodeMissing,
		`policies: {rate_limit: {server: {address: "a:1", timeout: 0s}}}`:                                                                 policy.CodeRange,
		`policies: {rate_limit: {server: {address: "a:1", on_failure: maybe}}}`:                                                           policy.CodeWord,
		`policies: {rate_limit: {server: {address: "a"}}}`:                                                                                policy.CodeValue,
		`policies: {rate_limit: {server: {address: "a:1", tls: {ca: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}}}}`: policy.CodeValue,
		`policies: {rate_limit: {server: {service: mesh_rate_limit}}}`:                                                                    policy.CodeServiceName,
	} {
		_, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte("mesh: {name: m, " + text + "}\n")}}, policy.Options{})
		ps, _ := err.(policy.Problems) //nolint:errorlint // Parse wraps nothing
		if !slices.ContainsFunc(ps, func(p policy.Problem) bool { return p.Code == code && !p.Warning() }) {
			t.Errorf("%s: %v, want %s", text, err, code)
		}
	}
}
