package watch

import (
	"net/netip"
	"testing"
)

func instance(id string, port uint16) *Instance {
	return &Instance{ID: id, Address: netip.MustParseAddr("10.0.0.1"), Port: port, Weight: 1, Tags: []string{"a"}, Meta: map[string]string{"k": "v"}}
}

// Two replicas that came to the same catalog by other steps have the same digest.
func TestDigestsAreOfWhatIsThere(t *testing.T) {
	lake := &Service{Name: "lake", Instances: []*Instance{instance("lake-1", 1), instance("lake-2", 2)}}
	web := &Service{Name: "web", Instances: []*Instance{instance("web-1", 3)}}
	other := &Service{Name: "lake", Instances: []*Instance{instance("lake-1", 1)}}

	one := NewCatalog().Update([]*Service{lake, web}, nil)
	two := NewCatalog().Update([]*Service{web}, nil).Update([]*Service{other}, nil).Update([]*Service{lake}, nil)
	if one.Digest() != two.Digest() || one.Digest() == NewCatalog().Digest() {
		t.Errorf("%s and %s", one.Digest(), two.Digest())
	}
	if got := one.Update([]*Service{{Name: "known", Instances: nil}}, nil).Digest(); got != one.Digest() {
		t.Error("a service without entries makes a difference")
	}
	if got := one.Update(nil, []string{"web", "lake"}).Digest(); got != NewCatalog().Digest() {
		t.Errorf("of nothing: %s", got)
	}
	if got := one.LearnedAt(one.Learned()).Digest(); got != one.Digest() {
		t.Error("when it was learned makes a difference")
	}
	// Whatever readers can tell apart the digest does.
	for name, change := range map[string]func(*Instance){
		"id": func(i *Instance) { i.ID = "x" }, "address": func(i *Instance) { i.Address = netip.MustParseAddr("10.0.0.2") },
		"host": func(i *Instance) { i.Host = "h" }, "port": func(i *Instance) { i.Port++ }, "mesh port": func(i *Instance) { i.MeshPort++ },
		"weight": func(i *Instance) { i.Weight++ }, "health": func(i *Instance) { i.Health = Critical }, "zone": func(i *Instance) { i.Zone = "z" }, "datacenter": func(i *Instance) { i.Datacenter = "dc1" },
		"tags": func(i *Instance) { i.Tags = []string{"b"} }, "meta": func(i *Instance) { i.Meta = map[string]string{"k": "w"} }, "node meta": func(i *Instance) { i.NodeMeta = map[string]string{"k": "w"} },
	} {
		i := instance("web-1", 3)
		change(i)
		if one.Update([]*Service{{Name: "web", Instances: []*Instance{i}}}, nil).Digest() == one.Digest() {
			t.Errorf("another %s makes no difference", name)
		}
	}
	left := &Service{Name: "web", Instances: web.Instances, Excluded: []Excluded{{ID: "web-2", Reason: "no address"}}}
	if one.Update([]*Service{left}, nil).Digest() == one.Digest() {
		t.Error("an entry that is left out makes no difference")
	}
	// What ends a list is not the beginning of the next.
	more := instance("web-1", 3)
	more.Meta["x"] = "y"
	longer := &Service{Name: "web", Instances: []*Instance{more}}
	shorter := &Service{Name: "web", Instances: web.Instances, Excluded: []Excluded{{ID: "x", Reason: "y"}}}
	if one.Update([]*Service{longer}, nil).Digest() == one.Update([]*Service{shorter}, nil).Digest() {
		t.Error("metadata and an entry that is left out are the same")
	}
}
