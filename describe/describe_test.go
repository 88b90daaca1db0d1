package describe_test

import (
	"slices"
	"strings"
	"testing"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/describe"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

const mesh = `mesh:
  name: m
  policies:
    retry: {attempts: 4}
  services:
    lake: {timeout: {request: 3s}}
  routes:
    - {name: api, service: lake, match: [{path: {prefix: /api}}], rewrite: {prefix: /v1}}
  security:
    authorization:
      policies:
        - {name: reads, action: ALLOW, sources: [nexus], destinations: [lake], methods: [GET]}
        - {name: no-edge, action: DENY, mode: shadow, sources: [edge]}
        - {name: other, action: ALLOW, sources: [lake], destinations: [nexus]}
`

const catalog = `services:
  nexus: [{id: n1, address: 10.0.0.1, port: 80, meta: {mesh_port: "15443"}}]
  lake:
    - {id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}
    - {id: l2, address: 10.0.0.3, port: 80, meta: {mesh_port: "15443"}, health: maintenance}
`

func snapshot(t *testing.T) *translate.Snapshot {
	t.Helper()
	m, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(mesh)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	services, err := file.Parse("catalog.yaml", []byte(catalog))
	if err != nil {
		t.Fatal(err)
	}
	c := watch.NewCatalog().Update(services, nil)
	return translate.Translate(nil, translate.Input{Mesh: m, Catalog: c, Fleet: plan.FleetOf(c, m), Roots: []byte(plan.Roots)})
}

func setting(d *api.Description, key string) api.Setting {
	if i := slices.IndexFunc(d.Settings, func(s api.Setting) bool { return s.Key == key }); i >= 0 {
		return d.Settings[i]
	}
	return api.Setting{}
}

// Of a service each value has its line, and who acts on its calls is said.
func TestAService(t *testing.T) {
	d, err := describe.Service(snapshot(t), "lake")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]api.Setting{
		"timeout.request":   {Key: "timeout.request", Value: "3s", From: "services.lake.timeout.request", Source: "mesh.yaml:6:22"},
		"retry.attempts":    {Key: "retry.attempts", Value: "4", From: "policies.retry.attempts", Source: "mesh.yaml:4:13"},
		"retry.max_retries": {},
		"protocol":          {Key: "protocol", Value: "http"},
	} {
		if got := setting(d, key); got != want {
			t.Errorf("%s is %+v, want %+v", key, got, want)
		}
	}
	if !slices.Equal(d.Routes, []api.NamedSource{{Name: "api", Source: "mesh.yaml:8:7"}}) {
		t.Errorf("routes: %+v", d.Routes)
	}
	if !slices.Equal(d.Policies, []api.PolicyInForce{{Name: "reads", Action: "ALLOW", Source: "mesh.yaml:12:11"}, {Name: "no-edge", Action: "DENY", Shadow: true, Source: "mesh.yaml:13:11"}}) {
		t.Errorf("policies: %+v", d.Policies)
	}
	if !slices.Equal(d.Instances, []api.InstanceInForce{{ID: "l1", Address: "10.0.0.2:15443", Health: "passing"}, {ID: "l2", LeftOut: "it is in maintenance"}}) {
		t.Errorf("instances: %+v", d.Instances)
	}
	answers := make(map[string]string)
	for _, a := range d.Admits {
		for _, c := range a.Callers {
			answers[c] = a.Answer
		}
	}
	if answers["nexus"] != "by conditions" || answers["lake"] != "closed" || answers[plan.Anybody] != "closed" {
		t.Errorf("admits: %+v", d.Admits)
	}
	if _, err := describe.Service(snapshot(t), "laek"); err == nil || !strings.Contains(err.Error(), "did you mean lake?") {
		t.Errorf("got %v", err)
	}
}

// Of a policy its conditions have their lines, and on whose calls it acts is said.
func TestAPolicy(t *testing.T) {
	d, err := describe.Policy(snapshot(t), "reads")
	if err != nil {
		t.Fatal(err)
	}
	if got := setting(d, "methods"); got.Value != "GET" || got.Source != "mesh.yaml:12:80" {
		t.Errorf("methods: %+v", got)
	}
	if !slices.Equal(d.Services, []string{"lake"}) || !slices.Equal(d.Callers, []string{"nexus"}) || d.Source != "mesh.yaml:12:11" {
		t.Errorf("got %+v", d)
	}
	if _, err := describe.Policy(snapshot(t), "raeds"); err == nil || !strings.Contains(err.Error(), "did you mean reads?") {
		t.Errorf("got %v", err)
	}
}

// Of a proxy is said where it listens, what it lacks, and who acts on calls to it.
func TestAProxy(t *testing.T) {
	s := snapshot(t)
	in := s.Input
	p := resource.Profile{Service: "lake", Kind: resource.Sidecar, Address: "10.0.0.2", AppPort: 80, MeshPort: 15443}
	in.Fleet = resource.NewFleet(p)
	d, err := describe.Proxy(translate.Translate(nil, in), "lake-1", p)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Listeners) == 0 || d.Listeners[0].Name != "inbound" || d.Listeners[0].Address != "10.0.0.2:15443" {
		t.Errorf("listeners: %+v", d.Listeners)
	}
	if len(d.Policies) != 2 || !strings.Contains(strings.Join(d.Missing, "\n"), "outbound_port") || setting(d, "mesh_port").Value != "15443" {
		t.Errorf("got %+v", d)
	}
}
