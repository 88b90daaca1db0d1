package analyze_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"datapunk.dev/controlplane/analyze"
	"datapunk.dev/controlplane/codes"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
	"datapunk.dev/controlplane/yamlfile"
)

func found(t *testing.T, text, environment, catalog string) []yamlfile.Problem {
	t.Helper()
	m, err := policy.Parse([]policy.File{{Name: "edit.yaml", Data: []byte(text)}}, policy.Options{Environment: environment})
	if err != nil {
		t.Fatal(err)
	}
	var c *watch.Catalog
	if catalog != "" {
		services, err := file.Parse("catalog.yaml", []byte(catalog))
		if err != nil {
			t.Fatal(err)
		}
		c = watch.NewCatalog().Update(services, nil)
	}
	all, err := analyze.Mesh(m, c)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func has(all []yamlfile.Problem, code string) bool {
	return slices.ContainsFunc(all, func(p yamlfile.Problem) bool { return string(p.Code) == code })
}

// Each example of the table makes its code, at a line of the file.
func TestEachExampleMakesItsCode(t *testing.T) {
	n := 0
	for _, e := range codes.All() {
		if e.Code < "MC2200" || e.Code > "MC2999" {
			continue
		}
		n++
		t.Run(e.Code, func(t *testing.T) {
			all := found(t, e.File(), e.Environment, e.Catalog)
			if !has(all, e.Code) {
				t.Fatalf("the example makes %v", all)
			}
			for _, p := range all {
				if p.Source.Line == 0 {
					t.Errorf("%v has no line", p)
				}
			}
		})
	}
	if n < 14 {
		t.Errorf("%d codes", n)
	}
}

// Of a mesh in order nothing is said, with a catalog and without one.
func TestAMeshInOrder(t *testing.T) {
	const text = `mesh:
  name: m
  services:
    nexus: {upstreams: [lake]}
    lake: {}
  security: {authorization: {policies: [{name: p, action: ALLOW, sources: [nexus], destinations: [lake]}]}}
`
	const catalog = `services:
  nexus: [{id: n1, address: 10.0.0.1, port: 80, meta: {mesh_port: "15443"}}]
  lake: [{id: l1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}]
`
	for _, c := range []string{"", catalog} {
		if all := found(t, text, "", c); len(all) > 0 {
			t.Errorf("got %v", all)
		}
	}
}

// A server that counts has to let ask who is limited: the example of it does.
func TestAServerOfLimitsThatDoesNotLetAsk(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "configs", "examples", "global_limits.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const catalog = `services:
  lake_service: [{id: l1, address: 10.0.0.1, port: 80, meta: {mesh_port: "15443"}}]
  limits: [{id: c1, address: 10.0.0.2, port: 80, meta: {mesh_port: "15443"}}]
`
	if all := found(t, string(text), "", catalog); has(all, "MC2214") {
		t.Errorf("got %v", all)
	}
	denied := strings.Replace(string(text), "sources: [lake_service], destinations: [limits]", "sources: [nexus], destinations: [limits]", 1)
	if all := found(t, denied, "", catalog); !has(all, "MC2214") {
		t.Errorf("got %v", all)
	}
}

// A mesh has more chains than can be walked: those along which nothing multiplies are not.
func TestAMeshOfManyChains(t *testing.T) {
	var text strings.Builder
	text.WriteString(codes.Head + "  policies: {retry: {attempts: 0}}\n  services:\n")
	const services = 60
	for n := range services {
		var calls []string
		for other := range services {
			if other != n {
				calls = append(calls, fmt.Sprint("s", other))
			}
		}
		fmt.Fprintf(&text, "    s%d: {upstreams: [%s]}\n", n, strings.Join(calls, ", "))
	}
	if all := found(t, text.String(), "", ""); has(all, "MC2209") {
		t.Errorf("got %v", all)
	}
}

// A policy that looks like another one, and is not within it, has an effect.
func TestPoliciesThatAreNotWithinAnother(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "configs", "mesh.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if all := found(t, string(text), "", ""); has(all, "MC2208") {
		t.Errorf("got %v", all)
	}
	if all := found(t, codes.Head+"  security: {authorization: {policies: [{name: a, action: ALLOW, sources: [x], paths: [/a]}, {name: b, action: ALLOW, sources: [x], paths: [/b]}]}}\n", "", ""); has(all, "MC2208") {
		t.Errorf("got %v", all)
	}
}
