package file_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
	"datapunk.dev/controlplane/yamlfile"
)

func TestParse(t *testing.T) {
	const text = `
x-places:
  - &here eu-1
services:
  lake_service:
    - id: lake-2
      address: 10.0.0.2
      port: 8080
      weight: 3
      health: warning
      zone: *here
      tags: [v2, canary, v2]
      meta:
        mesh_port: 15006
        version: "2.1"
    - {id: lake-1, address: 10.0.0.1, port: 8080}
  stream_service: []
`
	got, err := file.Parse("catalog.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []*watch.Service{
		{Name: "lake_service", Instances: []*watch.Instance{
			{ID: "lake-1", Address: netip.MustParseAddr("10.0.0.1"), Port: 8080, Weight: 1},
			{
				ID: "lake-2", Address: netip.MustParseAddr("10.0.0.2"), Port: 8080, MeshPort: 15006, Weight: 3,
				Health: watch.Warning, Zone: "eu-1", Tags: []string{"canary", "v2"},
				Meta: map[string]string{"mesh_port": "15006", "version": "2.1"},
			},
		}},
		{Name: "stream_service"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestParseHealth(t *testing.T) {
	for _, health := range []watch.Health{watch.Passing, watch.Warning, watch.Maintenance, watch.Critical} {
		got, err := file.Parse("c.yaml", []byte("services: {a: [{id: a, address: 10.0.0.1, port: 1, health: "+health.String()+"}]}"))
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Instances[0].Health != health {
			t.Errorf("health: %s read as %s", health, got[0].Instances[0].Health)
		}
	}
}

// Each mistake is reported where it stands, and all of a file at once.
func TestParseMistakes(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string // one a line, in order
	}{
		{"empty", "", []string{"c.yaml:1:1: MC1006: the file is empty"}},
		{"comment alone", "# soon\n", []string{"c.yaml:1:1: MC1006: the file is empty"}},
		{"no services", "x-a: 1\n", []string{"c.yaml:1:1: MC1006: the catalog has no services"}},
		{"null services", "services:\n", []string{"c.yaml:1:10: MC1005: services: must be a mapping, not nothing"}},
		{"a list", "- a\n", []string{"c.yaml:1:1: MC1005: the catalog: must be a mapping, not a list"}},
		{"unknown key", "service: {}\n", []string{`c.yaml:1:1: MC1003: unknown key "service"`}},
		{"second document", "services: {}\n---\nservices: {}\n", []string{"c.yaml:2:1: MC1002: a second document"}},
		{"syntax", "services:\n  a: [\n", []string{"c.yaml:3:1: MC1001: while parsing a flow"}},
		{"unknown anchor", "services: *a\n", []string{"c.yaml:1:11: MC1001: unknown anchor"}},
		{"duplicate service", "services:\n  a: []\n  a: []\n", []string{`c.yaml:3:3: MC1004: key "a" stands here a second time; the first is in line 2`}},
		{"null service", "services:\n  a:\n", []string{"c.yaml:2:5: MC1005: service a: must be a list of instances, not nothing"}},
		{"nameless service", "services:\n  \"\": []\n", []string{"c.yaml:2:3: MC1104: a service has no name"}},
		{"nothing given", "services:\n  a:\n    - {}\n", []string{"c.yaml:3:7: MC1006: an instance needs address, id, port"}},
		{"itself", "services: &s\n  a: *s\n", []string{"c.yaml:2:6: MC1008: the alias *s stands within its own anchor"}},
		{"duplicate id", "services:\n  a:\n    - {id: x, address: 10.0.0.1, port: 1}\n    - {id: x, address: 10.0.0.2, port: 1}\n", []string{
			`c.yaml:4:7: MC1004: service a: id "x" is taken by the instance in line 3`,
		}},
		{"every field", `services:
  a:
    - id: ""
      address: 10.0.0.256
      port: 0
      weight: -1
      health: fine
      zone: [eu]
      tags: v1
      meta: {mesh_port: 70000, x: {}}
      Port: 1
    - {id: a, address: 0.0.0.0, port: "80"}
    - {id: b, address: "fe80::1%eth0", port: 80}
`, []string{
			"c.yaml:3:11: MC1104: id: must not be empty",
			`c.yaml:4:16: MC1104: address: "10.0.0.256" is neither an IP address nor a host name: it ends in a number`,
			`c.yaml:5:13: MC1102: port: must be a number from 1 to 65535, not "0"`,
			`c.yaml:6:15: MC1102: weight: must be a number from 0 to 65535, not "-1"`,
			`c.yaml:7:15: MC1103: health: "fine" is none of`,
			"c.yaml:8:13: MC1005: zone: must be text, not a list",
			"c.yaml:9:13: MC1005: tags: must be a list",
			`c.yaml:10:25: MC1102: meta mesh_port: must be a number from 1 to 65535, not "70000"`,
			"c.yaml:10:35: MC1005: meta x: must be text, not a map",
			`c.yaml:11:7: MC1003: unknown key "Port"`,
			"c.yaml:12:24: MC1104: address: nothing can connect to 0.0.0.0",
			`c.yaml:13:24: MC1104: address: "fe80::1%eth0" is not an IP address that others can reach`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := file.Parse("c.yaml", []byte(tt.text))
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.Split(err.Error(), "\n")
			if !slices.EqualFunc(got, tt.want, strings.Contains) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// A mistake is shown as one in the mesh file is.
func TestAMistakeIsShownWithItsLine(t *testing.T) {
	_, err := file.Parse("c.yaml", []byte("services:\n  lake:\n    - {id: a, address: 10.0.0.1, Port: 80, health: pasing}\n"))
	var problems yamlfile.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v", err)
	}
	var out bytes.Buffer
	for _, p := range problems {
		p.Format(&out)
	}
	const want = `c.yaml:3:34: MC1003: unknown key "Port" in an instance
3 |     - {id: a, address: 10.0.0.1, Port: 80, health: pasing}
  |                                  ^^^^
  = did you mean "port"?
c.yaml:3:52: MC1103: health: "pasing" is none of passing, warning, critical, maintenance
3 |     - {id: a, address: 10.0.0.1, Port: 80, health: pasing}
  |                                                    ^^^^^^
  = did you mean "passing"?
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// What instances have in common stands once.
func TestAnchorsAndMergeKeys(t *testing.T) {
	got, err := file.Parse("c.yaml", []byte(`
x-here: &here {zone: eu-1, meta: {mesh_port: 15006}}
services:
  lake:
    - {<<: *here, id: a, address: 10.0.0.1, port: 80}
    - {<<: *here, id: b, address: 10.0.0.2, port: 80, zone: eu-2}
`))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := got[0].Instances[0], got[0].Instances[1]; a.Zone != "eu-1" || b.Zone != "eu-2" || a.MeshPort != 15006 || b.MeshPort != 15006 {
		t.Errorf("got %+v and %+v", a, b)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("services: {a: [{id: a, address: 10.0.0.1, port: 1, meta: {mesh_port: 2}}]}"))
	f.Add([]byte("services: &s {a: *s}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		services, err := file.Parse("c.yaml", data)
		if err != nil {
			return
		}
		for _, s := range services {
			for _, i := range s.Instances {
				if i.ID == "" || !i.Address.IsValid() || i.Port == 0 {
					t.Errorf("service %q: accepted %+v", s.Name, i)
				}
			}
		}
	})
}

// What is dialed tells instances apart, and what is one with another is said.
func TestInstancesOfOneAddressAndPort(t *testing.T) {
	services, err := file.Parse("catalog.yaml", []byte(`services:
  lake:
    - {id: a, address: 10.0.0.1, port: 8080}
    - {id: b, address: 10.0.0.1, port: 8080, meta: {mesh_port: 20000}}
    - {id: c, address: "::ffff:10.0.0.1", port: 8080, meta: {mesh_port: 20001}}
    - {id: d, address: 10.0.0.1, port: 9090, meta: {mesh_port: 20001}}
`))
	if err != nil {
		t.Fatal(err)
	}
	var dialed []string
	for _, i := range services[0].Instances {
		dialed = append(dialed, i.ID+" "+i.Dialed().String())
	}
	if got := fmt.Sprint(dialed); got != "[a 10.0.0.1:8080 b 10.0.0.1:20000 c 10.0.0.1:20001]" {
		t.Errorf("instances %s", got)
	}
	if got := fmt.Sprint(services[0].Excluded); got != "[{d it is one with instance c: callers of both dial 10.0.0.1:20001}]" {
		t.Errorf("left out %s", got)
	}
}
