package translate

import (
	"fmt"
	"net/netip"
	"testing"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// Who is dialed for a subset is who is in its assignment: what a filter says too.
func TestWhoIsInASubsetIsDialed(t *testing.T) {
	instance := func(id, rack string) *watch.Instance {
		return &watch.Instance{ID: id, Address: netip.MustParseAddr("10.0.0." + id), Port: 80, Weight: 1, Meta: map[string]string{"rack": rack}}
	}
	s := Translate(nil, Input{
		Mesh: parse(t, `
mesh:
  name: t
  security: {mtls: {enabled: false}, authorization: {enabled: false}}
  services: {web: {subsets: {rack1: {filter: 'Service.Meta.rack == "1"'}}}}
`),
		Catalog: watch.NewCatalog().Update([]*watch.Service{{Name: "web", Instances: []*watch.Instance{instance("1", "1"), instance("2", "2")}}}, nil),
		Fleet:   resource.NewFleet(resource.Profile{Service: "client", Kind: resource.Sidecar}),
	})
	got := map[string]string{}
	for _, subset := range []string{"", "rack1", "gone"} {
		for i, dial := range s.Dialed("web", subset) {
			got[subset] += fmt.Sprintf("%s:%d:%s ", i.ID, dial.Port, dial.LeftOut)
		}
	}
	for subset, want := range map[string]string{
		"":      "1:80: 2:80: ",
		"rack1": "1:80: 2:0:it is not in the subset ",
		"gone":  "1:0:it is not in the subset 2:0:it is not in the subset ",
	} {
		if got[subset] != want {
			t.Errorf("subset %q: %s, want %s", subset, got[subset], want)
		}
	}
}

// All of the instances may be ejected where others stand behind them, and nowhere else.
func TestAllAreEjectedWhereOthersStandBehind(t *testing.T) {
	for rule, want := range map[string]uint32{
		"{from: [dc1], to: [dc2]}":                        100,
		"{from: [dc1], to: []}":                           50,
		"{from: [dc1], to: []}, {from: [dc2], to: [dc1]}": 100,
	} {
		s := parse(t, `
mesh:
  name: t
  discovery: {consul: {datacenter: dc1, datacenters: [dc1, dc2]}}
  load_balancing: {locality: {failover: [`+rule+`]}}
`).Service("web")
		if got := destinationsOf(s)[0].outliers.MaxEjectionPercent; got != want {
			t.Errorf("%s: %d percent, want %d", rule, got, want)
		}
	}
}
