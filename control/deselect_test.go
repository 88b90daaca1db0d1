package control

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
)

const selecting = withoutTLS + "  services: {web: {upstreams: [lake]}}\n"

const fourServices = `services:
  lake: [{id: l1, address: 10.0.0.2, port: 80}]
  web: [{id: w1, address: 10.0.0.3, port: 80}]
  nomad: [{id: n1, address: 10.0.0.4, port: 80}, {id: n2, address: 10.0.0.5, port: 80}, {id: n3, address: 10.0.0.6, port: 80}]
  nomad-client: [{id: c1, address: 10.0.0.7, port: 80}]
`

// A plan knows what an edit of the selection takes out: the resources, that it would
// wait, and who calls what is gone then.
func TestAPlanOfASelection(t *testing.T) {
	p := planned(t, selecting, fourServices, sidecar("web", "10.0.0.3"))
	is, err := p.Plan(t.Context(), []api.File{{Name: "edit.yaml", Content: selecting + "  discovery: {consul: {select: {exclude: [\"nomad*\", lake]}}}\n"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(is.Waits, "edit.yaml:5:24: 1 services of the catalog are left of 4") || !strings.Contains(is.Waits, "1 instances of the catalog are left of 6") {
		t.Errorf("it waits for %q", is.Waits)
	}
	if len(is.Resources) == 0 {
		t.Error("nothing differs")
	}
	if len(is.Warnings) != 1 || is.Warnings[0].Code != "MC2215" || is.Warnings[0].Line != 4 {
		t.Errorf("warnings %+v", is.Warnings)
	}
	// One of four is an edit like any other.
	is, err = p.Plan(t.Context(), []api.File{{Name: "edit.yaml", Content: selecting + "  discovery: {consul: {select: {exclude: [nomad-client]}}}\n"}})
	if err != nil || is.Waits != "" {
		t.Errorf("it waits for %q: %v", is.Waits, err)
	}
	// A catalog in a file has what somebody wrote down.
	if why := p.deselects(p.mesh.Load(), inForceOf(t, "mesh: {name: m, discovery: {method: file, file: a, consul: {select: {exclude: [\"*\"]}}}}")); why != nil {
		t.Errorf("of a file: %q", why)
	}
}

func inForceOf(t *testing.T, text string) *policy.Mesh {
	t.Helper()
	m, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What the mesh file leaves out is kept neither of a source's predecessor nor of the disk.
func TestAHandoverKeepsNothingThatIsNotSelected(t *testing.T) {
	c := NewCatalogs(slog.New(slog.DiscardHandler), "", func(string) bool { return false }, func(*watch.Catalog) {})
	before := wide(4, "a", "b", "c")
	c.selection = watch.Selection{Exclude: []string{"b"}}
	h := newHandover(slog.New(slog.DiscardHandler), time.Now(), time.Now().Add(time.Hour))
	h.whole, h.before = before, before
	s := &source{reader: nil, ctx: t.Context(), stop: func() {}}
	c.active, c.handover, c.given = s, h, before.Update(nil, []string{"a", "b"})
	c.settle(time.Now())
	if c.last.Service("a") == nil || c.last.Service("b") == nil {
		t.Fatal("what a new source lacks is not kept")
	}
	c.choose(inForceOf(t, "mesh: {name: m, discovery: {consul: {select: {exclude: [b]}}}}"), target{})
	if c.last.Service("a") == nil || len(c.last.Service("a").Instances) != 4 {
		t.Error("what is selected is not kept any more")
	}
	if c.last.Service("b") != nil {
		t.Error("what is excluded is kept")
	}
}
