package why_test

import (
	"fmt"
	"strings"
	"testing"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/internal/randommesh"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
	"datapunk.dev/controlplane/why"
)

// snapshot is what the fleet of a mesh file and a catalog is served.
func snapshot(t testing.TB, text, catalog string) *translate.Snapshot {
	t.Helper()
	m, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	services, err := file.Parse("catalog.yaml", []byte(catalog))
	if err != nil {
		t.Fatalf("%v\n%s", err, catalog)
	}
	c := watch.NewCatalog().Update(services, nil)
	fleet := plan.FleetOf(c, m)
	if !fleet.HasService("nexus") {
		fleet = fleet.Update([]resource.Profile{plan.Sidecar("nexus")}, nil)
	}
	return translate.Translate(nil, translate.Input{Mesh: m, Catalog: c, Fleet: fleet, Roots: []byte(plan.Roots)})
}

// Of two thousand random meshes and ten thousand calls, what is said is what the plainest
// of models says.
func TestRandomMeshesAndCalls(t *testing.T) {
	count := make(map[string]int)
	for seed := range uint64(2000) {
		m := randommesh.New(seed)
		text := strings.ReplaceAll(m.Text(), randommesh.DBPort, "15432")
		s := snapshot(t, text, m.Catalog(randommesh.Places()))
		for _, c := range randommesh.Calls(seed, 5) {
			v, err := why.Of(s, call(c))
			if err != nil {
				t.Fatalf("%v\n%s\n%s", err, c, text)
			}
			want := m.Ends(c)
			for _, e := range want {
				count[e.Code]++
			}
			if got := ends(v); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d: %s\ngot  %+v\nwant %+v\nsaid %s\n%s%s", seed, c, got, want, v.End.Sentence(), text, m.Catalog(randommesh.Places()))
			}
		}
	}
	for _, code := range []string{"", "MC3001", "MC3002", "MC3003", "MC3005", "MC3006", "MC3007", "MC3009", "MC3011"} {
		if count[code] < 50 {
			t.Errorf("%d calls end with %q: too few to say anything", count[code], code)
		}
	}
}

func call(c randommesh.Call) why.Call {
	made := why.Call{From: "nexus", To: c.To, Method: c.Method, Path: c.Path, Host: c.Host, Headers: map[string]string{}}
	if name, value, ok := strings.Cut(c.Header, "="); ok {
		made.Headers[name] = value
	}
	return made
}

// ends are the ways of a verdict in the model's words.
func ends(v *why.Verdict) []randommesh.End {
	one := func(e why.End) randommesh.End {
		end := randommesh.End{Status: e.Status, Code: e.Code, App: e.Outcome == api.Passes, Path: e.Path}
		if end.App && v.Protocol == "http" {
			end.Status = 200
		}
		return end
	}
	if len(v.Ways) == 0 {
		return []randommesh.End{one(v.End)}
	}
	var all []randommesh.End
	for _, w := range v.Ways {
		all = append(all, one(w.End))
	}
	return all
}

// What is looked at on the way has its line, and each instance that is out has its reason.
func TestTheStepsOfACall(t *testing.T) {
	const catalog = `services:
  nexus: [{id: n1, address: 10.0.0.1, port: 80, meta: {mesh_port: "15443"}}]
  lake:
    - {id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}
    - {id: l2, address: 10.0.0.3, port: 80, meta: {mesh_port: "15443"}, health: critical}
    - {id: l3, address: 10.0.0.4, port: 80, meta: {mesh_port: "15443"}, health: maintenance}
    - {id: l4, address: 10.0.0.5, port: 80, meta: {mesh_port: "15443"}, weight: 0}
    - {id: l5, address: 10.0.0.6, port: 80}
`
	s := snapshot(t, `mesh:
  name: m
  load_balancing: {panic_threshold: 0}
  services: {lake: {}}
  routes:
    - {name: api, service: lake, match: [{path: {prefix: /api}}], rewrite: {prefix: /v1}}
  security:
    authorization:
      policies:
        - {name: reads, action: ALLOW, sources: [nexus], methods: [GET], paths: [/v1/*]}
`, catalog)
	v, err := why.Of(s, why.Call{From: "nexus", To: "lake", Method: "GET", Path: "/api/x?y"})
	if err != nil {
		t.Fatal(err)
	}
	got := steps(v)
	for _, want := range []string{
		"route: api, of prefix /api [mesh.yaml:6:7]",
		"endpoints: cluster lake: 1 of 5 instances may be called",
		"  l1 at 10.0.0.2:15443: healthy",
		"  l2 at 10.0.0.3:15443: the catalog says that it is critical",
		"  l3 is left out: it is in maintenance",
		"  l4 is left out: it has weight 0",
		"  l5 is left out: it has no meta mesh_port, and mTLS is strict",
		"tls: mTLS, as spiffe://m/nexus, to spiffe://m/lake",
		"authorization: admitted by reads [mesh.yaml:10:11]",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not said:\n%s", want, got)
		}
	}
	if v.End.Outcome != api.Passes || v.End.Path != "/v1/x?y" || !v.End.Good() {
		t.Errorf("got %+v", v.End)
	}
	v, err = why.Of(s, why.Call{From: "nexus", To: "lake", Method: "POST", Path: "/api/x"})
	if err != nil {
		t.Fatal(err)
	}
	if got := steps(v); v.End.Status != 403 || v.End.Good() || !strings.Contains(got, "policy reads (mesh.yaml:10:11) is of this caller") {
		t.Errorf("got %+v\n%s", v.End, got)
	}
}

// Where a rule says how many of a datacenter are to be healthy, its last healthy one
// takes fewer calls than Envoy would give it by itself.
func TestCallsGoOnToAnotherDatacenter(t *testing.T) {
	const catalog = `services:
  nexus: [{id: n1, address: 10.0.0.1, port: 80, datacenter: dc1, meta: {mesh_port: "15443"}}]
  lake:
    - {id: l1, address: 10.0.0.2, port: 80, datacenter: dc1}
    - {id: l2, address: 10.0.0.3, port: 80, datacenter: dc1}
    - {id: l3, address: 10.0.0.4, port: 80, datacenter: dc1, health: critical}
    - {id: far, address: 10.1.0.2, port: 80, datacenter: dc2}
`
	for percent, want := range map[string]string{
		"50": "far at 10.1.0.2:80: healthy, and others come first",
		"90": "far at 10.1.0.2:80: healthy\n",
	} {
		s := snapshot(t, `mesh:
  name: m
  load_balancing: {locality: {failover: [{from: [dc1], to: [dc2]}], min_healthy_percent: `+percent+`}}
  security: {mtls: {enabled: false}, authorization: {enabled: false}}
`, catalog)
		v, err := why.Of(s, why.Call{From: "nexus", To: "lake", Method: "GET", Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		if got := steps(v); !strings.Contains(got, want) {
			t.Errorf("%s percent: %q is not said:\n%s", percent, want, got)
		}
	}
}

// An instance that a subset's filter leaves out is not in the subset.
func TestWhoIsNotInTheSubset(t *testing.T) {
	s := snapshot(t, `mesh:
  name: m
  services: {lake: {subsets: {red: {filter: 'Service.Meta.color == "red"'}}, default_subset: red}}
  security: {mtls: {enabled: false}, authorization: {enabled: false}}
`, `services:
  nexus: [{id: n1, address: 10.0.0.1, port: 80}]
  lake:
    - {id: l1, address: 10.0.0.2, port: 80, meta: {color: red}}
    - {id: l2, address: 10.0.0.3, port: 80, meta: {color: blue}}
`)
	v, err := why.Of(s, why.Call{From: "nexus", To: "lake", Method: "GET", Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	if got := steps(v); !strings.Contains(got, "1 of 2 instances may be called") || !strings.Contains(got, "l2 is left out: it is not in the subset") {
		t.Errorf("got\n%s", got)
	}
}

// steps are the steps of a verdict as text.
func steps(v *why.Verdict) string {
	var b strings.Builder
	write := func(all []why.Step) {
		for _, s := range all {
			fmt.Fprintf(&b, "%s: %s", s.What, s.Says)
			if s.Source != "" {
				fmt.Fprintf(&b, " [%s]", s.Source)
			}
			b.WriteByte('\n')
			for _, d := range s.Details {
				b.WriteString("  " + d + "\n")
			}
		}
	}
	write(v.Steps)
	for _, w := range v.Ways {
		write(w.Steps)
	}
	return b.String()
}

// How calls end that the random meshes do not have.
func TestSentences(t *testing.T) {
	const one = `services:
  nexus: [{id: n1, address: 10.0.0.1, port: 80, meta: {mesh_port: "15443"}}]
  lake: [{id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}]
  Pond: [{id: p1, address: 10.0.0.7, port: 80}]
  stray: [{id: s1, address: 10.0.0.2, port: 81, meta: {mesh_port: "15443"}}]
`
	for _, test := range []struct {
		name, mesh string
		call       why.Call
		outcome    api.Outcome
		want       string
	}{
		{
			"a name that is nearly one", "mesh: {name: m}",
			why.Call{To: "laek"},
			api.Fails,
			"the call is answered 404: laek is the host of no service of the mesh (MC3001): correct the host, or register the service; did you mean lake?",
		},
		{
			"none of the upstreams", "mesh: {name: m, services: {nexus: {upstreams: [lake]}}}",
			why.Call{To: "Pond"},
			api.Fails,
			"the call is answered 404: nexus declares its upstreams, and Pond is none of them (MC3002): add Pond to services.nexus.upstreams (mesh.yaml:1:36)",
		},
		{
			"a service of TCP by its host", "mesh: {name: m, services: {lake: {protocol: tcp}}}",
			why.Call{To: "lake", Host: "lake"},
			api.Fails,
			"the call is answered 404: lake is a service of TCP, which has no host (MC3006): declare it with a port, services.nexus.upstreams: [{service: lake, local_bind_port: PORT}] (mesh.yaml:1:17)",
		},
		{
			"plaintext past all policies", "mesh: {name: m, security: {mtls: {mode: permissive}}}",
			why.Call{To: "Pond"},
			api.Passes,
			"an application of Pond answers GET /",
		},
		{
			"without mTLS nobody knows who calls", "mesh: {name: m, security: {mtls: {enabled: false}, authorization: {enabled: false}}}",
			why.Call{To: "lake"},
			api.Passes,
			"an application of lake answers GET /",
		},
		{
			"a fault of some", "mesh: {name: m, security: {authorization: {default_action: ALLOW}}, services: {lake: {}}, routes: [{name: r, service: lake, fault: {abort: {status: 503, percent: 25}}}]}",
			why.Call{To: "lake"},
			api.Depends,
			"25 % of the calls: a fault of the mesh file answers 503 (MC3009); 75 % of the calls: an application of lake answers GET /: take the fault of route r out",
		},
		{
			"gRPC", "mesh: {name: m, security: {authorization: {default_action: ALLOW}}, services: {lake: {}}, routes: [{name: r, service: lake, match: [{grpc: {service: a.B}}], direct_response: {status: 418}}]}",
			why.Call{To: "lake", Method: "POST", Path: "/a.B/C", Headers: map[string]string{"Content-Type": "application/grpc"}},
			api.Answered,
			"the call is answered 418 by route r",
		},
		{
			"a template", "mesh: {name: m, security: {authorization: {default_action: ALLOW}}, services: {lake: {}}, routes: [{name: r, service: lake, match: [{path: {template: \"/u/{id}/**\"}}], direct_response: {status: 418}}]}",
			why.Call{To: "lake", Path: "/u/7/x/y"},
			api.Answered, "the call is answered 418 by route r",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.call.From = "nexus"
			if test.call.Method == "" {
				test.call.Method = "GET"
			}
			if test.call.Path == "" {
				test.call.Path = "/"
			}
			v, err := why.Of(snapshot(t, test.mesh, one), test.call)
			if err != nil {
				t.Fatal(err)
			}
			if v.End.Outcome != test.outcome || v.End.Sentence() != test.want {
				t.Errorf("%s: %s\nwant %s\n%s", v.End.Outcome, v.End.Sentence(), test.want, steps(v))
			}
		})
	}
}

// An address that a sidecar of another service has taken is not called: its certificate
// is another's.
func TestASidecarOfAnotherService(t *testing.T) {
	s := snapshot(t, "mesh: {name: m, services: {lake: {consul_service: pond}}}", `services: {pond: [{id: p1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}]}`)
	in := s.Input
	stray := plan.Sidecar("pond")
	stray.Address = "10.0.0.2"
	in.Fleet = resource.NewFleet(stray, plan.Sidecar("nexus"))
	v, err := why.Of(translate.Translate(nil, in), why.Call{From: "nexus", To: "lake", Method: "GET", Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	if v.End.Code != "MC3008" || v.End.Status != 503 {
		t.Errorf("got %+v\n%s", v.End, steps(v))
	}
}

// A control plane sees the sidecars that are connected to it: what the others would be
// served stands for them, and that is said.
func TestSidecarsThatAreNotConnectedHere(t *testing.T) {
	s := snapshot(t, "mesh: {name: m, security: {authorization: {policies: [{name: p, action: ALLOW, sources: [nexus]}]}}}", `services: {lake: [{id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}]}`)
	in := s.Input
	in.Fleet = resource.NewFleet()
	for from, want := range map[string]string{"nexus": "", "other": "MC3005"} {
		v, err := why.Of(translate.Translate(nil, in), why.Call{From: from, To: "lake", Method: "GET", Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		if v.End.Code != want || !strings.Contains(strings.Join(v.Notes, "\n"), "no sidecar of "+from+" is connected") || !strings.Contains(steps(v), "not connected here") {
			t.Errorf("%s: %+v %q\n%s", from, v.End, v.Notes, steps(v))
		}
	}
}

// Of clients without a sidecar nothing is said, and that is an error.
func TestProxylessCallers(t *testing.T) {
	s := snapshot(t, "mesh: {name: m}", "services: {lake: [{id: l1, address: 10.0.0.2, port: 80}]}")
	in := s.Input
	in.Fleet = resource.NewFleet(resource.Profile{Service: "nexus", Kind: resource.Proxyless})
	if _, err := why.Of(translate.Translate(nil, in), why.Call{From: "nexus", To: "lake", Method: "GET", Path: "/"}); err == nil {
		t.Error("it is said what becomes of the call of a gRPC client")
	}
}
