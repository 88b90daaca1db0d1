package plan_test

import (
	"path/filepath"
	"testing"

	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

// The whole vocabulary becomes configuration, in each of its environments, and its
// selection keeps Nomad's own services out of it.
func TestTheExtendedFileIsTranslated(t *testing.T) {
	services, err := file.Parse("catalog.yaml", []byte(`services:
  lake:
    - {id: lake-1, address: 10.0.0.11, port: 8080, tags: [primary], meta: {version: v1, mesh_port: "15006"}}
    - {id: lake-2, address: 10.0.0.12, port: 8080, tags: [canary], meta: {version: v3, mesh_port: "15006"}}
  stream: [{id: stream-1, address: 10.0.0.13, port: 8080, meta: {mesh_port: "15006"}}]
  postgres: [{id: postgres-1, address: 10.0.0.14, port: 5432, meta: {mesh_port: "15006"}}]
  nexus: [{id: nexus-1, address: 10.0.0.15, port: 8080, meta: {mesh_port: "15006"}}]
  nomad-client: [{id: nomad-1, address: 10.0.0.16, port: 4646, meta: {mesh_port: "15006"}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, environment := range []string{"", "development", "staging", "production"} {
		m, err := policy.Load([]string{filepath.Join("..", "policy", "testdata", "extended.yaml")}, policy.Options{Environment: environment})
		if err != nil {
			t.Fatal(err)
		}
		catalog := watch.NewCatalog().Update(services, nil).Select(watch.Selection(m.Discovery.Consul.Select))
		if catalog.Service("nomad-client") != nil || catalog.Len() != 4 {
			t.Errorf("%s: %d services are in the mesh", environment, catalog.Len())
		}
		snapshot := translate.Translate(nil, translate.Input{Mesh: m, Catalog: catalog, Fleet: plan.FleetOf(catalog, m), Roots: []byte(plan.Roots)})
		if len(snapshot.Held) > 0 {
			t.Errorf("%s: what could not be made: %v", environment, snapshot.Held)
		}
		n := 0
		for _, dial := range snapshot.Dialed("lake_service", "v3") {
			if dial.LeftOut == "" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s: subset v3 of lake_service has %d instances", environment, n)
		}
	}
}
