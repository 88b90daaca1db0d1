package translate

import (
	"net/netip"
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// posture is what one sidecar takes and speaks.
type posture struct {
	takesTLS, takesPlaintext bool
	speaksTLS                bool // to who is in the mesh
	refuses                  bool // whom no policy admits
}

func postureOf(t *testing.T, v *sight) posture {
	t.Helper()
	get := func(kind resource.Type, name string, into proto.Message) {
		t.Helper()
		r := v.Sets[kind].Get(name)
		if r == nil {
			t.Fatalf("no %s %s", kind.String(), name)
		}
		if err := proto.Unmarshal(r.Body, into); err != nil {
			t.Fatal(err)
		}
	}
	var p posture
	var inbound listenerv3.Listener
	get(resource.Listener, listenerInbound, &inbound)
	for _, chain := range inbound.FilterChains {
		p.takesTLS = p.takesTLS || chain.TransportSocket != nil
		p.takesPlaintext = p.takesPlaintext || chain.TransportSocket == nil
	}
	var cluster clusterv3.Cluster
	var endpoints endpointv3.ClusterLoadAssignment
	get(resource.Cluster, "web", &cluster)
	get(resource.Endpoint, "web", &endpoints)
	marked := endpoints.Endpoints[0].LbEndpoints[0].GetMetadata() != nil
	p.speaksTLS = cluster.TransportSocket != nil || len(cluster.TransportSocketMatches) > 0
	if p.speaksTLS != marked {
		t.Errorf("the cluster speaks TLS: %t; the assignment says that the instance does: %t", p.speaksTLS, marked)
	}
	var routes routev3.RouteConfiguration
	get(resource.Route, routeInbound, &routes)
	var allow rbacfilterv3.RBACPerRoute
	if err := routes.TypedPerFilterConfig[filterAllow].UnmarshalTo(&allow); err != nil {
		t.Fatal(err)
	}
	p.refuses = allow.GetRbac().GetRules().GetPolicies()["authorization-disabled"] == nil
	return p
}

// Between mTLS off and on each step is one that works with the one before it and
// the one after it, whoever of caller and callee has it first: what is spoken in
// either is taken in both.
func TestEachStageWorksWithItsNeighbors(t *testing.T) {
	const file = "mesh:\n  name: td\n  security:\n"
	off := parse(t, file+"    mtls: {enabled: false}\n")
	secured := "    authorization: {policies: [{name: all, action: ALLOW, principals: [\"spiffe://td/*\"]}]}\n"
	web := &watch.Service{Name: "web", Instances: []*watch.Instance{{ID: "1", Address: netip.MustParseAddr("10.0.0.1"), Port: 8080, MeshPort: 15008, Weight: 1}}}
	profile := resource.Profile{Service: "web", AppPort: 8080, MeshPort: 15008, OutboundPort: 15001}
	at := func(m *Input, stage Stage) posture {
		in := *m
		in.Stage = stage
		s := Translate(nil, in)
		if len(s.Held) > 0 {
			t.Fatalf("held: %v", s.Held)
		}
		return postureOf(t, sightOf(s, profile))
	}
	for _, mode := range []string{"permissive", "strict"} {
		on := parse(t, file+"    mtls: {mode: "+mode+"}\n"+secured)
		input := Input{
			Catalog: watch.NewCatalog().Update([]*watch.Service{web}, nil), Roots: []byte("root"),
			Fleet: resource.NewFleet(profile),
		}
		for _, to := range []string{"on", "off"} {
			input.Mesh = on
			if to == "off" {
				input.Mesh = off
			}
			first, last := input, input
			first.Mesh, last.Mesh = off, on
			steps := []posture{at(&first, Settled), at(&input, Listening), at(&input, Calling), at(&last, Settled)}
			for i, here := range steps[1:] {
				before := steps[i]
				for _, p := range [][2]posture{{here, before}, {before, here}} {
					caller, callee := p[0], p[1]
					if caller.speaksTLS && !callee.takesTLS || !caller.speaksTLS && (!callee.takesPlaintext || callee.refuses) {
						t.Errorf("%s to %s: a caller at %+v fails at a callee at %+v", mode, to, caller, callee)
					}
				}
			}
			if steps[0].speaksTLS || !steps[3].speaksTLS || !steps[3].refuses {
				t.Errorf("%s: the ends are %+v and %+v", mode, steps[0], steps[3])
			}
		}
	}
}

// An assignment reaches the cluster of before as well as that of after. So what
// it says of an instance must not depend on which of the two it is for.
func TestStrictAndPermissiveHaveTheSameAssignments(t *testing.T) {
	web := &watch.Service{Name: "web", Instances: []*watch.Instance{{ID: "1", Address: netip.MustParseAddr("10.0.0.1"), Port: 8080, MeshPort: 15008, Weight: 1}}}
	in := Input{Catalog: watch.NewCatalog().Update([]*watch.Service{web}, nil), Fleet: resource.NewFleet(resource.Profile{Service: "web"})}
	in.Mesh = parse(t, "mesh: {name: td, security: {mtls: {mode: strict}}}")
	strict := Translate(nil, in)
	in.Mesh = parse(t, "mesh: {name: td, security: {mtls: {mode: permissive}}}")
	if got := moved(strict, Translate(strict, in)); !slices.Equal(got, []string{"cluster web"}) {
		t.Errorf("permissive moves %q, want the cluster alone", got)
	}
}
