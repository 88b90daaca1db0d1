package policy_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"datapunk.dev/controlplane/policy"
)

func loaded(t *testing.T, texts ...string) *policy.Mesh {
	t.Helper()
	var files []policy.File
	for i, text := range texts {
		files = append(files, policy.File{Name: fmt.Sprintf("%d.yaml", i), Data: []byte(text)})
	}
	m, err := policy.Parse(files, policy.Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, texts)
	}
	return m
}

// secured is a mesh file with policies and more below mesh.
func secured(policies string, more ...string) string {
	return "mesh:\n  name: datapunk\n" + strings.Join(more, "") + "  security:\n    authorization:\n      policies:\n" + policies
}

const all = `        - {name: all, action: ALLOW, principals: ["spiffe://datapunk/*"]}
`

func policies(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString("        - {" + line + "}\n")
	}
	return b.String()
}

func TestAnEditOpensWhereItAdmitsWhatWasDenied(t *testing.T) {
	nexus := "name: nexus, action: ALLOW, sources: [nexus], destinations: [lake]"
	for name, c := range map[string]struct {
		last, next string
		opens      bool
	}{
		"the same in other words": {
			secured(policies(`name: a, action: ALLOW, sources: [nexus, web]`)),
			secured(policies(`name: b, action: ALLOW, principals: ["spiffe://datapunk/web", "spiffe://datapunk/nexus"]`)), false,
		},
		"one policy becomes one a caller": {
			secured(policies(`name: a, action: ALLOW, sources: [nexus, web], destinations: [lake, stream]`)),
			secured(policies(`name: b, action: ALLOW, sources: [nexus], destinations: [stream, lake]`, `name: c, action: ALLOW, sources: [web], destinations: [lake]`)), false,
		},
		"several policies become one": {
			secured(policies(`name: b, action: ALLOW, sources: [nexus]`, `name: c, action: ALLOW, sources: [web]`)),
			secured(policies(`name: a, action: ALLOW, sources: [nexus, web]`)), false,
		},
		"another caller":      {secured(policies(nexus)), secured(policies(nexus, `name: web, action: ALLOW, sources: [web], destinations: [lake]`)), true},
		"another destination": {secured(policies(nexus)), secured(policies(`name: nexus, action: ALLOW, sources: [nexus], destinations: [lake, stream]`)), true},
		"every destination":   {secured(policies(nexus)), secured(policies(`name: nexus, action: ALLOW, sources: [nexus]`)), true},
		"one caller less":     {secured(policies(nexus, `name: web, action: ALLOW, sources: [web]`)), secured(policies(nexus)), false},
		"one of all callers":  {secured(all), secured(policies(nexus)), false},
		"all callers":         {secured(policies(nexus)), secured(all), true},
		"more of the path": {
			secured(policies(nexus + `, paths: ["/public/*"]`)), secured(policies(nexus + `, paths: ["/*"]`)), true,
		},
		"less of the path": {
			secured(policies(nexus + `, paths: ["/public/*"]`)), secured(policies(nexus + `, paths: ["/public", "/public/a/*", "/public/b"]`)), false,
		},
		"a path that only begins alike": {
			secured(policies(nexus + `, paths: ["/public/*"]`)), secured(policies(nexus + `, paths: ["/public*"]`)), true,
		},
		"without its method":    {secured(policies(nexus + `, methods: [GET]`)), secured(policies(nexus)), true},
		"another method":        {secured(policies(nexus + `, methods: [GET]`)), secured(policies(nexus + `, methods: [GET, POST]`)), true},
		"with a method":         {secured(policies(nexus)), secured(policies(nexus + `, methods: [GET]`)), false},
		"without its header":    {secured(policies(nexus + `, headers: [{name: x-a, exact: b}]`)), secured(policies(nexus)), true},
		"without an exception":  {secured(policies(nexus + `, not_paths: ["/admin/*"]`)), secured(policies(nexus)), true},
		"with another one":      {secured(policies(nexus + `, not_paths: ["/admin/*"]`)), secured(policies(nexus + `, not_paths: ["/admin/*", "/x"]`)), false},
		"a smaller exception":   {secured(policies(nexus + `, not_paths: ["/admin/*"]`)), secured(policies(nexus + `, not_paths: ["/admin/x"]`)), true},
		"without an excepted":   {secured(policies(`name: a, action: ALLOW, not_sources: [web]`)), secured(all), true},
		"all but one":           {secured(all), secured(policies(`name: a, action: ALLOW, not_sources: [web]`)), false},
		"another port":          {secured(policies(nexus + `, ports: [80]`)), secured(policies(nexus + `, ports: [80, 81]`)), true},
		"a DENY less":           {secured(all + policies(`name: no, action: DENY, sources: [web]`)), secured(all), true},
		"a DENY more":           {secured(all), secured(all + policies(`name: no, action: DENY, sources: [web]`)), false},
		"a wider DENY":          {secured(all + policies(`name: no, action: DENY, sources: [web], paths: [/a]`)), secured(all + policies(`name: never, action: DENY, sources: [web, nexus]`)), false},
		"a narrower DENY":       {secured(all + policies(`name: no, action: DENY, sources: [web]`)), secured(all + policies(`name: no, action: DENY, sources: [web], paths: [/a]`)), true},
		"a DENY with exception": {secured(all + policies(`name: no, action: DENY, paths: ["/a/*"]`)), secured(all + policies(`name: no, action: DENY, paths: ["/a/*"], not_sources: [web]`)), true},
		"a DENY in the shadow":  {secured(all + policies(`name: no, action: DENY, sources: [web]`)), secured(all + policies(`name: no, action: DENY, mode: shadow, sources: [web]`)), true},
		"an ALLOW out of it":    {secured(policies(nexus, `name: w, action: ALLOW, mode: shadow, sources: [web]`)), secured(policies(nexus, `name: w, action: ALLOW, sources: [web]`)), true},
		"an ALLOW into it":      {secured(policies(nexus, `name: w, action: ALLOW, sources: [web]`)), secured(policies(nexus, `name: w, action: ALLOW, mode: shadow, sources: [web]`)), false},
		"an AUDIT":              {secured(all), secured(all + policies(`name: see, action: AUDIT, paths: [/a]`)), false},
		"default_action ALLOW":  {secured(policies(nexus)), strings.Replace(secured(policies(nexus)), "      policies", "      default_action: ALLOW\n      policies", 1), true},
		"and back":              {strings.Replace(secured(policies(nexus)), "      policies", "      default_action: ALLOW\n      policies", 1), secured(all), false},
		"authorization off":     {secured(all), strings.Replace(secured(all), "      policies", "      enabled: false\n      policies", 1), true},
		"authorization gone":    {secured(all), "mesh: {name: datapunk}", true},
		"authorization on":      {"mesh: {name: datapunk}", secured(all), false},
		"mTLS permissive":       {"mesh: {name: datapunk}", "mesh: {name: datapunk, security: {mtls: {mode: permissive}}}", true},
		"mTLS off":              {"mesh: {name: datapunk}", "mesh: {name: datapunk, security: {mtls: {enabled: false}}}", true},
		"mTLS strict":           {"mesh: {name: datapunk, security: {mtls: {mode: permissive}}}", "mesh: {name: datapunk}", false},
		"mTLS on":               {"mesh: {name: datapunk, security: {mtls: {enabled: false}}}", "mesh: {name: datapunk}", false},
		"an active check":       {secured(policies(nexus)), secured(policies(nexus), "  load_balancing: {health_checks: {protocol: http, path: /health}}\n"), true},
		"one of another path": {
			secured(policies(nexus), "  services: {lake: {health_checks: {protocol: http, path: /health}}}\n"),
			secured(policies(nexus), "  services: {lake: {health_checks: {protocol: http, path: /admin}}}\n"), true,
		},
		"one less": {
			secured(policies(nexus), "  services: {lake: {health_checks: {protocol: http, path: /health}}}\n"),
			secured(policies(nexus), "  services: {lake: {}}\n"), false,
		},
		"TCP becomes HTTP": {
			secured(all, "  services: {lake: {protocol: tcp}}\n"), secured(all, "  services: {lake: {}}\n"), true,
		},
		"a limit": {secured(all), secured(all, "  circuit_breakers: {default: {max_requests: 7}}\n"), false},
	} {
		t.Run(name, func(t *testing.T) {
			why := policy.Opened(loaded(t, c.last), loaded(t, c.next))
			if (len(why) > 0) != c.opens {
				t.Errorf("opens: %q, want %v", why, c.opens)
			}
			for _, w := range why {
				if !strings.HasPrefix(w, "0.yaml:") {
					t.Errorf("%q does not name its line", w)
				}
			}
		})
	}
}

func TestAnEditRemovesMuchWhereLittleIsLeft(t *testing.T) {
	services := func(n int) string {
		var b strings.Builder
		b.WriteString("mesh:\n  name: datapunk\n  services:\n    first: {}\n")
		for i := range n {
			fmt.Fprintf(&b, "    s%d: {upstreams: [first]}\n", i)
		}
		return b.String()
	}
	three := policies(`name: a, action: ALLOW, sources: [a]`, `name: b, action: ALLOW, sources: [b]`, `name: c, action: ALLOW, sources: [c]`)
	for name, c := range map[string]struct {
		last, next string
		want       string // in what is said; "": nothing
	}{
		"one of many services":       {services(9), services(8), ""},
		"two of nine":                {services(9), services(7), ""},
		"four of nine":               {services(9), services(5), "services are left of"},
		"all":                        {services(9), "mesh: {name: datapunk}", "0 services are left of 10"},
		"one policy of three":        {secured(three), secured(strings.Join(strings.SplitAfter(three, "\n")[:2], "")), ""},
		"no policy":                  {secured(all), "mesh: {name: datapunk, security: {authorization: {policies: []}}}", "0 policies are left of 1"},
		"another policy":             {secured(all), secured(policies(`name: a, action: ALLOW, sources: [a]`)), ""},
		"no upstream of one service": {services(9), strings.Replace(services(9), "s1: {upstreams: [first]}", "s1: {upstreams: []}", 1), "s1 calls nobody any more"},
		"another upstream":           {services(9), strings.Replace(services(9), "s1: {upstreams: [first]}", "s1: {upstreams: [s2]}", 1), ""},
		"the last limits":            {"mesh: {name: a, circuit_breakers: {custom: {x: {max_requests: 2}}}}", "mesh: {name: a, circuit_breakers: {custom: {x: {}}}}", "0 circuit breakers of single services are left of 1"},
		"most of the file":           {"mesh: {name: a, telemetry: {metrics: {path: /m}, access_logs: {path: /x, format: text}}, policies: {retry: {attempts: 1}}}", "mesh: {name: a, version: '2'}", "keys of the file are left"},
	} {
		t.Run(name, func(t *testing.T) {
			why := strings.Join(policy.Removed(loaded(t, c.last), loaded(t, c.next)), "; ")
			if (why == "") != (c.want == "") || !strings.Contains(why, c.want) {
				t.Errorf("removes %q, want %q", why, c.want)
			}
		})
	}
}

// However a file is cut, what is there of it is not taken for an edit.
func TestNoCutOfTheOperatorsFileIsAnEdit(t *testing.T) {
	text, err := os.ReadFile(operators)
	if err != nil {
		t.Fatal(err)
	}
	whole := loaded(t, string(text))
	lines, load := bytes.SplitAfter(text, []byte("\n")), 0
	for n := range lines {
		cut := bytes.Join(lines[:n], nil)
		m, err := policy.Parse([]policy.File{{Name: "0.yaml", Data: cut}}, policy.Options{})
		if err != nil || len(cut) == len(text) {
			continue
		}
		load++
		h := policy.Judge(whole, m)
		if h == nil || h.Beginning != "0.yaml" {
			t.Errorf("the first %d lines are taken for an edit: %v", n, h)
		}
	}
	if load < 50 {
		t.Errorf("%d of %d cuts load: this shows little", load, len(lines))
	}
}

func TestABeginningIsNoEditWhicheverFileIsCut(t *testing.T) {
	base, overlay := "mesh: {name: a}\n", "mesh:\n  version: '1'\n  telemetry: {metrics: {path: /m}}\n"
	whole := loaded(t, base, overlay)
	cut := loaded(t, base, "mesh:\n  version: '1'\n")
	if h := policy.Judge(whole, cut); h == nil || h.Beginning != "1.yaml" {
		t.Errorf("got %+v", h)
	}
	if h := policy.Judge(whole, loaded(t, base, strings.TrimSuffix(overlay, "\n"))); h != nil {
		t.Errorf("a line's end is gone, and it waits: %+v", h)
	}
	// As soon as it is no beginning any more, it is an edit like any other.
	if h := policy.Judge(whole, loaded(t, base, "mesh:\n  version: '1'\n# Without metrics.\n")); h != nil && h.Beginning != "" {
		t.Errorf("got %+v", h)
	}
	// What means nothing may be cut.
	commented := loaded(t, base, overlay+"\n\n# The end.\n")
	if h := policy.Judge(commented, whole); h != nil {
		t.Errorf("blank lines and a comment are gone, and it waits: %+v", h)
	}
}
