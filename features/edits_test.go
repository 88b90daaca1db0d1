package features

import (
	"slices"
	"strings"
	"testing"
)

// The mesh that the edits below are made to.
const (
	before = `mesh:
  name: shop
  circuit_breakers: {default: {max_requests: 100}}
  services:
    shop: {upstreams: [web, {service: db, local_bind_port: 5432}]}
    db: {protocol: tcp}
    web: {}
    other: {}
  security:
    mtls: {trust_domain: example, mode: strict}
    authorization:
      policies:
        - {name: web, action: ALLOW, sources: [web], destinations: [shop, db]}
`
	beforeCatalog = `services:
  web:
    - {id: web-1, address: 10.0.0.1, port: 8080, health: passing, meta: {mesh_port: "15008"}}
  db:
    - {id: db-1, address: 10.0.0.2, port: 5432, health: passing, meta: {mesh_port: "15008"}}
  other:
    - {id: other-1, address: 10.0.0.3, port: 8080, health: passing, meta: {mesh_port: "15008"}}
`
)

// TestAnEditMovesWhatItIsAbout and nothing else: what stands here is all that the
// proxies are sent, whichever protocol they speak. No listener moves but for what
// is of a listener, so nothing drains.
func TestAnEditMovesWhatItIsAbout(t *testing.T) {
	for _, edit := range []struct {
		what     string
		old, new string   // in the mesh file
		of, by   string   // in the catalog
		shop     []string // what a sidecar of shop is sent
		db       []string // and one of db
	}{
		{what: "a comment", old: "  name: shop\n", new: "  name: shop # the shop\n"},
		{
			what: "a limit of one service", old: "    web: {}\n", new: "    web: {circuit_breakers: {max_requests: 7}}\n",
			shop: []string{"cluster web"}, db: []string{"cluster web"},
		},
		{
			what: "the retries of one service", old: "    web: {}\n", new: "    web: {retry: {attempts: 1, conditions: [connect-failure]}}\n",
			shop: []string{"route outbound/web"}, db: []string{"route outbound/web"},
		},
		{
			what: "a limit of a service that shop does not call", old: "    other: {}\n", new: "    other: {circuit_breakers: {max_requests: 7}}\n",
			db: []string{"cluster other"},
		},
		{
			what: "an upstream more", old: "[web, {", new: "[web, other, {",
			shop: []string{"cluster other", "endpoint other", "route outbound/other", "scoped_route other", "scoped_route other.mesh"},
		},
		{
			what: "an upstream of TCP less", old: ", {service: db, local_bind_port: 5432}]", new: "]",
			shop: []string{"-cluster db", "-endpoint db", "-listener outbound_tcp_db"},
		},
		{
			what: "another port for an upstream of TCP", old: "local_bind_port: 5432", new: "local_bind_port: 5433",
			shop: []string{"listener outbound_tcp_db"},
		},
		{
			what: "a policy", old: "sources: [web], destinations: [shop, db]", new: "sources: [web, other], destinations: [shop, db]",
			shop: []string{"route inbound"}, db: []string{"secret callers/db"},
		},
		{
			what: "a policy of one service", old: "destinations: [shop, db]}\n", new: "destinations: [shop, db]}\n        - {name: no-admin, action: DENY, paths: [\"/admin/*\"], destinations: [shop]}\n",
			shop: []string{"route inbound"},
		},
		{
			what: "callers in plaintext", old: "mode: strict", new: "mode: permissive",
			shop: []string{"cluster db", "cluster web", "listener inbound"}, db: []string{"cluster db", "cluster other", "cluster shop", "cluster web", "listener inbound"},
		},
		{
			what: "an instance that moved", of: "10.0.0.1", by: "10.0.0.9",
			shop: []string{"endpoint web"}, db: []string{"endpoint web"},
		},
		{
			what: "an instance that is critical", of: "address: 10.0.0.2, port: 5432, health: passing", by: "address: 10.0.0.2, port: 5432, health: critical",
			shop: []string{"endpoint db"}, db: []string{"endpoint db"},
		},
		{
			what: "a service that shop does not call", of: "  other:\n", by: "  more:\n    - {id: more-1, address: 10.0.0.4, port: 8080, health: passing, meta: {mesh_port: \"15008\"}}\n  other:\n",
			db: []string{"cluster more", "endpoint more", "route outbound/more", "scoped_route more", "scoped_route more.mesh"},
		},
	} {
		for protocol, connect := range map[string]func(*mesh, proxy) *client{"delta": (*mesh).delta, "sotw": (*mesh).sotw} {
			t.Run(edit.what+"/"+protocol, func(t *testing.T) {
				inMesh(t, before, beforeCatalog, func(m *mesh) {
					shop, db := connect(m, sidecar("shop")), connect(m, sidecar("db"))
					defer shop.stop()
					defer db.stop()
					shop.moved()
					db.moved()
					if edit.old != "" {
						m.edit(replace(t, before, edit.old, edit.new))
					}
					if edit.of != "" {
						m.register(replace(t, beforeCatalog, edit.of, edit.by))
					}
					for c, want := range map[*client][]string{shop: edit.shop, db: edit.db} {
						if protocol == "sotw" { // which has no words for the removal of these
							want = slices.DeleteFunc(slices.Clone(want), func(s string) bool { return strings.HasPrefix(s, "-endpoint") })
						}
						if got := c.moved(); !slices.Equal(got, want) {
							t.Errorf("a sidecar was sent %q, want %q", got, want)
						}
					}
				})
			})
		}
	}
}

func replace(t *testing.T, text, old, with string) string {
	t.Helper()
	if strings.Count(text, old) != 1 {
		t.Fatalf("%q is not there once", old)
	}
	return strings.Replace(text, old, with, 1)
}

// When mTLS comes, sidecars first take both, then speak it, and then refuse whom
// no policy admits: each step is sent when all have acknowledged the one before.
func TestMTLSComesInSteps(t *testing.T) {
	off := strings.NewReplacer("mode: strict", "enabled: false", "    authorization:\n", "    authorization:\n      enabled: false\n").Replace(before)
	inMesh(t, off, beforeCatalog, func(m *mesh) {
		c := m.delta(sidecar("shop"))
		defer c.stop()
		chains := func() string {
			var names []string
			for _, chain := range c.listener("inbound").GetFilterChains() {
				names = append(names, chain.GetName())
			}
			return strings.Join(names, " ")
		}
		if got := chains(); got != "plaintext" {
			t.Fatalf("with mTLS off it takes %q", got)
		}
		var seen []string
		m.watch(func() {
			if now := chains(); len(seen) == 0 || seen[len(seen)-1] != now {
				seen = append(seen, now)
			}
		}, before)
		if want := []string{"plaintext", "mtls plaintext", "mtls"}; !slices.Equal(seen, want) {
			t.Errorf("it took %q, want %q", seen, want)
		}
	})
}
