package main

import (
	"strings"
	"testing"
)

// What becomes of a call, and what is in force, is asked of the control plane.
func TestARunningControlPlaneSaysWhy(t *testing.T) {
	s := startServe(t, "mesh: {name: datapunk, discovery: {method: file, file: %s/catalog.yaml}, security: {authorization: {policies: [{name: p, action: ALLOW, sources: [shop]}]}}}")
	address := strings.TrimPrefix(s.url, "http://")
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"why shop web", 0, "an application of web answers GET /"},
		{"why shop web -o json", 0, `"outcome": "passes"`},
		{"why other web --method post", 2, "no policy admits POST / of other to web (MC3005)"},
		{"why shop wed", 2, "did you mean web?"},
		{"why shop web --path x", 1, "begins with a slash"},
		{"describe service web", 0, "web-1     127.0.0.1:18080  passing"},
		{"describe policy p", 0, "acts on calls to: web"},
		{"describe service wed", 1, "did you mean web?"},
		{"describe proxy web-1", 1, "no proxy web-1 is connected to this replica"},
	} {
		out, messages, code := s.answerOf(append(strings.Fields(test.args), "--admin-address", address)...)
		if code != test.code || !strings.Contains(out+messages, test.want) {
			t.Errorf("%s: exit code %d\n%s%s\nwant %d and %q", test.args, code, out, messages, test.code, test.want)
		}
	}
}
