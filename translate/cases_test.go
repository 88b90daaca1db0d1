package translate

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// TestEveryCaseIsWhole: each testdata/<case>.in.yaml has a mesh, a catalog and the
// profiles of the connected proxies, and whatever a resource of theirs needs is
// there. TestEnvoyAcceptsEveryCase has Envoy construct all of it. What it is,
// feature by feature, is in features/testdata.
func TestEveryCaseIsWhole(t *testing.T) { eachSight(t, check) }

// eachSight looks at all that each proxy of each case sees.
func eachSight(t *testing.T, look func(*testing.T, *sight)) {
	t.Helper()
	for _, in := range cases(t) {
		t.Run(strings.TrimSuffix(filepath.Base(in), ".in.yaml"), func(t *testing.T) {
			for v := range sights(Translate(nil, readCase(t, in))) {
				look(t, v)
			}
		})
	}
}

func cases(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases (%v)", err)
	}
	return files
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
	case resource.Extension:
		return &corev3.TypedExtensionConfig{}
	case resource.ScopedRoute:
		return &routev3.ScopedRouteConfiguration{}
	default:
		return &routev3.RouteConfiguration{}
	}
}
