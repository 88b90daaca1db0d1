package watch_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/watch"
)

// named is a source's catalogs, one after the other, and what the mesh makes of them.
type named struct {
	*watch.Names
	t      *testing.T
	source *watch.Catalog
	now    time.Time
}

func newNamed(t *testing.T) *named {
	return &named{Names: watch.NewNames(), t: t, source: watch.NewCatalog(), now: time.Unix(0, 0)}
}

// has gives a service that many instances; none takes it out.
func (n *named) has(name string, instances int) *named {
	var ports []uint16
	for i := range instances {
		ports = append(ports, uint16(i+1))
	}
	if instances == 0 {
		n.source = n.source.Update(nil, []string{name})
	} else {
		n.source = n.source.Update([]*watch.Service{service(name, ports...)}, nil)
	}
	n.Take(n.source, true, n.now)
	return n
}

// are checks which services there are: "lake:2 dome:0".
func (n *named) are(want ...string) {
	n.t.Helper()
	var got []string
	for s := range n.Forget(n.now).Services() {
		got = append(got, fmt.Sprintf("%s:%d", s.Name, len(s.Instances)))
	}
	if !slices.Equal(got, want) {
		n.t.Fatalf("the services are %v, want %v", got, want)
	}
}

// notes are what is said to be left out at a service.
func (n *named) notes(name string) string {
	var all []string
	for _, x := range n.Forget(n.now).Service(name).Excluded {
		all = append(all, x.ID+": "+x.Reason)
	}
	return strings.Join(all, "\n")
}

func file(services ...string) map[string]string {
	m := make(map[string]string)
	for _, s := range services {
		name, at, _ := strings.Cut(s, "=")
		if at == "" {
			at = name
		}
		m[name] = at
	}
	return m
}

func TestOfNamesThatDifferInCaseTheFilesIsTheService(t *testing.T) {
	n := newNamed(t)
	n.SetFile(file("lake"))
	n.has("Lake", 1).are("lake:0") // nobody has the file's name yet
	n.has("lake", 2).has("LAKE", 1).are("lake:2")
	if got := n.notes("lake"); got != "LAKE-1: it is registered as LAKE, and hosts are compared without their case\n"+
		"Lake-1: it is registered as Lake, and hosts are compared without their case" {
		t.Errorf("the notes are\n%s", got)
	}
	n.has("Lake", 0).has("LAKE", 0).are("lake:2")
	if got := n.notes("lake"); got != "" {
		t.Errorf("the notes stay:\n%s", got)
	}
}

func TestOfNamesThatDifferInCaseTheFirstIsTheService(t *testing.T) {
	n := newNamed(t)
	n.has("lake", 2).has("Lake", 1).are("lake:2")
	n.has("lake", 3).are("lake:3")
	n.has("lake", 0).are("Lake:1") // now it is the only one
	n.has("lake", 2).are("Lake:1")
	if got := n.notes("Lake"); !strings.Contains(got, "lake-2: it is registered as lake") {
		t.Errorf("the notes are\n%s", got)
	}
	n.SetFile(file("lake"))
	n.are("lake:2")
	n.SetFile(nil)
	n.are("Lake:1") // it was there before the file named the other
}

// A control plane that starts finds both, and each replica the same.
func TestOfNamesThatDifferInCaseAndCameTogetherSmallLettersAreTheService(t *testing.T) {
	for _, order := range [][]string{{"Lake", "lake", "LAKE"}, {"lake", "LAKE", "Lake"}} {
		n := newNamed(t)
		var all []*watch.Service
		for _, name := range order {
			all = append(all, service(name, 1))
		}
		n.source = n.source.Update(all, nil)
		n.Take(n.source, true, n.now)
		n.are("lake:1")
	}
}

// The name in the catalog of a service of the file is that service's, whatever
// else is spelled like it.
func TestANameThatTheFileGivesToAServiceIsNoOther(t *testing.T) {
	n := newNamed(t)
	n.SetFile(file("water=Lake"))
	n.has("Lake", 1).has("lake", 2).are("Lake:1", "lake:2")
}

// Callers of a service that is away for a while are told that nobody is there, and
// not that there is no such thing.
func TestAServiceWhoseLastInstanceWentStays(t *testing.T) {
	n := newNamed(t)
	n.has("lake", 2).has("dome", 1).has("lake", 0).are("dome:1", "lake:0")
	if n.Remembered() != 1 {
		t.Errorf("%d are remembered", n.Remembered())
	}
	n.now = n.now.Add(71 * time.Hour)
	n.are("dome:1", "lake:0")
	n.has("lake", 1).has("lake", 0) // it was back for a moment
	n.now = n.now.Add(71 * time.Hour)
	n.are("dome:1", "lake:0")
	n.now = n.now.Add(2 * time.Hour)
	n.are("dome:1")
	// What never had an instance is not known.
	n.source = n.source.Update([]*watch.Service{{Name: "odd", Excluded: []watch.Excluded{{ID: "odd-1", Reason: "port 0"}}}}, nil)
	n.Take(n.source, true, n.now)
	n.has("odd", 0).are("dome:1")
}

// Who writes a file without the service has taken it out.
func TestAServiceThatIsTakenOutOfAFileIsGone(t *testing.T) {
	n := newNamed(t)
	n.has("lake", 1).has("dome", 1).has("lake", 0)
	n.Take(n.source.Update(nil, []string{"dome"}), false, n.now)
	n.are()
}

// A mesh that makes services by the hour must not have all of them in every Envoy.
func TestFewServicesAreKnownThatAreGone(t *testing.T) {
	n := newNamed(t)
	n.has("lake", 1)
	for i := range 1000 {
		n.now = n.now.Add(time.Second)
		n.has(fmt.Sprintf("run-%04d", i), 1).has(fmt.Sprintf("run-%04d", i), 0)
	}
	if n.Remembered() != 200 || n.Forget(n.now).Service("run-0999") == nil || n.Forget(n.now).Service("run-0799") != nil {
		t.Errorf("%d are remembered", n.Remembered())
	}
	// But all of a large mesh is, that went at once: its Envoys had them anyway.
	n = newNamed(t)
	for i := range 1000 {
		n.has(fmt.Sprintf("s-%04d", i), 1)
	}
	n.source = watch.NewCatalog()
	n.Take(n.source, true, n.now)
	if n.Remembered() != 1000 {
		t.Errorf("%d are remembered", n.Remembered())
	}
}

// Two containers of one machine may publish nothing but their sidecars.
func TestInstancesAreToldApartByWhatIsDialed(t *testing.T) {
	at := func(id, addr string, port, meshPort uint16, h watch.Health) *watch.Instance {
		i := service(id, port).Instances[0]
		i.ID, i.Address, i.MeshPort, i.Health = id, mustAddr(addr), meshPort, h
		return i
	}
	for _, tt := range []struct {
		name      string
		instances []*watch.Instance
		want      string // the IDs
		left      string // out, and why
	}{
		{"one app port, two sidecars", []*watch.Instance{at("a", "10.0.0.1", 8080, 20000, 0), at("b", "10.0.0.1", 8080, 20001, 0)}, "a b", ""},
		{"one without a sidecar sorts first", []*watch.Instance{at("b", "10.0.0.1", 8080, 20000, 0), at("a", "10.0.0.1", 8080, 0, 0)}, "a b", ""},
		{
			"two app ports, one sidecar",
			[]*watch.Instance{at("b", "10.0.0.1", 8080, 20000, 0), at("a", "10.0.0.1", 9090, 20000, 0)},
			"a",
			"b: it is one with instance a: callers of both dial 10.0.0.1:20000",
		},
		{
			"the better health of one place counts, and what is said does not move with it",
			[]*watch.Instance{at("a", "10.0.0.1", 8080, 20000, watch.Critical), at("b", "10.0.0.1", 8080, 20000, 0)},
			"b",
			"b: it is one with instance a: callers of both dial 10.0.0.1:20000",
		},
		{
			"the sidecar's port is registered as a service's too",
			[]*watch.Instance{at("a", "10.0.0.1", 20000, 0, 0), at("b", "10.0.0.1", 8080, 20000, watch.Critical)},
			"b",
			"b: it is one with instance a: callers of both dial 10.0.0.1:20000",
		},
		{
			"one address in two spellings",
			[]*watch.Instance{at("a", "fd00::1", 80, 0, 0), at("b", "fd00:0:0::0:1", 80, 0, 0)},
			"a",
			"b: it is one with instance a: callers of both dial [fd00::1]:80",
		},
		{"one ID on two machines", []*watch.Instance{at("a", "10.0.0.1", 80, 0, 0), at("a", "10.0.0.2", 80, 0, 0)}, "a a", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &watch.Service{Name: "lake"}
			s.SetInstances(tt.instances)
			var ids, left []string
			for _, i := range s.Instances {
				ids = append(ids, i.ID)
			}
			for _, x := range s.Excluded {
				left = append(left, x.ID+": "+x.Reason)
			}
			if got := strings.Join(ids, " "); got != tt.want {
				t.Errorf("instances %s, want %s", got, tt.want)
			}
			if got := strings.Join(left, "\n"); got != tt.left {
				t.Errorf("left out %q, want %q", got, tt.left)
			}
		})
	}
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }
