// Package analyze finds what an operator should know of a mesh file that loads: what
// is likely a mistake though each key is right, by itself and beside a catalog. Each
// finding has a code of the MC22xx of package codes.
package analyze

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"datapunk.dev/controlplane/admission"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/spelling"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/yamlfile"
)

// Mesh returns what is found, in the order of the file. Without a catalog, which is
// nil then, names are not looked up.
func Mesh(m *policy.Mesh, catalog *watch.Catalog) ([]yamlfile.Problem, error) {
	a := &analysis{mesh: m, catalog: catalog, names: make(map[string]string)}
	a.collectNames()
	a.unknownNames()
	a.leftOut()
	a.instances()
	a.defaults()
	for _, name := range m.Names() {
		a.service(m.Service(name))
	}
	a.storms()
	a.security()
	if err := a.deniedUpstreams(); err != nil {
		return nil, err
	}
	return yamlfile.Sort(a.found, m.Files), nil
}

// Names returns what is found of names alone: those that neither the file nor the catalog
// knows, each with the one that is near.
func Names(m *policy.Mesh, catalog *watch.Catalog) []yamlfile.Problem {
	a := &analysis{mesh: m, catalog: catalog, names: make(map[string]string)}
	a.collectNames()
	a.unknownNames()
	a.leftOut()
	return yamlfile.Sort(a.found, m.Files)
}

type analysis struct {
	mesh    *policy.Mesh
	catalog *watch.Catalog
	names   map[string]string // services of the mesh that the catalog has → their name there
	found   []yamlfile.Problem
}

func (a *analysis) add(code, key, hint, format string, args ...any) {
	a.found = append(a.found, yamlfile.Problem{
		Source: a.mesh.Source(key), Code: yamlfile.Code(code), Key: "mesh." + strings.TrimPrefix(key, "mesh."),
		Message: fmt.Sprintf(format, args...), Hint: hint, Width: 1,
	})
}

// collectNames finds which service of the mesh is which of the catalog.
func (a *analysis) collectNames() {
	if a.catalog == nil {
		return
	}
	claimed := make(map[string]bool)
	for _, name := range a.mesh.Names() {
		in := a.mesh.Service(name).ConsulService
		claimed[in] = true
		if !a.catalog.Service(in).Empty() {
			a.names[name] = in
		}
	}
	for s := range a.catalog.Services() {
		if !claimed[s.Name] {
			a.names[s.Name] = s.Name
		}
	}
}

func (a *analysis) near(name string) string {
	if near := spelling.Nearest(name, maps.Keys(a.names)); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	known := slices.Sorted(maps.Keys(a.names))
	return "known: " + strings.Join(known[:min(len(known), 5)], ", ")
}

// unknownNames finds names that nobody is.
func (a *analysis) unknownNames() {
	if a.catalog == nil {
		return
	}
	inFile := make(map[string]bool)
	for _, name := range a.mesh.Names() {
		inFile[name] = true
		s := a.mesh.Service(name)
		if _, ok := a.names[name]; !ok && a.unselected(s.ConsulService) == "" {
			a.add("MC2201", keyOf(s), a.near(s.ConsulService), "service %s: the catalog has no service %s", name, s.ConsulService)
		}
	}
	unknown := func(name string) bool {
		_, known := a.names[name]
		return !known && !inFile[name]
	}
	for _, name := range a.mesh.Names() {
		for _, u := range a.mesh.Service(name).Upstreams {
			if unknown(u.Service) && a.unselected(u.Service) == "" {
				a.add("MC2202", "services."+name+".upstreams", a.near(u.Service), "service %s: upstream %s is no service of the file or of the catalog", name, u.Service)
			}
		}
	}
	for _, p := range a.mesh.Authorization.Policies {
		for key, names := range map[string][]string{"sources": p.Sources, "not_sources": p.NotSources, "destinations": p.Destinations, "not_destinations": p.NotDestinations} {
			for _, name := range names {
				if unknown(name) {
					a.add("MC2203", p.Key+"."+key, a.near(name), "policy %s: %s in %s is no service of the file or of the catalog%s", p.Name, name, key, effectOf(p, key))
				}
			}
		}
	}
}

// keyOf is where the file names a service.
func keyOf(s *policy.Service) string {
	if keys := s.Keys(policy.SettingCircuitBreakers, policy.SettingOutlierDetection); len(keys) > 0 && strings.HasSuffix(keys[0], "custom."+s.Name) {
		return keys[0]
	}
	return "services." + s.Name
}

// effectOf says what a name that nobody is means for those who rely on the policy.
func effectOf(p policy.AuthorizationPolicy, key string) string {
	switch {
	case p.Action == policy.Deny && key == "sources" && len(p.Sources) == 1 && len(p.Principals) == 0:
		return ", so it denies nobody"
	case p.Action == policy.Deny && key == "destinations" && len(p.Destinations) == 1:
		return ", so it protects nothing"
	case p.Action == policy.Allow && key == "sources" && len(p.Sources) == 1 && len(p.Principals) == 0:
		return ", so it admits nobody"
	}
	return ""
}

// instances finds services that nobody can call.
func (a *analysis) instances() {
	if a.catalog == nil {
		return
	}
	strict := a.mesh.MTLS.Enabled && a.mesh.MTLS.Mode == policy.Strict
	for _, name := range slices.Sorted(maps.Keys(a.names)) {
		s := a.catalog.Service(a.names[name])
		if s.Unselected != "" {
			continue
		}
		outside, taking := 0, 0
		for _, i := range s.Instances {
			if i.MeshPort == 0 {
				outside++
			}
			if (i.Health == watch.Passing || i.Health == watch.Warning) && i.Weight > 0 {
				taking++
			}
		}
		if strict && outside > 0 {
			a.add("MC2212", "services."+name, "", "service %s: %d of %d instances have no mesh_port, and get no traffic while mTLS is strict", name, outside, len(s.Instances))
		}
		if taking == 0 {
			a.add("MC2213", "services."+name, "", "service %s: none of its %d instances takes traffic", name, len(s.Instances))
		}
	}
}

// defaults are what holds for services that the file does not name.
func (a *analysis) defaults() { a.service(a.mesh.Service("")) }

// service looks at the settings of one service, and blames it for its own alone.
func (a *analysis) service(s *policy.Service) {
	own := func(setting policy.Setting, otherwise string) (string, bool) {
		keys := s.Keys(setting)
		if len(keys) == 0 {
			return otherwise, false
		}
		return keys[0], s.Name == "" || strings.HasSuffix(keys[0], "custom."+s.Name) || strings.HasPrefix(keys[0], "services."+s.Name+".")
	}
	of := "every service"
	if s.Name != "" {
		of = "service " + s.Name
	}
	retryKey, retryOwn := own(policy.SettingRetry, "policies.retry")
	timeoutKey, timeoutOwn := own(policy.SettingTimeout, "policies.timeout")
	r := s.Retry
	if retryOwn && r.Attempts > 0 && r.Timeout == 0 && slices.Contains(r.Conditions, "5xx") {
		a.add("MC2205", retryKey, "timeout: 2s", "%s: 5xx is retried, and a try has no timeout of its own", of)
	}
	if (retryOwn || timeoutOwn) && r.Attempts > 0 && r.Timeout > 0 && s.Timeout.Connect > r.Timeout {
		a.add("MC2206", timeoutKey, "connect: "+(r.Timeout/2).String(), "%s: a try ends after %v, and a connection may take %v", of, r.Timeout, s.Timeout.Connect)
	}
	if key, mine := own(policy.SettingOutlierDetection, "circuit_breakers.default"); mine && s.OutlierDetection.MaxEjectionPercent == 100 {
		a.add("MC2207", key+".max_ejection_percent", "max_ejection_percent: 50", "%s: all of its instances may be ejected at one time", of)
	}
}

// storm is from how many tries at its end a chain of upstreams is reported.
const storm = 27

// maxChain is how many services a chain has at most that is looked at.
const maxChain = 9

// storms finds chains of upstreams along which retries multiply.
func (a *analysis) storms() {
	names := a.mesh.Names()
	calls := func(name string) iter.Seq[string] {
		return func(yield func(string) bool) {
			for _, u := range a.mesh.Service(name).Upstreams {
				if !yield(u.Service) {
					return
				}
			}
		}
	}
	factor := func(name string) int {
		if s := a.mesh.Service(name); s.Protocol != policy.TCP {
			return int(s.Retry.Attempts) + 1
		}
		return 0 // requests do not go on
	}
	// most bounds what one request to a service can become in so many hops more: a mesh
	// has more chains than can be walked, and few that are worth it.
	type place struct {
		name string
		hops int
	}
	known := make(map[place]int)
	var most func(at place) int
	most = func(at place) int {
		if n, ok := known[at]; ok {
			return n
		}
		best := 1
		if at.hops > 0 {
			for next := range calls(at.name) {
				best = max(best, factor(next)*most(place{next, at.hops - 1}))
			}
		}
		known[at] = min(best, storm)
		return known[at]
	}
	var walk func(path []string, tries int) bool // until one is found
	walk = func(path []string, tries int) bool {
		last := path[len(path)-1]
		if tries*most(place{last, maxChain - len(path)}) < storm {
			return false
		}
		for next := range calls(last) {
			if factor(next) == 0 || slices.Contains(path, next) || len(path) >= maxChain {
				continue
			}
			n := tries * factor(next)
			chain := append(slices.Clone(path), next)
			if n >= storm {
				a.add("MC2209", "services."+path[0]+".upstreams", "attempts: 0 in the middle of the chain", "%s: a request may become %d at its end", strings.Join(chain, " → "), n)
				return true
			}
			if walk(chain, n) {
				return true
			}
		}
		return false
	}
	for _, name := range names {
		walk([]string{name}, 1)
	}
}

// security looks at mTLS and authorization as a whole.
func (a *analysis) security() {
	m := a.mesh
	if strings.HasPrefix(m.Environment, "prod") && m.MTLS.Mode == policy.Permissive {
		a.add("MC2210", policy.KeyMTLS+".mode", "mode: strict", "mTLS is permissive in environment %s", m.Environment)
	}
	denies := slices.ContainsFunc(m.Authorization.Policies, func(p policy.AuthorizationPolicy) bool { return p.Action == policy.Deny && !p.Shadow })
	if !m.Authorization.Enabled || m.Authorization.DefaultAction == policy.Allow && !denies {
		a.add("MC2211", policy.KeyAuthorization, "", "every service may call every other one")
	}
	for _, r := range m.Redundant() {
		a.add("MC2208", r.Key, "", "%s %s has no effect: %s does all that it does", r.Action, r.Name, r.By)
	}
}

// deniedUpstreams finds services that declare an upstream which admits nothing of
// them, by the rules that would be served.
func (a *analysis) deniedUpstreams() error {
	catalog := a.catalog
	if catalog == nil {
		catalog = watch.NewCatalog()
	}
	s := translate.Translate(nil, translate.Input{Mesh: a.mesh, Catalog: catalog, Fleet: plan.FleetOf(catalog, a.mesh), Roots: []byte(plan.Roots)})
	guards := make(map[string]func(string) admission.Answer)
	for p := range s.Input.Fleet.Profiles() {
		admits, ok, err := plan.Admits(s, p)
		if err != nil {
			return err
		}
		if ok {
			guards[p.Service] = admits
		}
	}
	for _, name := range a.mesh.Names() {
		for _, u := range a.mesh.Service(name).Upstreams {
			if admits := guards[u.Service]; admits != nil && admits(name) == admission.Never {
				a.add("MC2204", "services."+name+".upstreams", "", "%s calls %s, and no policy admits it", name, u.Service)
			}
		}
	}
	a.unlimited(guards)
	slices.SortStableFunc(a.found, func(x, y yamlfile.Problem) int { return cmp.Compare(x.Code, y.Code) })
	return nil
}

// unlimited finds services whose limit a server counts that does not let them ask.
func (a *analysis) unlimited(guards map[string]func(string) admission.Answer) {
	server := a.mesh.LimitServer
	admits := guards[server.Service]
	if admits == nil {
		return
	}
	names := slices.Collect(maps.Keys(a.names))
	for _, name := range slices.Compact(slices.Sorted(slices.Values(append(names, a.mesh.Names()...)))) {
		s := a.mesh.Service(name)
		if !server.Counts(name, s.RateLimit) || admits(name) != admission.Never {
			continue
		}
		then := "so nobody who calls it is limited"
		if server.OnFailure == policy.DenyOnFailure && s.RateLimit.Mode == policy.Enforce {
			then = "so every call to it is answered 503"
		}
		a.add("MC2214", s.Keys(policy.SettingRateLimit)[0], "an ALLOW with sources: ["+name+"] and destinations: ["+server.Service+"]",
			"no policy admits %s to %s, which counts for it, %s", name, server.Service, then)
	}
}
