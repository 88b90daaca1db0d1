package watch_test

import (
	"testing"
	"time"

	"datapunk.dev/controlplane/watch"
)

func TestASelectionByName(t *testing.T) {
	for _, c := range []struct{ pattern, name, want string }{
		{"nomad*", "nomad", "nomad*"},
		{"nomad*", "Nomad-client", "nomad*"},
		{"nomad*", "my-nomad", ""},
		{"*-test", "lake-test", "*-test"},
		{"a*c", "abc", "a*c"},
		{"Lake", "lake", "Lake"},
		{"lake", "lake2", ""},
		{"*", "anything", "*"},
	} {
		if got := (watch.Selection{Exclude: []string{"other", c.pattern}}).Excludes(c.name); got != c.want {
			t.Errorf("%s of %s: %q", c.pattern, c.name, got)
		}
	}
}

// A service whose last instance went is known for days, but for one that the mesh file
// leaves out.
func TestWhatIsNotSelectedIsNotRemembered(t *testing.T) {
	service := func(name string, tags ...string) *watch.Service {
		s := &watch.Service{Name: name}
		s.SetInstances([]*watch.Instance{{ID: name, Port: 80, Host: name + ".example", Tags: tags}})
		return s
	}
	now := time.Now()
	n := watch.NewNames()
	catalog := watch.NewCatalog().Update([]*watch.Service{service("lake", "blue"), service("dome"), service("nomad", "blue"), service("gone", "blue")}, nil)
	n.Take(catalog, true, now)
	catalog = catalog.Update(nil, []string{"gone"})
	if n.Take(catalog, true, now).Service("gone") == nil {
		t.Fatal("a service whose last instance went is not known any more")
	}
	of := watch.Selection{Tags: []string{"blue"}, Exclude: []string{"nomad", "gone"}}
	if n.SetSelection(of).Service("gone") != nil {
		t.Error("a service that is excluded is remembered")
	}
	catalog = n.Source().Update([]*watch.Service{}, []string{"dome", "nomad"})
	out := n.Take(catalog, true, now)
	if out.Len() != 1 || out.Service("lake") == nil || n.Remembered() != 0 {
		t.Errorf("%d services, %d are remembered", out.Len(), n.Remembered())
	}
	if out = n.Take(catalog.Update(nil, []string{"lake"}), true, now); out.Service("lake") == nil {
		t.Error("one that is selected, and whose last instance went, is not known any more")
	}
}
