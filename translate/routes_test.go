package translate

import (
	"regexp"
	"strings"
	"testing"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// A call of gRPC is a path, and its names are no expressions.
func TestTheMethodOfACallIsNoExpression(t *testing.T) {
	at := pathOf(policy.RouteMatch{GRPC: &policy.GRPCMatch{Method: "Get.V1"}})
	for path, want := range map[string]bool{"/shop.Orders/Get.V1": true, "/shop.Orders/GetXV1": false} {
		if got := regexp.MustCompile("^(?:" + at.Regex + ")$").MatchString(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// A route that is put in front of others moves their places in the file, and nothing of
// what they say: their configurations are not made anew, and point to their new places.
func TestARouteInFrontMakesNoOtherAnew(t *testing.T) {
	const before = `mesh:
  name: td
  services: {a: {}, b: {}}
  routes:
    - {name: to-b, service: b, match: [{path: {prefix: /x}}], rewrite: {prefix: /y}}
`
	after := strings.Replace(before, "  routes:\n", "  routes:\n    - {name: to-a, service: a, match: [{path: {prefix: /x}}], rewrite: {prefix: /y}}\n", 1)
	in := Input{Mesh: parse(t, before), Catalog: watch.NewCatalog(), Fleet: resource.NewFleet(resource.Profile{Service: "a", OutboundPort: 15001}), Roots: []byte("roots")}
	routes := func(s *Snapshot) *resource.Resource {
		for v := range sights(s) {
			return v.Sets[resource.Route].Get("outbound/b")
		}
		return nil
	}
	first := Translate(nil, in)
	in.Mesh = parse(t, after)
	next := Translate(first, in)
	was, is := routes(first), routes(next)
	if &was.Body[0] != &is.Body[0] {
		t.Error("it is made anew")
	}
	if was.Keys[0] != "routes[0]" || is.Keys[0] != "routes[1]" {
		t.Errorf("it is of %s, and then of %s", was.Keys[0], is.Keys[0])
	}
}
