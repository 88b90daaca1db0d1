// Package randommesh makes small meshes and calls at random, the same ones for the same
// seed, and says by the plainest of models what becomes of the calls. `controlplane why`
// and real Envoys are held against it.
//
// The mesh has the caller nexus, the service lake with the instances lake-1 (version v1)
// and lake-2 (v2), the service of TCP db with db-1, and ghost, which nobody is.
package randommesh

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// State is what the catalog says of an instance.
type State string

// The states of an instance.
const (
	Passing     State = "passing"
	Critical    State = "critical"
	Maintenance State = "maintenance"
	Absent      State = "absent"
)

// Instances are the names of all instances of the mesh, the caller's aside.
var Instances = []string{"lake-1", "lake-2", "db-1"}

// DBPort stands in the text of a mesh for the port at which the caller dials db.
const DBPort = "DBPORT"

// Mesh is one mesh.
type Mesh struct {
	States   map[string]State
	Upstream []string // that nexus declares; nil: all
	DB       bool     // and db, with a port
	Panic    int      // percent
	Subset   string   // lake's default; empty: all
	Fail     bool     // on an empty subset
	Slashes  bool     // lake takes encoded ones
	Routes   []Route
	Enabled  bool // authorization
	Allow    bool // by default
	Policies []Policy
}

// Route is one route to lake. Empty conditions are none.
type Route struct {
	Exact, Prefix, Method, Header, Query string // Header and Query: NAME=VALUE; a Header that begins with ! is inverted
	Does                                 string // "", rewrite, redirect, answer, split, fault, subset
	Status                               int
	To                                   string // what the rewrite puts there, or where the redirect leads
}

// Policy is one policy about lake, or about everybody.
type Policy struct {
	Deny, Shadow         bool
	Source, NotSource    string
	Method, Path, Header string
	OnlyLake             bool
}

// New makes the mesh of a seed.
func New(seed uint64) Mesh {
	r := rand.New(rand.NewPCG(seed, 14))
	chance := func(percent int) bool { return r.IntN(100) < percent }
	m := Mesh{States: make(map[string]State), Panic: pick(r, 0, 50), Enabled: chance(85), Allow: chance(15), DB: chance(70), Fail: chance(50), Slashes: chance(20)}
	for _, id := range Instances {
		m.States[id] = pick(r, Passing, Passing, Passing, Critical, Maintenance, Absent)
	}
	if chance(50) {
		m.Upstream = []string{}
		for _, name := range []string{"lake", "ghost"} {
			if chance(70) {
				m.Upstream = append(m.Upstream, name)
			}
		}
	}
	if chance(25) {
		m.Subset = pick(r, "v1", "v2")
	}
	for range r.IntN(4) {
		m.Routes = append(m.Routes, newRoute(r))
	}
	for range 1 + r.IntN(4) {
		m.Policies = append(m.Policies, newPolicy(r))
	}
	return m
}

func newRoute(r *rand.Rand) Route {
	route := Route{Does: pick(r, "", "rewrite", "redirect", "answer", "split", "fault", "subset")}
	if r.IntN(2) == 0 || route.Does == "rewrite" {
		if r.IntN(2) == 0 {
			route.Exact = pick(r, paths...)
		} else {
			route.Prefix = pick(r, "/api", "/admin", "/a", "/")
		}
	}
	if r.IntN(3) == 0 {
		route.Method = pick(r, methods...)
	}
	if r.IntN(4) == 0 {
		route.Header = pick(r, "x-a=one", "!x-a=one", "x-a=two")
	}
	if r.IntN(5) == 0 {
		route.Query = "q=1"
	}
	switch route.Does {
	case "rewrite":
		route.To = pick(r, "/admin", "/w")
	case "redirect":
		route.Status, route.To = pick(r, 301, 302, 307, 308), "/elsewhere"
	case "answer":
		route.Status = pick(r, 200, 204, 404, 403, 503)
	case "fault":
		route.Status = pick(r, 418, 503, 429)
	}
	return route
}

func newPolicy(r *rand.Rand) Policy {
	p := Policy{Deny: r.IntN(3) == 0, Shadow: r.IntN(8) == 0, OnlyLake: r.IntN(2) == 0}
	switch r.IntN(4) {
	case 0:
		p.Source = "other"
	case 1:
		p.NotSource = pick(r, "nexus", "other")
	default:
		p.Source = "nexus"
	}
	if r.IntN(3) == 0 {
		p.Method = pick(r, methods...)
	}
	if r.IntN(3) == 0 {
		p.Path = pick(r, "/admin/*", "/api/*", "/api", "/*")
	}
	if r.IntN(6) == 0 {
		p.Header = "x-a=one"
	}
	return p
}

var (
	methods = []string{"GET", "POST", "PUT"}
	paths   = []string{"/", "/api", "/api/x", "/admin", "/admin/x", "/old"}
)

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// Text is the mesh file.
func (m Mesh) Text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("mesh:")
	line("  name: m")
	line("  load_balancing: {panic_threshold: %d}", m.Panic)
	line("  services:")
	var upstreams []string
	if m.DB {
		upstreams = append(upstreams, "{service: db, local_bind_port: "+DBPort+"}")
	}
	upstreams = append(upstreams, m.Upstream...)
	switch {
	case m.Upstream != nil:
		line("    nexus: {upstreams: [%s]}", strings.Join(upstreams, ", "))
	case m.DB: // to have a port is to declare
		line("    nexus: {upstreams: [%s, lake, ghost]}", upstreams[0])
	default:
		line("    nexus: {}")
	}
	lake := "subsets: {v1: {version: v1}, v2: {version: v2}}"
	if m.Subset != "" {
		lake += ", default_subset: " + m.Subset
	}
	if m.Fail {
		lake += ", on_empty_subset: fail"
	}
	if m.Slashes {
		lake += ", encoded_slashes: keep"
	}
	line("    lake: {%s}", lake)
	line("    db: {protocol: tcp}")
	line("    ghost: {}")
	if len(m.Routes) > 0 {
		line("  routes:")
		for i, r := range m.Routes {
			line("    - {name: r%d, service: lake%s}", i, r.text())
		}
	}
	line("  security:")
	line("    authorization:")
	line("      enabled: %t", m.Enabled)
	if m.Allow {
		line("      default_action: ALLOW")
	}
	line("      policies:")
	for i, p := range m.Policies {
		line("        - {name: p%d%s}", i, p.text())
	}
	return b.String()
}

func (r Route) text() string {
	var match []string
	switch {
	case r.Exact != "":
		match = append(match, "path: {exact: "+r.Exact+"}")
	case r.Prefix != "":
		match = append(match, "path: {prefix: "+r.Prefix+"}")
	}
	if r.Method != "" {
		match = append(match, "methods: ["+r.Method+"]")
	}
	if r.Header != "" {
		name, value, _ := strings.Cut(strings.TrimPrefix(r.Header, "!"), "=")
		invert := ""
		if strings.HasPrefix(r.Header, "!") {
			invert = ", invert: true"
		}
		match = append(match, "headers: [{name: "+name+", exact: "+value+invert+"}]")
	}
	if r.Query != "" {
		match = append(match, "query: [{name: q, exact: \"1\"}]")
	}
	text := ""
	if len(match) > 0 {
		text = ", match: [{" + strings.Join(match, ", ") + "}]"
	}
	switch r.Does {
	case "rewrite":
		text += ", rewrite: {prefix: " + r.To + "}"
	case "redirect":
		text += fmt.Sprintf(", redirect: {path: %s, status: %d}", r.To, r.Status)
	case "answer":
		text += fmt.Sprintf(", direct_response: {status: %d}", r.Status)
	case "split":
		text += ", split: [{subset: v1, weight: 60}, {subset: v2, weight: 40}]"
	case "subset":
		text += ", split: [{subset: v1, weight: 100}]"
	case "fault":
		text += fmt.Sprintf(", fault: {abort: {status: %d, percent: 100}}", r.Status)
	}
	return text
}

func (p Policy) text() string {
	action := "ALLOW"
	if p.Deny {
		action = "DENY"
	}
	text := ", action: " + action
	if p.Shadow {
		text += ", mode: shadow"
	}
	for _, field := range []struct{ key, value string }{
		{"sources", p.Source}, {"not_sources", p.NotSource}, {"methods", p.Method},
	} {
		if field.value != "" {
			text += ", " + field.key + ": [" + field.value + "]"
		}
	}
	if p.Path != "" {
		text += ", paths: [\"" + p.Path + "\"]"
	}
	if p.Header != "" {
		name, value, _ := strings.Cut(p.Header, "=")
		text += ", headers: [{name: " + name + ", exact: " + value + "}]"
	}
	if p.OnlyLake {
		text += ", destinations: [lake]"
	}
	return text
}

// Place is where an instance is.
type Place struct {
	Address        string
	Port, MeshPort int
}

// Catalog is the catalog as a file, with the instances at their places.
func (m Mesh) Catalog(at map[string]Place) string {
	var b strings.Builder
	for _, service := range []string{"lake", "db"} {
		var list []string
		for _, id := range Instances {
			if !strings.HasPrefix(id, service) || m.States[id] == Absent {
				continue
			}
			p := at[id]
			list = append(list, fmt.Sprintf("{id: %s, address: %s, port: %d, health: %s, meta: {mesh_port: \"%d\", version: v%s}}", id, p.Address, p.Port, m.States[id], p.MeshPort, id[len(id)-1:]))
		}
		if len(list) > 0 {
			fmt.Fprintf(&b, "  %s: [%s]\n", service, strings.Join(list, ", "))
		}
	}
	if b.Len() == 0 {
		return "services: {}\n"
	}
	return "services:\n" + b.String()
}

// Places are some, for who calls nobody.
func Places() map[string]Place {
	return map[string]Place{"lake-1": {"10.0.0.2", 80, 15443}, "lake-2": {"10.0.0.3", 80, 15443}, "db-1": {"10.0.0.4", 80, 15443}}
}

// callable are the instances of a service, or of a version of it, that are called.
func (m Mesh) callable(service, version string) []string {
	var healthy, sick []string
	for _, id := range Instances {
		if !strings.HasPrefix(id, service) || version != "" && "v"+id[len(id)-1:] != version {
			continue
		}
		switch m.States[id] {
		case Passing:
			healthy = append(healthy, id)
		case Critical:
			sick = append(sick, id)
		}
	}
	if version == "" && len(healthy)*100 < m.Panic*(len(healthy)+len(sick)) {
		return slices.Concat(healthy, sick)
	}
	return healthy
}
