package consul

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"datapunk.dev/controlplane/watch"
)

func TestNormaliseInstance(t *testing.T) {
	var e entry
	e.Node.Node, e.Node.Address = "n1", "10.1.0.1"
	e.Node.Locality = &locality{Region: "eu", Zone: "eu-1"}
	e.Service.ID, e.Service.Port = "lake-1", 8080
	e.Service.Tags = []string{"v2", "canary", "v2"}
	e.Service.Meta = map[string]string{"mesh_port": "15006", "version": "2"}
	e.Service.Weights.Passing, e.Service.Weights.Warning = 10, 3
	e.Checks = []check{{"serfHealth", "passing"}, {"app", "warning"}}

	got := normalise("lake", []entry{e}, reading{})
	want := &watch.Service{Name: "lake", Instances: []*watch.Instance{{
		ID: "lake-1", Address: netip.MustParseAddr("10.1.0.1"), Port: 8080, MeshPort: 15006, Weight: 3,
		Health: watch.Warning, Zone: "eu-1", Tags: []string{"canary", "v2"},
		Meta: map[string]string{"mesh_port": "15006", "version": "2"},
	}}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestNormaliseHealth(t *testing.T) {
	for _, tt := range []struct {
		checks string // id=status, separated by spaces
		want   watch.Health
	}{
		{"", watch.Passing},
		{"serfHealth=passing app=passing", watch.Passing},
		{"app=passing app2=warning", watch.Warning},
		{"app=warning app2=critical", watch.Critical},
		{"serfHealth=critical app=passing", watch.Critical},
		{"app=", watch.Critical},
		{"app=passing _service_maintenance:lake-1=critical", watch.Maintenance},
		{"app=critical _node_maintenance=critical", watch.Maintenance},
	} {
		var checks []check
		for _, f := range strings.Fields(tt.checks) {
			id, status, _ := strings.Cut(f, "=")
			checks = append(checks, check{id, status})
		}
		if got := health(checks); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.checks, got, tt.want)
		}
	}
}

// An entry that cannot be served is left out, and the reason is kept.
func TestNormaliseExcluded(t *testing.T) {
	for _, tt := range []struct {
		edit func(*entry)
		want string // the reason; empty: it is served
	}{
		{func(*entry) {}, ""},
		{func(e *entry) { e.Service.Address = "lake.internal" }, ""},
		{func(e *entry) { e.Service.Address, e.Node.Address = "", "node.internal" }, ""},
		{func(e *entry) { e.Service.Address = "lake internal" }, `address "lake internal" is neither an IP address nor a host name`},
		{func(e *entry) { e.Service.Address = "10.0.0.256" }, `address "10.0.0.256" is neither an IP address nor a host name: it ends in a number`},
		{func(e *entry) { e.Service.Address, e.Node.Address = "", "" }, `address "" is neither an IP address nor a host name`},
		{func(e *entry) { e.Service.Address = "0.0.0.0" }, "nothing can connect to address 0.0.0.0"},
		{func(e *entry) { e.Service.Address = "fe80::1%eth0" }, `address "fe80::1%eth0" is not an IP address that others can reach`},
		{func(e *entry) { e.Service.Address = "::ffff:10.0.0.1" }, ""},
		{func(e *entry) { e.Service.Port = 0 }, "port 0"},
		{func(e *entry) { e.Service.Port = 70000 }, "port 70000"},
		{func(e *entry) { e.Service.SocketPath = "/run/lake.sock" }, "it listens on a socket"},
		{func(e *entry) { e.Service.Kind = "connect-proxy" }, "it is a connect-proxy"},
		{func(e *entry) { e.Service.Meta["mesh_port"] = "https" }, `meta mesh_port "https" is not a port`},
		{func(e *entry) { e.Service.Meta["mesh_port"] = "0" }, `meta mesh_port "0" is not a port`},
		{func(e *entry) { e.Service.Meta = nil }, ""},
	} {
		s := normalise("lake", []entry{at1("10.0.0.1", tt.edit)}, reading{})
		reason := ""
		if len(s.Excluded) > 0 {
			reason = s.Excluded[0].Reason
		}
		if reason != tt.want || len(s.Instances)+len(s.Excluded) != 1 {
			t.Errorf("%+v: excluded for %q, want %q", s, reason, tt.want)
		}
	}
}

func TestNormaliseWeight(t *testing.T) {
	for _, tt := range []struct {
		passing, warning int
		status           string
		want             uint32
	}{
		{1, 1, "passing", 1},
		{10, 3, "passing", 10},
		{10, 3, "warning", 3},
		{10, 3, "critical", 10},
		{0, 1, "passing", 0}, // drains
		{1, 0, "warning", 0},
		{0, 0, "passing", 1}, // none was given
		{-5, 1, "passing", 0},
		{100_000, 1, "passing", 65535},
	} {
		e := at1("10.0.0.1", status(tt.status))
		e.Service.Weights.Passing, e.Service.Weights.Warning = tt.passing, tt.warning
		if got := normalise("lake", []entry{e}, reading{}).Instances[0].Weight; got != tt.want {
			t.Errorf("%+v: weight %d", tt, got)
		}
	}
}

func TestNormaliseZone(t *testing.T) {
	for _, tt := range []struct {
		want string
		edit func(*entry)
	}{
		{"", func(*entry) {}},
		{"n", func(e *entry) { e.Node.Meta = map[string]string{"zone": "n"} }},
		{"s", func(e *entry) { e.Node.Meta = map[string]string{"zone": "n"}; e.Service.Meta["zone"] = "s" }},
		{"nl", func(e *entry) { e.Node.Locality = &locality{Zone: "nl"}; e.Service.Meta["zone"] = "s" }},
		{"sl", func(e *entry) { e.Node.Locality = &locality{Zone: "nl"}; e.Service.Locality = &locality{Zone: "sl"} }},
	} {
		if got := normalise("lake", []entry{at1("10.0.0.1", tt.edit)}, reading{}).Instances[0].Zone; got != tt.want {
			t.Errorf("zone %q, want %q", got, tt.want)
		}
	}
}

// A host name is kept for the proxies to resolve, in one spelling.
func TestNormaliseHostname(t *testing.T) {
	a := at1("Lake.Internal.")
	b := at1("lake.internal", status("critical"))
	c := at1("other.internal")
	s := normalise("lake", []entry{a, b, c}, reading{})
	if len(s.Instances) != 2 || s.Instances[0].Host != "lake.internal" || s.Instances[0].Health != watch.Passing || s.Instances[1].Host != "other.internal" {
		t.Errorf("got %+v", s.Instances)
	}
	if s.Instances[0].Address.IsValid() {
		t.Errorf("it has an address: %v", s.Instances[0].Address)
	}
}

func TestNormaliseOnePlaceIsOneInstance(t *testing.T) {
	a := at1("10.0.0.1", status("critical"))
	b := at1("10.0.0.1", func(e *entry) { e.Service.ID = "other" })
	s := normalise("lake", []entry{a, b}, reading{})
	if len(s.Instances) != 1 || s.Instances[0].ID != "other" || s.Instances[0].Health != watch.Passing {
		t.Errorf("got %+v", s.Instances[0])
	}
}

func TestNormaliseLimitsMeta(t *testing.T) {
	e := at1("10.0.0.1", func(e *entry) {
		for i := range 100 {
			e.Service.Meta[fmt.Sprintf("key-%03d", i)] = "v"
		}
		e.Service.Meta["a-long-value"] = strings.Repeat("x", maxMetaValue+1)
		e.Service.Meta[strings.Repeat("k", maxMetaKey+1)] = "v"
	})
	m := normalise("lake", []entry{e}, reading{}).Instances[0].Meta
	if _, long := m["a-long-value"]; long || len(m) != maxMeta {
		t.Errorf("%d pairs kept", len(m))
	}
}

// The output of a check, or an order that moved, is no change.
func TestNormaliseIsStable(t *testing.T) {
	a, b := at1("10.0.0.1"), at1("10.0.0.2")
	if !normalise("lake", []entry{a, b}, reading{}).Equal(normalise("lake", []entry{b, a}, reading{})) {
		t.Error("the order of the entries matters")
	}
}

func BenchmarkNormalise(b *testing.B) {
	for _, n := range []int{3, 100} {
		entries := many(n)
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				normalise("lake", entries, reading{})
			}
		})
	}
}
