package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

// planned is a control plane that serves a mesh file to a fleet.
func planned(t testing.TB, text, catalog string, profiles ...resource.Profile) *Plane {
	t.Helper()
	mesh, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	services, err := file.Parse("catalog.yaml", []byte(catalog))
	if err != nil {
		t.Fatal(err)
	}
	p := &Plane{revisions: NewRevisions(""), loop: &Loop{}, Options: Options{Plaintext: true}}
	p.mesh.Store(mesh)
	p.loop.status.Snapshot = translate.Translate(nil, translate.Input{
		Mesh: mesh, Catalog: watch.NewCatalog().Update(services, nil), Fleet: resource.NewFleet(profiles...),
	})
	return p
}

func sidecar(service, address string) resource.Profile {
	return resource.Profile{Service: service, Kind: resource.Sidecar, Address: address, AppPort: 80, MeshPort: 15443, OutboundPort: 15001, MetricsPort: 9102}
}

const withoutTLS = "mesh:\n  name: m\n  security: {mtls: {enabled: false}, authorization: {enabled: false}}\n"

// A plan is of the fleet that is connected, and what is served does not change by it.
func TestAPlanIsOfTheConnectedFleet(t *testing.T) {
	p := planned(t, withoutTLS, "services: {lake: [{id: l1, address: 10.0.0.2, port: 80}]}", sidecar("lake", "10.0.0.2"), sidecar("nexus", "10.0.0.1"))
	before := p.loop.Status().Snapshot
	is, err := p.Plan(t.Context(), []api.File{{Name: "edit.yaml", Content: withoutTLS + "  circuit_breakers: {custom: {lake: {max_requests: 7}}}\n"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(is.Proxies) != 2 || len(is.Resources) != 1 || is.Resources[0].Source != "edit.yaml:4:31" || len(is.Drains) != 0 {
		t.Errorf("the plan is %+v", is)
	}
	if p.loop.Status().Snapshot != before || before.Input.Mesh.Revision != is.From {
		t.Error("what is served has changed")
	}
	// What changes a listener ends connections, of those who have it.
	is, err = p.Plan(t.Context(), []api.File{{Name: "edit.yaml", Content: withoutTLS + "  telemetry: {access_logs: {path: /var/log/envoy.log}}\n"}})
	if err != nil || len(is.Drains) == 0 || is.Drains[0].Address == "" {
		t.Errorf("%v: the plan is %+v", err, is)
	}
}

// What is wrong with the file is told with its places.
func TestAFileThatIsWrongIsNotPlanned(t *testing.T) {
	p := planned(t, withoutTLS, "services: {}")
	_, err := p.Plan(t.Context(), []api.File{{Name: "edit.yaml", Content: "mesh:\n  name: m\n  nam: m\n"}})
	failure := new(api.Error)
	if !errors.As(err, &failure) || failure.Reason != api.Invalid || len(failure.Problems) != 1 || failure.Problems[0].Line != 3 || failure.Problems[0].File != "edit.yaml" {
		t.Errorf("got %v, %+v", err, failure)
	}
}

// BenchmarkLivePlan is an edit of a mesh of 1,000 services with 500 profiles, as the API
// answers it: one policy, every cluster, every listener.
func BenchmarkLivePlan(b *testing.B) {
	const services, profiles = 1000, 500
	var text, catalog strings.Builder
	text.WriteString("mesh:\n  name: m\n%s  services:\n")
	catalog.WriteString("services:\n")
	var fleet []resource.Profile
	for i := range services {
		fmt.Fprintf(&text, "    s%04d: {timeout: {request: %ds}}\n", i, 5+i%7)
		address := fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)
		fmt.Fprintf(&catalog, "  s%04d: [{id: i%d, address: %s, port: 80, meta: {mesh_port: \"15443\"}}]\n", i, i, address)
		if i < profiles {
			fleet = append(fleet, sidecar(fmt.Sprintf("s%04d", i), address))
		}
	}
	const policies = "  security: {authorization: {policies: [{name: a, action: ALLOW, sources: [s0001, s0002]}%s]}}\n"
	file := func(edit string) string { return strings.Replace(text.String(), "%s", edit, 1) }
	p := planned(b, file(fmt.Sprintf(policies, "")), catalog.String(), fleet...)
	ca, _, err := sds.Open(b.TempDir(), "m")
	if err != nil {
		b.Fatal(err)
	}
	if p.svids, err = sds.NewManager(ca, sds.Options{Rotation: time.Hour, TTL: 2 * time.Hour}); err != nil {
		b.Fatal(err)
	}
	p.Plaintext = false
	for name, edit := range map[string]string{
		"policy":   fmt.Sprintf(policies, ", {name: b, action: ALLOW, sources: [s0004], destinations: [s0003]}"),
		"clusters": fmt.Sprintf(policies, "") + "  circuit_breakers: {default: {max_requests: 77}}\n",
		"listener": fmt.Sprintf(policies, "") + "  telemetry: {access_logs: {path: /var/log/envoy.log}}\n",
	} {
		files := []api.File{{Name: "edit.yaml", Content: file(edit)}}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				is, err := p.Plan(context.Background(), files)
				if err != nil || len(is.Resources) == 0 {
					b.Fatal(err, is)
				}
				if _, err := json.Marshal(is); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
