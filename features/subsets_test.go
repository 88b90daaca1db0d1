package features

import (
	"slices"
	"testing"
)

const (
	parts = `mesh:
  name: shop
  security: {mtls: {enabled: false}, authorization: {enabled: false}}
  services:
    shop: {}
    web:
      subsets: {stable: {version: "1"}, canary: {}}
      default_subset: stable
`
	partsCatalog = `services:
  web:
    - {id: web-1, address: 10.0.0.1, port: 8080, meta: {mesh_port: "15008", version: "1"}}
    - {id: web-2, address: 10.0.0.2, port: 8080, tags: [canary], meta: {mesh_port: "15008", version: "2"}}
`
)

// TestWhatAnEditOfASubsetMoves: the clusters of the subsets it is about, with
// their assignments. Each comes before the routes that lead to it, and goes
// after them.
func TestWhatAnEditOfASubsetMoves(t *testing.T) {
	for _, edit := range []struct {
		what     string
		old, new string // in the mesh file
		of, by   string // in the catalog
		want     []string
	}{
		{
			what: "a subset more", old: "canary: {}}", new: "canary: {}, beta: {tag: beta}}",
			want: []string{"cluster web|beta", "endpoint web|beta"},
		},
		{
			what: "a subset less", old: ", canary: {}}", new: "}",
			want: []string{"-cluster web|canary", "-endpoint web|canary"},
		},
		{
			what: "another tag", old: "canary: {}", new: "canary: {tag: other}",
			want: []string{"endpoint web|canary"},
		},
		{
			what: "another default", old: "default_subset: stable", new: "default_subset: canary",
			want: []string{
				"-cluster web|stable|fallback", "cluster web|canary", "cluster web|canary|fallback", "cluster web|stable",
				"route outbound/web",
			},
		},
		{
			what: "an instance that comes to be of another subset", of: "tags: [canary], meta: {mesh_port: \"15008\", version: \"2\"}", by: "meta: {mesh_port: \"15008\", version: \"1\"}",
			want: []string{"endpoint web|canary", "endpoint web|stable"},
		},
		{
			what: "an instance of one subset that is critical", of: "port: 8080, tags: [canary]", by: "port: 8080, health: critical, tags: [canary]",
			want: []string{"endpoint web", "endpoint web|canary"},
		},
		{
			what: "what no subset asks for", of: "tags: [canary]", by: "tags: [canary, nightly]",
		},
	} {
		for protocol, connect := range map[string]func(*mesh, proxy) *client{"delta": (*mesh).delta, "sotw": (*mesh).sotw} {
			t.Run(edit.what+"/"+protocol, func(t *testing.T) {
				inMesh(t, parts, partsCatalog, func(m *mesh) {
					c := connect(m, sidecar("shop"))
					defer c.stop()
					c.moved()
					if edit.old != "" {
						m.edit(replace(t, parts, edit.old, edit.new))
					} else {
						m.register(replace(t, partsCatalog, edit.of, edit.by))
					}
					want := slices.Clone(edit.want)
					if protocol == "sotw" { // which has no words for the removal of these
						want = slices.DeleteFunc(want, func(s string) bool { return len(s) > 9 && s[:9] == "-endpoint" })
					}
					if got := c.moved(); !slices.Equal(got, want) {
						t.Errorf("a sidecar was sent %q, want %q", got, want)
					}
				})
			})
		}
	}
}
