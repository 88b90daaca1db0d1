package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"datapunk.dev/controlplane/admission"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

func mesh(t testing.TB, text string) *policy.Mesh {
	t.Helper()
	m, err := policy.Parse([]policy.File{{Name: "edit.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func catalog(t testing.TB, text string) *watch.Catalog {
	t.Helper()
	services, err := file.Parse("catalog.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return watch.NewCatalog().Update(services, nil)
}

const three = `services:
  nexus: [{id: n1, address: 10.0.0.1, port: 80, meta: {mesh_port: "15443"}}]
  lake: [{id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}, {id: l2, address: 10.0.0.3, port: 80, meta: {mesh_port: "15443"}}]
  db: [{id: d1, address: 10.0.0.4, port: 5432, meta: {mesh_port: "15443"}}]
`

// planned is what an edit does to the fleet of a catalog.
func planned(t testing.TB, c *watch.Catalog, before, after *policy.Mesh) *plan.Plan {
	t.Helper()
	in := translate.Input{Mesh: before, Catalog: c, Fleet: plan.FleetOf(c, before, after), Roots: []byte(plan.Roots)}
	last := translate.Translate(nil, in)
	in.Mesh = after
	p, err := plan.Compare(last, translate.Translate(last, in))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func edges(p *plan.Plan) string {
	var all []string
	for _, e := range p.Edges {
		all = append(all, fmt.Sprintf("%s→%s %s→%s", strings.Join(e.Callers, ","), e.Callee, e.From, e.To))
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// Nothing is planned of an edit that changes nothing that is served.
func TestAnEditOfCommentsDoesNothing(t *testing.T) {
	c := catalog(t, three)
	p := planned(t, c, mesh(t, "mesh: {name: m}"), mesh(t, "# why\nmesh: {name: m, version: \"2\"}"))
	if !p.Empty() || len(p.Proxies) != 0 {
		t.Errorf("got %+v", p)
	}
}

// A plan names the proxies, the resource and the field, with its line.
func TestAPlanNamesTheFieldAndTheLine(t *testing.T) {
	c := catalog(t, three)
	p := planned(t, c, mesh(t, "mesh: {name: m}"), mesh(t, "mesh:\n  name: m\n  circuit_breakers:\n    custom: {lake: {max_requests: 7}}\n"))
	if len(p.Resources) != 1 || len(p.Proxies) != 4 || len(p.Drains) != 0 || len(p.Edges) != 0 {
		t.Fatalf("got %+v", p)
	}
	r := p.Resources[0]
	if r.Name != "lake" || r.What != plan.Changed || r.Source != "edit.yaml:4:14" || len(r.Fields) != 1 {
		t.Fatalf("got %+v", r)
	}
	if f := r.Fields[0]; !strings.HasSuffix(f.Path, "max_requests") || f.Before != "1024" || f.After != "7" {
		t.Errorf("got %+v", f)
	}
}

// Whose connections end is said.
func TestAChangedListenerDrains(t *testing.T) {
	c := catalog(t, three)
	p := planned(t, c, mesh(t, "mesh: {name: m}"), mesh(t, "mesh: {name: m, telemetry: {access_logs: {path: /var/log/envoy.log}}}"))
	if len(p.Drains) == 0 || len(p.Edges) != 0 {
		t.Errorf("got %+v", p)
	}
}

func authorized(policies string) string {
	return "mesh:\n  name: m\n  services: {db: {protocol: tcp}}\n  security: {authorization: {policies: [" + policies + "]}}\n"
}

// Who may call whom comes from the rules that would be served: over HTTP, by
// conditions, and of TCP.
func TestEdgesThatOpenAndClose(t *testing.T) {
	c := catalog(t, three)
	const all = `{name: all, action: ALLOW, principals: ["spiffe://m/*"]}`
	for _, test := range []struct{ name, before, after, want string }{
		{
			"an ALLOW comes", authorized(`{name: a, action: ALLOW, sources: [x]}`),
			authorized(`{name: a, action: ALLOW, sources: [x]}, {name: b, action: ALLOW, sources: [nexus], destinations: [lake]}`), "nexus→lake closed→open",
		},
		{
			"an ALLOW of a path comes", authorized(`{name: a, action: ALLOW, sources: [x]}`),
			authorized(`{name: a, action: ALLOW, sources: [x]}, {name: b, action: ALLOW, sources: [nexus], destinations: [lake], paths: [/api/*]}`), "nexus→lake closed→by conditions",
		},
		{
			"a DENY comes", authorized(all), authorized(all + `, {name: d, action: DENY, sources: [nexus], destinations: [lake]}`), "nexus→lake open→closed",
		},
		{
			"a DENY by method comes", authorized(all), authorized(all + `, {name: d, action: DENY, sources: [nexus], destinations: [lake], methods: [POST]}`), "nexus→lake open→by conditions",
		},
		{
			"a shadow decides nothing", authorized(all), authorized(all + `, {name: d, action: DENY, mode: shadow, sources: [nexus], destinations: [lake]}`), "",
		},
		{
			"a name of TCP comes", authorized(`{name: a, action: ALLOW, sources: [x]}`),
			authorized(`{name: a, action: ALLOW, sources: [x, nexus], destinations: [db]}, {name: b, action: ALLOW, sources: [x], not_destinations: [db]}`), "nexus→db closed→open",
		},
		{
			"the same in other words", authorized(`{name: a, action: ALLOW, sources: [nexus, lake]}`),
			authorized(`{name: a, action: ALLOW, sources: [nexus]}, {name: b, action: ALLOW, principals: ["spiffe://m/lake"]}`), "",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := edges(planned(t, c, mesh(t, test.before), mesh(t, test.after))); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// Without authorization everybody of the mesh is admitted, and without mTLS everybody.
func TestWhatIsTurnedOffOpens(t *testing.T) {
	c := catalog(t, "services: {lake: [{id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: \"15443\"}}]}")
	on := mesh(t, "mesh: {name: m, security: {authorization: {policies: [{name: a, action: ALLOW, sources: [x]}]}}}")
	p := planned(t, c, on, mesh(t, "mesh: {name: m, security: {mtls: {enabled: false}, authorization: {enabled: false}}}"))
	for _, e := range p.Edges {
		if !e.Opens() || e.To != admission.Always {
			t.Errorf("got %+v", e)
		}
	}
	if !strings.Contains(edges(p), plan.Anybody) {
		t.Errorf("callers without a certificate are not named: %s", edges(p))
	}
	p = planned(t, c, on, mesh(t, "mesh: {name: m, security: {authorization: {enabled: false}}}"))
	if strings.Contains(edges(p), plan.Anybody) || !strings.Contains(edges(p), "lake→lake closed→open") {
		t.Errorf("got %s", edges(p))
	}
}

// big is a mesh of services with upstreams, limits and policies, and its catalog.
func big(t testing.TB, services int, edit string) (*policy.Mesh, *watch.Catalog) {
	var m, c strings.Builder
	m.WriteString("mesh:\n  name: m\n" + edit + "  services:\n")
	c.WriteString("services:\n")
	for i := range services {
		fmt.Fprintf(&m, "    s%04d: {timeout: {request: %ds}}\n", i, 5+i%7)
		if i%2 == 0 {
			fmt.Fprintf(&c, "  s%04d: [{id: i%d, address: 10.0.%d.%d, port: 80, meta: {mesh_port: \"15443\"}}]\n", i, i, i/250, i%250+1)
		}
	}
	return mesh(t, m.String()), catalog(t, c.String())
}

// BenchmarkPlan is an edit that touches a mesh of 1,000 services and 1,000 profiles:
// one service, the policies, every cluster, every listener.
func BenchmarkPlan(b *testing.B) {
	const policies = "  security: {authorization: {policies: [{name: a, action: ALLOW, sources: [s0001, s0002]}%s]}}\n"
	before, c := big(b, 1000, fmt.Sprintf(policies, ""))
	for name, edit := range map[string]string{
		"policy":   fmt.Sprintf(policies, ", {name: b, action: ALLOW, sources: [s0004], destinations: [s0003]}"),
		"clusters": fmt.Sprintf(policies, "") + "  circuit_breakers: {default: {max_requests: 77}}\n",
		"listener": fmt.Sprintf(policies, "") + "  telemetry: {access_logs: {path: /var/log/envoy.log}}\n",
	} {
		b.Run(name, func(b *testing.B) {
			after, _ := big(b, 1000, edit)
			for b.Loop() {
				if planned(b, c, before, after).Empty() {
					b.Fatal("nothing is planned")
				}
			}
		})
	}
}
