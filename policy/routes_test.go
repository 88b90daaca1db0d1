package policy_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
)

// A route is read whole, with what it does not say from its service.
func TestARoute(t *testing.T) {
	m := load(t, `
mesh:
  name: m
  services:
    lake:
      subsets: {stable: {}, canary: {}}
      default_subset: stable
      retry: {attempts: 5, conditions: [connect-failure]}
      timeout: {stream_idle: 7m}
  routes:
    - name: api
      service: lake
      match: [{path: {prefix: /api}, methods: [GET], headers: [{name: X-Tenant, exact: acme, invert: true}], query: [{name: v, present: true}]}]
      rewrite: {prefix: /}
      split: [{subset: stable, weight: 95}, {service: other, weight: 5, headers: {response: {remove: [Server]}}}]
      mirror: {subset: canary, percent: 10}
      headers: {request: {set: {X-Mesh: "on"}}}
      timeout: {request: 3s}
      retry: {attempts: 1}
    - {name: testers, service: lake, match: [{grpc: {service: a.B}}], split: [{subset: canary}], on_empty_subset: fail}
`)
	s := m.Service("lake")
	if len(s.Routes) != 2 {
		t.Fatalf("%d routes", len(s.Routes))
	}
	r, three, yes, acme := s.Routes[0], 3*time.Second, true, "acme"
	for _, c := range []struct{ got, want any }{
		{r.Match, []policy.RouteMatch{{
			Path: policy.PathMatch{Prefix: "/api"}, Methods: []string{"GET"},
			Headers: []policy.HeaderMatch{{Name: "x-tenant", Exact: &acme, Invert: true}}, Query: []policy.QueryMatch{{Name: "v", Present: &yes}},
		}}},
		{r.Rewrite, &policy.Rewrite{Prefix: "/"}},
		{r.Split, []policy.Share{
			{Service: "lake", Subset: "stable", OnEmpty: policy.Redistribute, Weight: 95},
			{Service: "other", OnEmpty: policy.Redistribute, Weight: 5, Headers: policy.HeaderEdits{Response: policy.HeaderEdit{Remove: []string{"server"}}}},
		}},
		{r.Mirror, &policy.Mirror{Service: "lake", Subset: "canary", Percent: 10}},
		{r.Headers, policy.HeaderEdits{Request: policy.HeaderEdit{Set: map[string]string{"x-mesh": "on"}}}},
		{r.Timeout.Request, &three},
		{r.Timeout.StreamIdle, 7 * time.Minute},
		{r.Retry.Attempts, uint32(1)},
		{r.Retry.Conditions, []string{"connect-failure"}},
		{s.Routes[1].Match[0].GRPC, &policy.GRPCMatch{Service: "a.B"}},
		{s.Routes[1].Split, []policy.Share{{Service: "lake", Subset: "canary", OnEmpty: policy.Fail, Weight: 100}}},
		{s.Fallbacks, []string{"stable"}}, // nothing leads to canary that is not to fail
		{s.FallbackTries, uint32(6)},
		{r.Key, "routes[0]"},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("got  %+v\nwant %+v", c.got, c.want)
		}
	}
	if at := m.Source(r.Key); at.Line != 11 {
		t.Errorf("it stands in line %d", at.Line)
	}
	if m.Service("other").Name != "other" || !strings.Contains(strings.Join(m.Names(), " "), "other") {
		t.Errorf("the file has %q", m.Names())
	}
}

// What a route says and cannot have is an error with its line, or a warning.
func TestWhatIsWrongWithRoutes(t *testing.T) {
	const head = `mesh:
  name: m
  services: {lake: {subsets: {stable: {}, canary: {}}, default_subset: stable}, db: {protocol: tcp}}
  security: {authorization: {policies: [{name: all, action: ALLOW, sources: [lake]}, {name: no-admin, action: DENY, paths: ["/admin/*", "/old/secret"]}, {name: but-public, action: DENY, destinations: [web], paths: ["/a/*"], not_paths: ["/a/pub/*"]}]}}
  routes:
`
	for _, test := range []struct{ name, text, want string }{
		{"a name twice", "    - {name: a, service: lake, match: [{path: {exact: /a}}]}\n    - {name: a, service: lake}\n", "7:14 MC1701"},
		{"no name", "    - {service: lake}\n", "6:7 MC1006"},
		{"no service", "    - {name: a}\n", "6:7 MC1006"},
		{"a service of TCP", "    - {name: a, service: db}\n", "6:26 MC1702"},
		{"shares of 99", "    - {name: a, service: lake, split: [{subset: stable, weight: 95}, {subset: canary, weight: 4}]}\n", "6:32 MC1703"},
		{"shares of 101", "    - {name: a, service: lake, split: [{subset: stable, weight: 95}, {subset: canary, weight: 6}]}\n", "6:32 MC1703"},
		{"a share twice", "    - {name: a, service: lake, split: [{subset: stable, weight: 50}, {weight: 50, service: lake}]}\n", "6:70 MC1703"},
		{"no shares", "    - {name: a, service: lake, split: []}\n", "6:32 MC1703"},
		{"a share of TCP", "    - {name: a, service: lake, split: [{service: db}]}\n", "6:50 MC1702"},
		{"no such subset", "    - {name: a, service: lake, split: [{subset: canari}]}\n", "6:49 MC1404"},
		{"a copy for TCP", "    - {name: a, service: lake, mirror: {service: db}}\n", "6:50 MC1702"},
		{"a copy for nobody", "    - {name: a, service: lake, mirror: {percent: 5}}\n", "6:32 MC1006"},
		{"a copy of no request", "    - {name: a, service: lake, mirror: {service: shadow, percent: 0}}\n", "6:67 MC2107"},
		{"a copy for those who have it", "    - {name: a, service: lake, mirror: {service: lake}}\n", "6:50 MC2107"},
		{"a copy without end", "    - {name: a, service: lake, mirror: {service: shadow}, timeout: {request: 0s}}\n", "6:32 MC1105"},
		{"a path by two", "    - {name: a, service: lake, match: [{path: {exact: /a, prefix: /b}}]}\n", "6:41 MC1507"},
		{"a path that no request has", "    - {name: a, service: lake, match: [{path: {prefix: /a//b}}]}\n", "6:56 MC1504"},
		{"a template of nothing", "    - {name: a, service: lake, match: [{path: {template: \"/a/{}\"}}]}\n", "6:58 MC1504"},
		{"a regex that is none", "    - {name: a, service: lake, match: [{path: {regex: \"(\"}}]}\n", "6:55 MC1507"},
		{"two answers", "    - {name: a, service: lake, redirect: {path: /a}, direct_response: {status: 200}}\n", "6:54 MC1105"},
		{"a redirect to the same", "    - {name: a, service: lake, redirect: {status: 302}}\n", "6:32 MC1006"},
		{"no redirect", "    - {name: a, service: lake, redirect: {path: /a, status: 304}}\n", "6:61 MC1102"},
		{"a prefix of no prefix", "    - {name: a, service: lake, match: [{path: {regex: /a}}], rewrite: {prefix: /b}}\n", "6:80 MC1105"},
		{"a header of messages", "    - {name: a, service: lake, headers: {request: {set: {Content-Length: \"1\"}}}}\n", "6:58 MC1704"},
		{"a host", "    - {name: a, service: lake, headers: {request: {set: {host: x}}}}\n", "6:58 MC1704"},
		{"a part of the request line", "    - {name: a, service: lake, headers: {request: {set: {\":path\": x}}}}\n", "6:58 MC1704"},
		{"no name of a header", "    - {name: a, service: lake, headers: {response: {remove: [\"a b\"]}}}\n", "6:62 MC1704"},
		{"an answer that never ends", "    - {name: a, service: lake, headers: {response: {remove: [content-length]}}}\n", "6:62 MC1704"},
		{"a value in two lines", "    - {name: a, service: lake, headers: {request: {add: {x-a: \"a\\nb\"}}}}\n", "6:63 MC1704"},
		{"an identity", "    - {name: a, service: lake, headers: {request: {set: {x-forwarded-client-cert: x}}}}\n", "6:58 MC1704"},
		{"a fault of no time", "    - {name: a, service: lake, fault: {delay: {duration: 0s}}}\n", "6:58 MC1102"},
		{"two aborts", "    - {name: a, service: lake, fault: {abort: {status: 503, grpc_status: 14}}}\n", "6:40 MC1105"},
		{"what there will be", "    - {name: a, service: lake, rate_limit: {}}\n", "6:32 MC1007"},
		{"a route behind all", "    - {name: a, service: lake}\n    - {name: b, service: lake, match: [{path: {exact: /x}}]}\n", "7:14 MC2117"},
		{"a route behind a prefix", "    - {name: a, service: lake, match: [{path: {prefix: /api/}}]}\n    - {name: b, service: lake, match: [{path: {exact: /api}}, {path: {template: \"/api/{x}\"}, methods: [GET]}]}\n", "7:14 MC2117"},
		{"a route beside a prefix", "    - {name: a, service: lake, match: [{path: {prefix: /api}}]}\n    - {name: b, service: lake, match: [{path: {exact: /apis}}]}\n", ""},
		{"a route before a narrower one", "    - {name: a, service: lake, match: [{headers: [{name: x, exact: y}]}]}\n    - {name: b, service: lake, match: [{path: {exact: /apis}}]}\n", ""},
		{"a call behind its service", "    - {name: a, service: lake, match: [{grpc: {service: a.B}}]}\n    - {name: b, service: lake, match: [{grpc: {service: a.B, method: C}}]}\n", "7:14 MC2117"},
		{"routes of two services", "    - {name: a, service: lake}\n    - {name: b, service: web}\n", ""},
		{"a rewrite around a DENY", "    - {name: a, service: lake, match: [{path: {prefix: /admin}}], rewrite: {prefix: /x}}\n", "6:85 MC2118"},
		{"a rewrite around a DENY, from above", "    - {name: a, service: lake, rewrite: {prefix: /v2}}\n", "6:50 MC2118"},
		{"a rewrite of one denied path", "    - {name: a, service: lake, match: [{path: {exact: /old/secret}}], rewrite: {prefix: /public}}\n", "6:89 MC2118"},
		{"a rewrite that a regex makes", "    - {name: a, service: lake, match: [{path: {prefix: /admin/x}}], rewrite: {regex: admin, substitution: x}}\n", "6:86 MC2118"},
		{"a rewrite within a DENY", "    - {name: a, service: lake, match: [{path: {prefix: /admin/x}}], rewrite: {prefix: /admin/y}}\n", ""},
		{"a rewrite around a DENY, in another case", "    - {name: a, service: lake, match: [{path: {prefix: /Admin}}], rewrite: {prefix: /x}}\n", "6:85 MC2118"},
		{"a rewrite to what a DENY excepts", "    - {name: a, service: web, match: [{path: {prefix: /a/x}}], rewrite: {prefix: /a/pub}}\n", "6:82 MC2118"},
		{"a rewrite above what a DENY excepts", "    - {name: a, service: web, match: [{path: {prefix: /a/x}}], rewrite: {prefix: /a}}\n", "6:82 MC2118"},
		{"a rewrite of what a DENY excepts", "    - {name: a, service: web, match: [{path: {prefix: /a/pub/x}}], rewrite: {prefix: /b}}\n", ""},
		{"a rewrite for a share that has the DENY", "    - {name: a, service: lake, split: [{service: web, weight: 100}], match: [{path: {prefix: /a/x}}], rewrite: {prefix: /b}}\n", "6:121 MC2118"},
		{"a rewrite of the prefix of any call of gRPC", "    - {name: a, service: lake, match: [{path: {prefix: /api}, grpc: {}}], rewrite: {prefix: /x}}\n", ""},
		{"a rewrite beside a DENY", "    - {name: a, service: lake, match: [{path: {prefix: /api}}], rewrite: {prefix: /}}\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := parse(head + test.text)
			found := problems(t, err)
			if err == nil {
				found = m.Warnings
			}
			if got := strings.Join(places(found), ", "); got != test.want {
				t.Errorf("got %s, want %s\n%v", got, test.want, found)
			}
		})
	}
}
