package translate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// world is a mesh that a property test edits: the file, the catalog, and who
// is connected.
type world struct {
	mtls         string // "", "strict", "permissive"
	stage        Stage
	authorized   bool
	allowDefault bool
	tracing      bool
	retries      int
	locality     string                   // of the mesh
	services     map[string]*worldService // of the file
	routes       map[string]string        // of the file, from a service to another
	policies     []string
	broken       bool // a policy that Envoy would refuse
	catalog      *watch.Catalog
	fleet        *resource.Fleet
	roots        string
}

type worldService struct {
	protocol, consulService string
	upstreams               []string
	maxRequests             int
	bind                    bool
	locality                string
	subsets                 []string
	partly                  bool // the first subset is the default
}

var (
	worldNames    = []string{"a", "b", "c", "d", "e"}
	worldPolicies = []string{
		`{name: all, action: ALLOW, principals: ["spiffe://td/*"]}`,
		`{name: a-to-b, action: ALLOW, sources: [a], destinations: [b]}`,
		`{name: not-c, action: ALLOW, principals: ["spiffe://td/*"], not_sources: [c]}`,
		`{name: no-d, action: DENY, sources: [d], paths: ["/x/*"]}`,
		`{name: audit, action: AUDIT, methods: [POST]}`,
		`{name: shadow, action: DENY, mode: shadow, sources: [a]}`,
		`{name: port, action: DENY, sources: [e], ports: [8080]}`,
	}
)

// worldLocalities are ways to say how much it counts where an instance is.
var worldLocalities = []string{
	"{mode: any}", "{mode: prefer_local, zone_meta: rack}", "{failover: [{from: [dc1], to: [dc2]}, {from: [dc2]}]}",
	"{mode: prefer_local, min_healthy_percent: 50, failover: [{from: [dc1, dc3], to: [dc2]}]}",
}

// hugeRegex loads, and parse makes more of it than Envoy takes: what no file
// can say any more, a check of ours may still miss.
const hugeRegex = "huge"

func (w *world) file() string {
	var f strings.Builder
	f.WriteString("mesh:\n  name: td\n")
	fmt.Fprintf(&f, "  policies: {retry: {attempts: %d, timeout: 1s, conditions: [5xx]}}\n", w.retries)
	if w.locality != "" {
		fmt.Fprintf(&f, "  load_balancing: {locality: %s}\n", w.locality)
	}
	if w.tracing {
		f.WriteString("  telemetry: {tracing: {enabled: true, provider: otlp, sampling_rate: 0.5}}\n")
	}
	if w.mtls == "" {
		f.WriteString("  security: {mtls: {enabled: false}, authorization: {enabled: false}}\n")
	} else {
		fmt.Fprintf(&f, "  security:\n    mtls: {enabled: true, mode: %s, trust_domain: td}\n", w.mtls)
		if w.authorized {
			f.WriteString("    authorization:\n      enabled: true\n")
			if w.allowDefault {
				f.WriteString("      default_action: ALLOW\n")
			}
			f.WriteString("      policies:\n")
			for _, p := range w.policies {
				fmt.Fprintf(&f, "        - %s\n", p)
			}
			if w.broken {
				fmt.Fprintf(&f, "        - {name: broken, action: DENY, sources: [a], headers: [{name: x, regex: %s}]}\n", hugeRegex)
			}
			f.WriteString(`        - {name: last, action: ALLOW, sources: [a], destinations: [e], paths: ["/last"]}` + "\n")
		} else {
			f.WriteString("    authorization: {enabled: false}\n")
		}
	}
	if len(w.services) > 0 {
		f.WriteString("  services:\n")
	}
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		s := w.services[name]
		fmt.Fprintf(&f, "    %s:\n      protocol: %s\n", name, s.protocol)
		if s.consulService != "" {
			fmt.Fprintf(&f, "      consul_service: %s\n", s.consulService)
		}
		if s.maxRequests > 0 {
			fmt.Fprintf(&f, "      circuit_breakers: {max_requests: %d}\n", s.maxRequests)
		}
		if s.locality != "" {
			fmt.Fprintf(&f, "      load_balancing: {locality: %s}\n", s.locality)
		}
		if len(s.subsets) > 0 && s.protocol != "tcp" {
			fmt.Fprintf(&f, "      subsets: {%s: {}}\n", strings.Join(s.subsets, ": {}, "))
			if s.partly {
				fmt.Fprintf(&f, "      default_subset: %s\n", s.subsets[0])
			}
		}
		for i, u := range s.upstreams {
			if i == 0 {
				f.WriteString("      upstreams:\n")
			}
			if s.bind {
				fmt.Fprintf(&f, "        - {service: %s, local_bind_port: %d}\n", u, 6000+i)
			} else {
				fmt.Fprintf(&f, "        - %s\n", u)
			}
		}
	}
	speaksTCP := func(name string) bool { return w.services[name] != nil && w.services[name].protocol == "tcp" }
	first := true
	for _, name := range slices.Sorted(maps.Keys(w.routes)) {
		to := w.routes[name]
		if speaksTCP(name) || speaksTCP(to) {
			continue
		}
		if first {
			f.WriteString("  routes:\n")
			first = false
		}
		fmt.Fprintf(&f, "    - {name: to-%s, service: %s, match: [{path: {prefix: /x}}], split: [{service: %s}], mirror: {service: %s, percent: 5}}\n", name, name, to, to)
	}
	return f.String()
}

// edit changes one thing, or nothing.
func (w *world) edit(t *rapid.T) {
	name := rapid.SampledFrom(worldNames).Draw(t, "name")
	switch rapid.IntRange(0, 13).Draw(t, "edit") {
	case 0, 1, 2:
		w.editCatalog(t, name)
	case 3, 4:
		w.editFleet(t, name)
	case 5:
		w.services[name] = &worldService{
			protocol:    rapid.SampledFrom([]string{"http", "tcp", "grpc"}).Draw(t, "protocol"),
			upstreams:   rapid.SliceOfNDistinct(rapid.SampledFrom(worldNames), 0, 3, rapid.ID).Draw(t, "upstreams"),
			maxRequests: rapid.IntRange(0, 2).Draw(t, "max_requests"),
			bind:        rapid.Bool().Draw(t, "bind"),
			subsets:     rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"red", "blue"}), 0, 2, rapid.ID).Draw(t, "subsets"),
			partly:      rapid.Bool().Draw(t, "default"),
			locality:    rapid.SampledFrom(append(worldLocalities, "", "")).Draw(t, "locality of it"),
		}
		// Claims of one catalog name by two services are refused on loading.
		if other := "consul-" + name; rapid.Bool().Draw(t, "renamed") {
			w.services[name].consulService = other
		}
	case 6:
		delete(w.services, name)
	case 7:
		w.mtls = rapid.SampledFrom([]string{"", "strict", "permissive"}).Draw(t, "mtls")
		w.stage = rapid.SampledFrom([]Stage{Settled, Settled, Listening, Calling}).Draw(t, "stage")
	case 8:
		w.authorized, w.allowDefault = rapid.Bool().Draw(t, "authorized"), rapid.Bool().Draw(t, "allow")
		w.policies = rapid.SliceOfNDistinct(rapid.SampledFrom(worldPolicies), 0, 4, rapid.ID).Draw(t, "policies")
	case 9:
		w.tracing = !w.tracing
	case 10:
		w.retries = rapid.IntRange(0, 3).Draw(t, "retries")
		w.broken = rapid.Bool().Draw(t, "broken")
	case 11:
		w.roots = rapid.SampledFrom([]string{"root 1", "root 2"}).Draw(t, "roots")
	case 13:
		w.locality = rapid.SampledFrom(append(worldLocalities, "")).Draw(t, "locality")
	case 12:
		if delete(w.routes, name); rapid.Bool().Draw(t, "route") {
			w.routes[name] = rapid.SampledFrom(worldNames).Draw(t, "to")
		}
	}
}

func (w *world) editCatalog(t *rapid.T, name string) {
	if rapid.Bool().Draw(t, "consul name") {
		name = "consul-" + name
	}
	if rapid.IntRange(0, 9).Draw(t, "which") == 0 {
		name = rapid.SampledFrom([]string{"jaeger", "not valid"}).Draw(t, "other")
	}
	count := rapid.IntRange(-1, 3).Draw(t, "instances")
	if count < 0 {
		w.catalog = w.catalog.Update(nil, []string{name})
		return
	}
	s := &watch.Service{Name: name}
	for i := range count {
		address, host := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), ""
		if rapid.IntRange(0, 3).Draw(t, "named") == 0 {
			address, host = netip.Addr{}, fmt.Sprintf("i%d.example", i)
		}
		s.Instances = append(s.Instances, &watch.Instance{
			ID: fmt.Sprint(i), Address: address, Host: host, Port: 8080,
			MeshPort:   rapid.SampledFrom([]uint16{0, 15008}).Draw(t, "mesh_port"),
			Weight:     rapid.Uint32Range(0, 2).Draw(t, "weight"),
			Health:     watch.Health(rapid.IntRange(0, 3).Draw(t, "health")),
			Datacenter: rapid.SampledFrom([]string{"", "dc1", "dc2", "dc3"}).Draw(t, "datacenter"),
			Zone:       rapid.SampledFrom([]string{"", "z1", "z2"}).Draw(t, "zone"),
			Meta:       map[string]string{"rack": rapid.SampledFrom([]string{"", "r1"}).Draw(t, "rack")},
			Tags:       rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"blue", "red"}), 0, 1, rapid.ID).Draw(t, "tags"),
		})
	}
	w.catalog = w.catalog.Update([]*watch.Service{s}, nil)
}

func (w *world) editFleet(t *rapid.T, name string) {
	p := resource.Profile{
		Service:      name,
		Kind:         rapid.SampledFrom([]resource.Kind{resource.Sidecar, resource.Sidecar, resource.Proxyless}).Draw(t, "kind"),
		Region:       rapid.SampledFrom([]string{"", "dc1", "dc2", "dc4"}).Draw(t, "region"),
		AppPort:      rapid.SampledFrom([]uint16{0, 8080, 9090}).Draw(t, "app_port"),
		MeshPort:     15008,
		OutboundPort: rapid.SampledFrom([]uint16{0, 15001, 6000}).Draw(t, "outbound_port"),
		MetricsPort:  rapid.SampledFrom([]uint16{0, 9102}).Draw(t, "metrics_port"),
	}
	known := slices.Collect(w.fleet.Profiles())
	switch {
	case len(known) > 0 && rapid.Bool().Draw(t, "leave"):
		w.fleet = w.fleet.Update(nil, []resource.Profile{rapid.SampledFrom(known).Draw(t, "who")})
	case rapid.IntRange(0, 4).Draw(t, "again") == 0:
		w.fleet = resource.NewFleet(append(known, p)...) // nothing is known of how it differs
	default:
		w.fleet = w.fleet.Update([]resource.Profile{p}, nil)
	}
}

// TestHistoryDoesNotMatter is the promise that the predecessor only makes a
// translation cheap: whatever edits came before, the result is that of a fresh
// one. What could not be made is the exception, and is named in Held.
func TestHistoryDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{services: map[string]*worldService{}, routes: map[string]string{}, catalog: watch.NewCatalog(), fleet: resource.NewFleet(), roots: "root 1"}
		w.mtls = rapid.SampledFrom([]string{"", "strict", "permissive"}).Draw(rt, "first mtls")
		w.authorized = rapid.Bool().Draw(rt, "first authorized")
		w.policies = some(rt, "first policies", worldPolicies, 4)
		var last *Snapshot
		mesh, text := parse(t, w.file()), w.file()
		for step := range rapid.IntRange(1, 12).Draw(rt, "steps") {
			for range rapid.IntRange(1, 3).Draw(rt, "edits") {
				w.edit(rt)
			}
			if now := w.file(); now != text {
				mesh, text = parse(t, now), now
			}
			in := Input{Mesh: mesh, Catalog: w.catalog, Fleet: w.fleet, Stage: w.stage}
			if w.mtls != "" || w.stage != Settled {
				in.Roots = []byte(w.roots)
			}
			next := Translate(last, in)
			compare(rt, step, next, Translate(nil, in))
			if last != nil {
				compareSteps(rt, step, last, next)
			}
			last = next
		}
	})
}

// compare fails if two snapshots of one input differ but in what is held.
func compare(t *rapid.T, step int, got, want *Snapshot) {
	if !slices.EqualFunc(got.Held, want.Held, func(a, b Held) bool {
		return a.Type == b.Type && a.Name == b.Name && a.Cause == b.Cause && slices.Equal(a.Keys, b.Keys)
	}) {
		t.Fatalf("step %d: held\n%v\nfresh\n%v", step, got.Held, want.Held)
	}
	if !slices.Equal(got.Notes, want.Notes) {
		t.Fatalf("step %d: notes\n%q\nfresh\n%q", step, got.Notes, want.Notes)
	}
	held := make(map[resource.Ref]bool)
	for _, h := range want.Held {
		held[h.Type.Ref(h.Name)] = true
	}
	views := slices.Collect(sights(want))
	if n := len(slices.Collect(sights(got))); n != len(views) {
		t.Fatalf("step %d: %d views, fresh %d", step, n, len(views))
	}
	for _, w := range views {
		g := sightOf(got, w.Profile)
		if g == nil {
			t.Fatalf("step %d: no view of %+v", step, w.Profile)
		}
		if !slices.Equal(g.Missing, w.Missing) {
			t.Fatalf("step %d: missing %q, fresh %q", step, g.Missing, w.Missing)
		}
		for kind := range resource.NumTypes {
			for _, name := range different(g.Sets[kind], w.Sets[kind]) {
				if !held[kind.Ref(name)] {
					t.Fatalf("step %d: %s %s of %+v differs from a fresh one", step, kind, name, w.Profile)
				}
			}
		}
	}
}

// compareSteps fails if a snapshot does not say what it changed, or changed
// what it had not to.
func compareSteps(t *rapid.T, step int, last, next *Snapshot) {
	scopes := make(map[string]*resource.Scope)
	for _, s := range next.ChangedScopes {
		if scopes[s.Key] != nil {
			t.Fatalf("step %d: scope %s has changed twice", step, s.Key)
		}
		scopes[s.Key] = s
	}
	for key, s := range next.state.scopes.All() {
		before := last.Scope(key)
		switch changed := scopes[key]; {
		case (changed != nil) != (before == nil || before.Sets != s.Sets):
			t.Fatalf("step %d: scope %s: among the changed %t", step, key, changed != nil)
		case changed != nil && *changed != s.Scope:
			t.Fatalf("step %d: the changed scope %s is not the scope", step, key)
		}
		delete(scopes, key)
		if before != nil {
			compareSets(t, step, "scope "+key, before.Sets, s.Sets)
		}
	}
	if len(scopes) > 0 {
		t.Fatalf("step %d: scopes changed that are not there", step)
	}

	changed := make(map[resource.Profile]*resource.View)
	for _, v := range next.ChangedViews {
		if changed[v.Profile] != nil {
			t.Fatalf("step %d: %+v has changed twice", step, v.Profile)
		}
		changed[v.Profile] = v
	}
	same := func(a, b *resource.View) bool {
		return a.Scope == b.Scope && a.Own == b.Own && slices.Equal(a.Missing, b.Missing)
	}
	for v := range views(next) {
		before := last.View(v.Profile)
		switch c := changed[v.Profile]; {
		case before == nil && c == nil:
			t.Fatalf("step %d: %+v is new and not among the changed", step, v.Profile)
		case before != nil && (c != nil) == same(v, before):
			t.Fatalf("step %d: %+v: among the changed %t, and the same %t", step, v.Profile, c != nil, same(v, before))
		case c != nil && !same(c, v):
			t.Fatalf("step %d: the changed view of %+v is not its view", step, v.Profile)
		}
		if before != nil {
			compareSets(t, step, fmt.Sprintf("%+v", v.Profile), before.Own, v.Own)
		}
	}
	for v := range views(last) {
		if gone := next.View(v.Profile) == nil; gone != slices.Contains(next.Removed, v.Profile) {
			t.Fatalf("step %d: %+v: gone %t, and not so in removed", step, v.Profile, gone)
		}
	}
}

// compareSets fails if a set does not say what it changed, or is another one and
// has changed nothing.
func compareSets(t *rapid.T, step int, of string, before, after resource.Sets) {
	for kind := range resource.NumTypes {
		a, b := before[kind], after[kind]
		if a == nil || b == nil {
			continue
		}
		names, known := b.ChangedSince(a)
		actual := different(a, b)
		for _, name := range actual {
			if r, old := b.Get(name), a.Get(name); r != nil && old != nil && r.Version == old.Version {
				continue // only where it comes from
			}
			if known && !slices.Contains(names, name) {
				t.Fatalf("step %d: the set does not know that %s %s of %s changed", step, kind, name, of)
			}
		}
		if known && len(actual) == 0 && a != b {
			t.Fatalf("step %d: the %s of %s are another set of the same", step, kind, of)
		}
	}
}

// different are the names whose resources differ between two sets.
func different(a, b *resource.Set) []string {
	var names []string
	for r := range a.All() {
		if o := b.Get(r.Name); o == nil || !r.Same(o) {
			names = append(names, r.Name)
		}
	}
	for r := range b.All() {
		if a.Get(r.Name) == nil {
			names = append(names, r.Name)
		}
	}
	return names
}
