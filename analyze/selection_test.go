package analyze_test

import (
	"strings"
	"testing"

	"datapunk.dev/controlplane/analyze"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

// A service that the file names, or calls, and that its own selection leaves out is
// found at its line, with what leaves it out; and is not said to be unknown.
func TestWhatTheSelectionLeavesOutIsFound(t *testing.T) {
	const text = `mesh:
  name: m
  discovery: {consul: {select: {tags: [blue], exclude: ["nomad*"]}}}
  services:
    nexus: {upstreams: [lake, Nomad-api, tempo]}
    dome: {consul_service: nomad-dome}
    lake: {}
  circuit_breakers: {custom: {nomad: {max_requests: 10}}}
`
	const catalog = `services:
  nexus: [{id: n1, address: 10.0.0.1, port: 80, tags: [blue], meta: {mesh_port: "15443"}}]
  tempo: [{id: t1, address: 10.0.0.4, port: 80, tags: [blue], meta: {mesh_port: "15443"}}]
  lake: [{id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}]
  nomad-dome: [{id: d1, address: 10.0.0.3, port: 80, tags: [blue], meta: {mesh_port: "15443"}}]
`
	m, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	services, err := file.Parse("catalog.yaml", []byte(catalog))
	if err != nil {
		t.Fatal(err)
	}
	c := watch.NewCatalog().Update(services, nil).Select(watch.Selection(m.Discovery.Consul.Select))
	var got []string
	for _, p := range analyze.Names(m, c) {
		got = append(got, p.Source.String()+" "+string(p.Code)+" "+p.Message)
	}
	want := []string{
		`mesh.yaml:5:13 MC2215 service nexus: upstream Nomad-api is not in the mesh: discovery.consul.select.exclude has "nomad*" (mesh.yaml:3:47)`,
		`mesh.yaml:5:13 MC2215 service nexus: upstream lake is not in the mesh: of discovery.consul.select (mesh.yaml:3:24), none of its 1 instances has the tag blue`,
		`mesh.yaml:6:5 MC2215 service dome is not in the mesh: discovery.consul.select.exclude has "nomad*" (mesh.yaml:3:47)`,
		`mesh.yaml:7:5 MC2215 service lake is not in the mesh: of discovery.consul.select (mesh.yaml:3:24), none of its 1 instances has the tag blue`,
		`mesh.yaml:8:31 MC2215 service nomad is not in the mesh: discovery.consul.select.exclude has "nomad*" (mesh.yaml:3:47)`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
