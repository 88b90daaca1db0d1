package translate

import (
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// Who has no header is for itself: of a service that hashes its callers' addresses, all
// of one address would have one share.
func TestAStickySplitHashesItsHeaderAlone(t *testing.T) {
	const file = `
mesh:
  name: t
  services:
    web:
      subsets: {a: {tag: a}, b: {tag: b}}
      load_balancing: {policy: ring_hash, hash_policy: [{source_ip: true}]}
  routes:
  - name: split
    service: web
    split: [{subset: a, weight: 50}, {subset: b, weight: 50}]
    sticky: {header: x-user}
`
	h := virtualHostOf(parse(t, file).Service("web"), sampling{})
	made, err := outboundConfiguration(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	routes := decode(t, made, &routev3.RouteConfiguration{}).VirtualHosts[0].Routes
	split, whole := routes[0].GetRoute().GetHashPolicy(), routes[len(routes)-1].GetRoute().GetHashPolicy()
	if len(split) != 1 || split[0].GetHeader().GetHeaderName() != "x-user" {
		t.Errorf("%s hashes %v", routes[0].Name, split)
	}
	if len(whole) != 1 || !whole[0].GetConnectionProperties().GetSourceIp() {
		t.Errorf("what is not sticky hashes %v", whole)
	}
}
