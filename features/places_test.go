package features

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
)

const (
	places = `mesh:
  name: shop
  security: {mtls: {enabled: false}, authorization: {enabled: false}}
  load_balancing: {locality: {failover: [{from: [dc1], to: [dc2]}, {from: [dc2], to: [dc1]}]}}
  services:
    shop: {}
    other: {upstreams: [web]}
    web: {subsets: {canary: {}}}
`
	placesCatalog = `services:
  web:
    - {id: web-1, address: 10.0.0.1, port: 8080, datacenter: dc1, zone: a, tags: [canary], meta: {mesh_port: "15008"}}
    - {id: web-2, address: 10.0.0.2, port: 8080, datacenter: dc2, zone: a, meta: {mesh_port: "15008"}}
    - {id: web-3, address: 10.0.0.3, port: 8080, datacenter: dc3, zone: a, meta: {mesh_port: "15008"}}
`
)

// order is where a client's calls go, by the last number of an address: priorities
// with bars in between.
func (c *client) order(cluster string) string {
	assignment, _ := c.has("endpoint " + cluster).(*endpointv3.ClusterLoadAssignment)
	var ranks []string
	for _, group := range assignment.GetEndpoints() {
		for len(ranks) <= int(group.GetPriority()) {
			ranks = append(ranks, "")
		}
		for _, e := range group.GetLbEndpoints() {
			address := e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress()
			ranks[group.GetPriority()] += address[strings.LastIndexByte(address, '.')+1:]
		}
	}
	return strings.Join(ranks, "|")
}

// TestEachDatacenterHasAnOrderOfItsOwn: callers of a datacenter are told of their own
// first, and of none that no rule names; who is in none of those with a rule is told of
// all alike.
func TestEachDatacenterHasAnOrderOfItsOwn(t *testing.T) {
	inMesh(t, places, placesCatalog, func(m *mesh) {
		clients := make(map[string]*client)
		for _, region := range []string{"dc1", "dc2", "dc3", ""} {
			for _, service := range []string{"shop", "other"} {
				p := sidecar(service)
				p.Region = region
				clients[service+" in "+region] = m.delta(p)
				defer clients[service+" in "+region].stop()
			}
		}
		hold := func(what string, want map[string]string) {
			t.Helper()
			for region, order := range want {
				for _, service := range []string{"shop", "other"} {
					if got := clients[service+" in "+region].order("web"); got != order {
						t.Errorf("%s: %s in %q calls %q, want %q", what, service, region, got, order)
					}
				}
			}
		}
		hold("at first", map[string]string{"dc1": "1|2", "dc2": "2|1", "dc3": "123", "": "123"})
		if got := clients["shop in dc2"].order("web|canary"); got != "1" {
			t.Errorf("a subset that is elsewhere alone: %q", got)
		}

		m.register(strings.Replace(placesCatalog, "{id: web-1,", "{id: web-4, address: 10.0.0.4, port: 8080, datacenter: dc1, meta: {mesh_port: \"15008\"}}\n    - {id: web-1,", 1))
		hold("with an instance more", map[string]string{"dc1": "41|2", "dc2": "2|41", "dc3": "4123", "": "4123"})
		m.register(strings.Replace(placesCatalog, "dc1", "dc4", 1))
		hold("with none in dc1", map[string]string{"dc1": "2", "dc2": "2", "dc3": "231", "": "231"})
		m.register(placesCatalog)

		for _, c := range clients {
			c.moved()
		}
		m.edit(strings.Replace(places, "{from: [dc1], to: [dc2]}", "{from: [dc1], to: [dc3, dc2]}", 1))
		hold("after an edit", map[string]string{"dc1": "1|3|2", "dc2": "2|1", "dc3": "123", "": "123"})
		for name, c := range clients {
			var want []string
			if strings.HasSuffix(name, "dc1") {
				want = []string{"endpoint web"} // the canary is in dc1 alone
			}
			if got := c.moved(); !slices.Equal(got, want) {
				t.Errorf("%s: the edit moved %v", name, got)
			}
		}
		m.edit(strings.Replace(places, "{from: [dc1], to: [dc2]}, ", "", 1))
		hold("without a rule", map[string]string{"dc1": "123", "dc2": "2|1", "dc3": "123", "": "123"})
	})
}

// TestWhatAnEditOfAPlaceMoves: where instances are stands in assignments, and whether
// that counts in clusters. No listener and no route has anything of it.
func TestWhatAnEditOfAPlaceMoves(t *testing.T) {
	const none = "  load_balancing: {locality: {failover: [{from: [dc1], to: [dc2]}, {from: [dc2], to: [dc1]}]}}\n"
	for _, edit := range []struct {
		old, new string // of the mesh file
		want     string
	}{
		{none, "  load_balancing: {locality: {mode: prefer_local}}\n", "cluster"},
		{"to: [dc2]", "to: [dc3]", "endpoint"},
		{"{from: [dc1]", "{from: [dc5]", "endpoint"},
		{"{locality: {", "{locality: {zone_meta: rack, ", "endpoint"},
		{"{locality: {", "{locality: {min_healthy_percent: 50, ", "endpoint"},
	} {
		t.Run(edit.new, func(t *testing.T) {
			inMesh(t, places, placesCatalog, func(m *mesh) {
				p := sidecar("shop")
				p.Region = "dc1"
				c := m.delta(p)
				defer c.stop()
				c.moved()
				m.edit(strings.Replace(places, edit.old, edit.new, 1))
				moved := c.moved()
				if len(moved) == 0 {
					t.Fatal("nothing moved")
				}
				for _, what := range moved {
					kind, _, _ := strings.Cut(what, " ")
					if kind != "endpoint" && kind != edit.want {
						t.Errorf("moved: %s", fmt.Sprint(moved))
					}
				}
			})
		})
	}
}
