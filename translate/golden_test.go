package translate

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

var update = flag.Bool("update", false, "write the golden files, and delete those of no case")

// TestGolden is the translation by example. Each testdata/<case>.in.yaml has a
// mesh, a catalog and the profiles of the connected proxies; <case>.out.yaml is
// all that these proxies are served. TestEnvoyAcceptsEachGolden has Envoy construct
// all of it.
func TestGolden(t *testing.T) {
	var outputs []string
	for _, in := range goldenCases(t) {
		out := strings.TrimSuffix(in, ".in.yaml") + ".out.yaml"
		outputs = append(outputs, out)
		t.Run(strings.TrimSuffix(filepath.Base(in), ".in.yaml"), func(t *testing.T) {
			snapshot := Translate(nil, readCase(t, in))
			got := render(t, snapshot)
			if *update {
				if err := os.WriteFile(out, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatalf("%v; run with -update", err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what is made now; run with -update and read the difference\n%s", out, firstDifference(got, want))
			}
			for v := range sights(snapshot) {
				check(t, v)
			}
		})
	}
	stale, err := filepath.Glob("testdata/*.out.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stale {
		if slices.Contains(outputs, file) {
			continue
		}
		if !*update {
			t.Errorf("%s is of no case; run with -update", file)
		} else if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	}
}

func goldenCases(t *testing.T) []string {
	t.Helper()
	cases, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases (%v)", err)
	}
	return cases
}

// caseFile is a case as it is written.
type caseFile struct {
	Mesh     yaml.Node
	Catalog  map[string][]instanceFile
	Profiles []profileFile
}

type profileFile struct {
	Service, Address, Zone string
	AppPort                uint16 `yaml:"app_port"`
	MeshPort               uint16 `yaml:"mesh_port"`
	OutboundPort           uint16 `yaml:"outbound_port"`
	MetricsPort            uint16 `yaml:"metrics_port"`
}

type instanceFile struct {
	ID, Address, Zone string
	Port              uint16
	Weight            *uint32
	Health            string
	Tags              []string
	Meta              map[string]string
}

func readCase(t *testing.T, path string) Input {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var c caseFile
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	mesh, err := yaml.Marshal(map[string]any{"mesh": &c.Mesh})
	if err != nil {
		t.Fatal(err)
	}
	var services []*watch.Service
	for name, instances := range c.Catalog {
		s := &watch.Service{Name: name}
		for _, i := range instances {
			s.Instances = append(s.Instances, i.instance(t))
		}
		services = append(services, s)
	}
	var profiles []resource.Profile
	for _, p := range c.Profiles {
		profiles = append(profiles, resource.Profile{
			Service: p.Service, Address: p.Address, Zone: p.Zone,
			AppPort: p.AppPort, MeshPort: p.MeshPort, OutboundPort: p.OutboundPort, MetricsPort: p.MetricsPort,
		})
	}
	in := Input{
		Mesh:    parse(t, string(mesh)),
		Catalog: watch.NewCatalog().Update(services, nil),
		Fleet:   resource.NewFleet(profiles...),
	}
	if in.Mesh.MTLS.Enabled {
		in.Roots = testRoots(t)
	}
	return in
}

func (i instanceFile) instance(t *testing.T) *watch.Instance {
	t.Helper()
	made := &watch.Instance{ID: i.ID, Address: netip.MustParseAddr(i.Address), Port: i.Port, Weight: 1, Zone: i.Zone, Tags: i.Tags, Meta: i.Meta}
	if i.Weight != nil {
		made.Weight = *i.Weight
	}
	if port, ok := i.Meta["mesh_port"]; ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		made.MeshPort = uint16(n)
	}
	for _, h := range []watch.Health{watch.Passing, watch.Warning, watch.Maintenance, watch.Critical} {
		if i.Health == h.String() {
			made.Health = h
		}
	}
	return made
}

// parse loads a mesh file.
func parse(t testing.TB, text string) *policy.Mesh {
	t.Helper()
	mesh, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, policy.Options{
		LookupEnv: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, p := range mesh.Authorization.Policies {
		for i, h := range p.Headers {
			if h.Regex != nil && *h.Regex == hugeRegex {
				huge := strings.Repeat("x", 200)
				p.Headers[i].Regex = &huge
			}
		}
	}
	return mesh
}

func testRoots(t testing.TB) []byte {
	t.Helper()
	roots, err := os.ReadFile("testdata/root.pem")
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

// rendered is a snapshot as the golden files have it: each resource once, and
// which view has which.
type rendered struct {
	Views     []renderedView
	Held      []Held              `yaml:",omitempty"`
	Notes     []string            `yaml:",omitempty"`
	Resources []*renderedResource `yaml:"resources"`
}

type renderedView struct {
	Profile string
	Missing []string `yaml:",omitempty"`
	Sets    map[string][]string
}

type renderedResource struct {
	ID   string
	Keys []string `yaml:",omitempty,flow"`
	Refs []string `yaml:",omitempty,flow"`
	Body any
}

func newMessage(t resource.Type) proto.Message {
	switch t {
	case resource.Runtime:
		return &runtimev3.Runtime{}
	case resource.Cluster:
		return &clusterv3.Cluster{}
	case resource.Endpoint:
		return &endpointv3.ClusterLoadAssignment{}
	case resource.Secret:
		return &tlsv3.Secret{}
	case resource.Listener:
		return &listenerv3.Listener{}
	default:
		return &routev3.RouteConfiguration{}
	}
}

func render(t *testing.T, s *Snapshot) []byte {
	t.Helper()
	out := rendered{Held: s.Held, Notes: s.Notes}
	// Two resources of one name, in different views, are told apart by
	// a number, in the order in which they come.
	ids, numbers := make(map[*resource.Resource]string), make(map[string]int)
	for v := range sights(s) {
		view := renderedView{Profile: fmt.Sprintf("%+v", v.Profile), Missing: v.Missing, Sets: make(map[string][]string)}
		for kind, set := range v.Sets {
			for r := range set.All() {
				id, known := ids[r]
				if !known {
					id = resource.Type(kind).String() + " " + r.Name
					if numbers[id]++; numbers[id] > 1 {
						id = fmt.Sprintf("%s #%d", id, numbers[id])
					}
					ids[r] = id
					out.Resources = append(out.Resources, renderResource(t, id, r))
				}
				view.Sets[resource.Type(kind).String()] = append(view.Sets[resource.Type(kind).String()], strings.TrimPrefix(id, resource.Type(kind).String()+" "))
			}
		}
		out.Views = append(out.Views, view)
	}
	slices.SortFunc(out.Resources, func(a, b *renderedResource) int { return strings.Compare(a.ID, b.ID) })
	text, err := yaml.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func renderResource(t *testing.T, id string, r *resource.Resource) *renderedResource {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(decode(t, r, newMessage(r.Type)))
	if err != nil {
		t.Fatal(err)
	}
	out := &renderedResource{ID: id, Keys: r.Keys}
	if err := yaml.Unmarshal(text, &out.Body); err != nil {
		t.Fatal(err)
	}
	for _, ref := range r.Refs {
		out.Refs = append(out.Refs, ref.Type.String()+" "+ref.Name)
	}
	return out
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d: made %q, want %q", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("made %d lines, want %d", len(g), len(w))
}

func decode[M proto.Message](t testing.TB, r *resource.Resource, m M) M {
	t.Helper()
	if err := proto.Unmarshal(r.Body, m); err != nil {
		t.Fatalf("%s: %v", r.Name, err)
	}
	if again, err := encode(m); err != nil || !bytes.Equal(again, r.Body) {
		t.Errorf("%s: encoded again it differs (%v)", r.Name, err)
	}
	return m
}
