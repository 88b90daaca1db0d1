package why_test

import (
	"strings"
	"testing"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/why"
)

// What a callee's rate limits let pass is said with the line of each; the call is
// allowed all the same.
func TestTheLimitsOnTheWay(t *testing.T) {
	const catalog = `services:
  nexus: [{id: n1, address: 10.0.0.1, port: 80, meta: {mesh_port: "15443"}}]
  forge: [{id: f1, address: 10.0.0.9, port: 80, meta: {mesh_port: "15443"}}]
  lake:
    - {id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}
    - {id: l2, address: 10.0.0.3, port: 80, meta: {mesh_port: "15443"}}
`
	for _, c := range []struct {
		what, limits, from, path string
		says                     []string // of the steps
		silent                   []string // what is not said
		ends                     string
	}{
		{
			what: "by caller, and all", from: "nexus",
			limits: `{requests: 100, burst: 200, callers: {nexus: {requests: 5}, "*": {requests: 50, interval: 1m}}}`,
			says: []string{
				"rate limit: each instance of lake takes 5 a second of nexus, and 5 at one time [mesh.yaml:6:70]",
				"rate limit: each instance of lake takes 100 a second of all callers together, and 200 at one time [mesh.yaml:6:25]",
			},
			ends: "an application of lake answers GET /, up to 5 a second of nexus at each instance, and 100 a second of all callers together at each instance; more is answered 429 (MC3017)",
		},
		{
			what: "one of the others", from: "forge",
			limits: `{status: 503, callers: {nexus: {requests: 5}, "*": {requests: 50, interval: 1m}}}`,
			says:   []string{"each instance of lake takes 50 in 1m of forge, and 50 at one time [mesh.yaml:6:76]"},
			silent: []string{"nexus", "all callers"},
			ends:   "up to 50 in 1m of forge at each instance; more is answered 503 (MC3017)",
		},
		{
			what: "of the service", from: "nexus", limits: `{requests: 100, per: service}`,
			says: []string{"each instance of lake, its part of what all take together, takes 100 in 2s of all callers together, and 50 at one time"},
			ends: "up to 100 in 2s of all callers together at each instance; more is answered 429",
		},
		{
			what: "a shadow", from: "nexus", limits: `{requests: 100, mode: shadow}`,
			says: []string{"and 100 at one time; what is more is counted, and refused to nobody: mode is shadow"},
			ends: "an application of lake answers GET /",
		},
		{
			what: "by a server", from: "nexus", limits: `{per: global}`,
			says: []string{
				"rate limit: the server limits counts for all instances, in the domain m: how many pass is in its own configuration [mesh.yaml:6:25]",
				"  if it says nothing within 50ms, the call goes on without a limit (mesh.yaml:4:18)",
			},
			ends: "up to as many as the server limits lets pass; more is answered 429 (MC3017)",
		},
		{
			what: "by a server, in shadow, beside its own", from: "nexus", limits: `{requests: 7, per: global, mode: shadow}`,
			says: []string{"each instance of lake takes 7 a second", "the server limits counts for all instances, in the domain m: how many pass is in its own configuration; what is more is counted"},
			ends: "an application of lake answers GET /",
		},
		{
			what: "the path of a check", from: "nexus", path: "/health", limits: `{requests: 100}, health_checks: {protocol: http, path: /health}`,
			says: []string{"rate limit: no rate limit holds for the path of an active check"}, silent: []string{"100"},
			ends: "an application of lake answers GET /health",
		},
		{what: "none", from: "nexus", limits: `{mode: off}`, silent: []string{"rate limit"}, ends: "an application of lake answers GET /"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := snapshot(t, `mesh:
  name: m
  policies:
    rate_limit: {server: {service: limits}}
  services:
    lake: {rate_limit: `+c.limits+`}
    limits: {protocol: grpc}
  security: {authorization: {policies: [{name: all, action: ALLOW, sources: [nexus, forge]}]}}
`, catalog)
			path := c.path
			if path == "" {
				path = "/"
			}
			v, err := why.Of(s, why.Call{From: c.from, To: "lake", Method: "GET", Path: path})
			if err != nil {
				t.Fatal(err)
			}
			got := steps(v)
			for _, want := range c.says {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not said:\n%s", want, got)
				}
			}
			_, after, _ := strings.Cut(got, "authorization:")
			for _, not := range c.silent {
				if strings.Contains(after, not) {
					t.Errorf("%q is said:\n%s", not, after)
				}
			}
			if !strings.HasSuffix(v.End.Says, c.ends) && !strings.HasSuffix(v.End.Says, c.ends+" (MC3017)") || v.End.Outcome != api.Passes {
				t.Errorf("it ends: %s %s\nwant %s", v.End.Outcome, v.End.Says, c.ends)
			}
		})
	}
}
