package features

import (
	"slices"
	"strings"
	"testing"
)

const (
	limited = `mesh:
  name: shop
  services:
    web: {rate_limit: {requests: 100, per: service}}
    other: {rate_limit: {requests: 100}}
  security: {authorization: {policies: [{name: all, action: ALLOW, sources: [shop]}]}}
`
	limitedCatalog = `services:
  web: [{id: web-1, address: 10.0.0.1, port: 8080, meta: {mesh_port: "15008"}}]
  other: [{id: other-1, address: 10.0.0.2, port: 8080, meta: {mesh_port: "15008"}}]
`
	oneMore = `, {id: more, address: 10.0.0.9, port: 8080, meta: {mesh_port: "15008"}}]`
)

// TestWhatFillsTheBucketsOfALimit: an edit of it, and instances that come where it is
// divided among them. Buckets stand in an extension, and begin anew with it alone.
func TestWhatFillsTheBucketsOfALimit(t *testing.T) {
	const bucket = "extension controlplane.inbound"
	for _, edit := range []struct {
		what     string
		old, new string // in the mesh file
		of, by   string // in the catalog
		want     map[string]bool
	}{
		{what: "the limit of one", old: "web: {rate_limit: {requests: 100", new: "web: {rate_limit: {requests: 101", want: map[string]bool{"web": true}},
		{what: "a policy", old: "sources: [shop]", new: "sources: [shop, nexus]"},
		{what: "retries", old: "other: {", new: "other: {retry: {attempts: 1}, "},
		{what: "an instance more, where it is divided", of: `meta: {mesh_port: "15008"}}]` + "\n  other", by: `meta: {mesh_port: "15008"}}` + oneMore + "\n  other", want: map[string]bool{"web": true}},
		{what: "an instance that is critical, beside none", of: "web-1, address: 10.0.0.1,", by: "web-1, health: critical, address: 10.0.0.1,"},
		{what: "an instance more, where each has its own", of: `10.0.0.2, port: 8080, meta: {mesh_port: "15008"}}]`, by: `10.0.0.2, port: 8080, meta: {mesh_port: "15008"}}` + oneMore},
	} {
		for protocol, connect := range map[string]func(*mesh, proxy) *client{"delta": (*mesh).delta, "sotw": (*mesh).sotw} {
			t.Run(edit.what+"/"+protocol, func(t *testing.T) {
				inMesh(t, limited, limitedCatalog, func(m *mesh) {
					clients := make(map[string]*client)
					for _, service := range []string{"web", "other"} {
						clients[service] = connect(m, sidecar(service))
						defer clients[service].stop()
						clients[service].moved()
					}
					if edit.old != "" {
						m.edit(replace(t, limited, edit.old, edit.new))
					} else {
						m.register(replace(t, limitedCatalog, edit.of, edit.by))
					}
					for service, c := range clients {
						if got := slices.Contains(c.moved(), bucket); got != edit.want[service] {
							t.Errorf("the buckets of %s are filled: %v", service, got)
						}
					}
				})
			})
		}
	}
}

const (
	counted = `mesh:
  name: shop
  policies: {rate_limit: {server: {service: limits}}}
  services:
    limits: {protocol: grpc}
    web: {upstreams: []}
    other: {upstreams: [web]}
  security: {authorization: {enabled: false}}
`
	countedCatalog = `services:
  limits: [{id: limits-1, address: 10.0.0.3, port: 8081, meta: {mesh_port: "15008"}}]
  shared: [{id: shared-1, address: 10.0.0.4, port: 8081, meta: {mesh_port: "15008"}}]
` + "  web: [{id: web-1, address: 10.0.0.1, port: 8080, meta: {mesh_port: \"15008\"}}]\n"
)

// TestWhatAnEditOfTheServerOfLimitsMoves: no listener. Who is to ask the server has its
// cluster, whatever upstreams it declares.
func TestWhatAnEditOfTheServerOfLimitsMoves(t *testing.T) {
	on := strings.Replace(counted, "web: {", "web: {rate_limit: {per: global}, ", 1)
	for _, edit := range []struct {
		what, from, old, new string
		web, other           []string
	}{
		{what: "it is asked", from: counted, old: "web: {", new: "web: {rate_limit: {per: global}, ", web: []string{"extension controlplane.inbound"}},
		{what: "it is asked no more", from: on, old: "per: global", new: "mode: off", web: []string{"extension controlplane.inbound"}},
		{what: "its timeout, where nobody asks it", from: counted, old: "service: limits}", new: "service: limits, timeout: 1ms}"},
		{what: "its timeout", from: on, old: "service: limits}", new: "service: limits, timeout: 1ms}", web: []string{"extension controlplane.inbound"}},
		{
			what: "another service", from: on, old: "{service: limits}}}\n  services:\n", new: "{service: shared}}}\n  services:\n    shared: {protocol: grpc}\n",
			web:   []string{"-cluster limits", "-endpoint limits", "cluster shared", "endpoint shared", "extension controlplane.inbound"},
			other: []string{"-cluster limits", "-endpoint limits", "cluster shared", "endpoint shared"},
		},
		{
			what: "none of the mesh", from: on, old: "service: limits", new: "address: 10.0.0.9:8081",
			web:   []string{"-cluster limits", "-endpoint limits", "cluster mesh_rate_limit", "extension controlplane.inbound"},
			other: []string{"-cluster limits", "-endpoint limits", "cluster mesh_rate_limit"},
		},
		{
			what: "one of the mesh again", from: strings.Replace(on, "service: limits", "address: 10.0.0.9:8081", 1), old: "address: 10.0.0.9:8081", new: "service: limits",
			web:   []string{"-cluster mesh_rate_limit", "cluster limits", "endpoint limits", "extension controlplane.inbound"},
			other: []string{"-cluster mesh_rate_limit", "cluster limits", "endpoint limits"},
		},
	} {
		for protocol, connect := range map[string]func(*mesh, proxy) *client{"delta": (*mesh).delta, "sotw": (*mesh).sotw} {
			t.Run(edit.what+"/"+protocol, func(t *testing.T) {
				inMesh(t, edit.from, countedCatalog, func(m *mesh) {
					web, other := connect(m, sidecar("web")), connect(m, sidecar("other"))
					defer web.stop()
					defer other.stop()
					web.moved()
					other.moved()
					m.edit(replace(t, edit.from, edit.old, edit.new))
					for c, want := range map[*client][]string{web: edit.web, other: edit.other} {
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
