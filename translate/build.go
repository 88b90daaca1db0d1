package translate

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// state is what one translation leaves for the next. It is immutable.
type state struct {
	mesh        *policy.Mesh
	catalog     *watch.Catalog
	globals     *globals
	naming      *naming
	authz       *authorization
	collector   *collector
	limitServer *resource.Resource
	roots       *resource.Resource // the secret ROOTCA; nil while mTLS is off
	rootsSet    *resource.Set      // it alone
	runtime     *resource.Set      // the layer of runtime values alone
	datacenters []string           // for whose callers there is a rule of failover, sorted

	services  *resource.Tree[*service]
	capitals  int                        // services with a capital in their names
	proxyless *resource.Tree[*proxyless] // of the services, while somebody asks
	scopes    *resource.Tree[*scope]
	scopesOf  *resource.Tree[[]string] // service → keys of the scopes that declare it
	groups    *resource.Tree[*group]
	proxies   *resource.Tree[*proxy] // by the key of the profile
	locals    *resource.Tree[local]
	reports   *resource.Tree[report]

	meshNotes []string
}

// report is what people should know of one thing, a service say.
type report struct {
	held  []Held
	notes []string
}

func emptyState() *state {
	return &state{
		catalog:   watch.NewCatalog(),
		rootsSet:  resource.NewSet(),
		services:  resource.NewTree[*service](),
		proxyless: resource.NewTree[*proxyless](),
		scopes:    resource.NewTree[*scope](),
		scopesOf:  resource.NewTree[[]string](),
		groups:    resource.NewTree[*group](),
		proxies:   resource.NewTree[*proxy](),
		locals:    resource.NewTree[local](),
		reports:   resource.NewTree[report](),
	}
}

// build is one translation under way.
type build struct {
	in   Input
	base *state // the predecessor's
	c    *compiler

	naming        *naming
	authz         *authorization
	collector     *collector
	limitServer   *resource.Resource // where it is no service of the mesh; nil: there is none
	roots         *resource.Resource
	rootsSet      *resource.Set
	runtime       *resource.Set
	datacenters   []string
	meshChanged   bool // anything of the mesh file, or the stage
	sameTransport bool // clusters and assignments are made as in base
	sameSampling  bool // so are the routes, as far as tracing goes
	sameGlobals   bool
	rootsChanged  bool
	membership    bool // a service came or went
	catalogNames  bool // a name of the catalog came or went, or has its first instance, or none
	callersMoved  bool // a service came or went, of the mesh or of the fleet alone

	services  *resource.TreeEdit[*service]
	capitals  int
	proxyless *resource.TreeEdit[*proxyless]
	scopes    *resource.TreeEdit[*scope]
	scopesOf  *resource.TreeEdit[[]string]
	groups    *resource.TreeEdit[*group]
	proxies   *resource.TreeEdit[*proxy]
	locals    *resource.TreeEdit[local]
	reports   *resource.TreeEdit[report]

	changes map[string]change
	grouped map[groupKey]*group           // those brought up to date
	inbound map[string]*resource.Resource // inbound routes, by the print of their rules

	templates map[*group]*listenerTemplates

	leftGroups    map[groupKey]struct{} // groups that a proxy left
	leftScopes    map[string]struct{}   // scopes that a group left
	changedScopes map[string]*resource.Scope

	changed []*resource.View
	removed []resource.Profile
	// reported says that people are to know something else than before.
	reported bool
}

// Translate makes the configuration of the fleet. The result depends on in
// alone, except that a resource which cannot be made from it is the last good
// one of prev, and is named in Held. The nearer in is to the input of prev,
// the less it costs; prev may be nil.
func Translate(prev *Snapshot, in Input) *Snapshot {
	base := emptyState()
	var before Input
	if prev != nil && prev.state != nil {
		base, before = prev.state, prev.Input
	}
	if in.Fleet == nil {
		in.Fleet = resource.NewFleet()
	}
	b := begin(base, before, in)
	b.translateServices()
	b.translateCollector()
	b.translateLimitServer()
	b.translateScopes()
	b.translateProxies(before.Fleet)
	return b.finish(prev)
}

func begin(base *state, before, in Input) *build {
	b := &build{
		in:   in,
		base: base,

		naming:       base.naming,
		authz:        base.authz,
		datacenters:  base.datacenters,
		meshChanged:  before.Mesh != in.Mesh || before.Stage != in.Stage,
		rootsChanged: !bytes.Equal(before.Roots, in.Roots),

		services:  base.services.Edit(),
		capitals:  base.capitals,
		proxyless: base.proxyless.Edit(),
		scopes:    base.scopes.Edit(),
		scopesOf:  base.scopesOf.Edit(),
		groups:    base.groups.Edit(),
		proxies:   base.proxies.Edit(),
		locals:    base.locals.Edit(),
		reports:   base.reports.Edit(),

		changes:       make(map[string]change),
		grouped:       make(map[groupKey]*group),
		inbound:       make(map[string]*resource.Resource),
		templates:     make(map[*group]*listenerTemplates),
		leftGroups:    make(map[groupKey]struct{}),
		leftScopes:    make(map[string]struct{}),
		changedScopes: make(map[string]*resource.Scope),
	}
	g := base.globals
	if b.meshChanged {
		if fresh := globalsOf(in.Mesh, in.Stage); g == nil || !g.equal(fresh) {
			g = fresh
		}
		b.naming = namingOf(in.Mesh)
		b.authz = authorizationOf(in.Mesh, in.Stage)
		b.datacenters = datacentersOf(in.Mesh)
	}
	b.sameGlobals = g == base.globals
	b.sameTransport = base.globals != nil && g.sameTransport(base.globals)
	b.sameSampling = base.globals != nil && samplingOf(g.tracing) == samplingOf(base.globals.tracing)
	b.c = newCompiler(g)
	b.roots, b.rootsSet = base.roots, base.rootsSet
	if b.rootsChanged || base.globals == nil || (g.tls == tlsOff) != (base.globals.tls == tlsOff) {
		b.translateRoots()
	}
	b.translateRuntime()
	return b
}

func (b *build) translateRoots() {
	b.report("roots", nil, nil)
	if b.c.tls == tlsOff || len(b.in.Roots) == 0 {
		b.roots, b.rootsSet = nil, b.rootsSet.Become(nil)
		return
	}
	made, err := rootsSecret(b.in.Roots)
	if err != nil {
		b.report("roots", []Held{{Type: resource.Secret, Name: resource.SecretRoots, Keys: []string{policy.KeyMTLS}, Cause: err.Error()}}, nil)
		return
	}
	b.roots, b.rootsSet = made, b.rootsSet.Become([]*resource.Resource{made})
}

func (b *build) translateCollector() {
	b.collector = b.base.collector
	entry := b.in.Catalog.Service(b.c.tracing.Service)
	if !b.sameGlobals || b.base.catalog.Service(b.c.tracing.Service) != entry {
		b.report("collector", nil, nil)
		made, err := collectorOf(b.c, entry)
		if err != nil {
			b.report("collector", []Held{{Type: resource.Cluster, Name: resource.ClusterTracing, Keys: []string{policy.KeyTracing}, Cause: err.Error()}}, nil)
		} else {
			b.collector = made.reusing(b.base.collector)
		}
	}
	b.c.traced = b.collector != nil
}

func (b *build) translateLimitServer() {
	b.limitServer = b.base.limitServer
	if b.sameGlobals {
		return
	}
	b.report("limit server", nil, nil)
	made, err := limitServerOf(b.c)
	switch {
	case err != nil:
		b.report("limit server", []Held{{Type: resource.Cluster, Name: resource.ClusterMeshRateLimit, Keys: []string{policy.KeyLimitServer}, Cause: err.Error()}}, nil)
	case made == nil || b.limitServer == nil || !made.Same(b.limitServer):
		b.limitServer = made
	}
}

// translateServices makes the services that may differ from the predecessor's.
func (b *build) translateServices() {
	for name := range b.candidates() {
		before, _ := b.services.Get(name)
		after := b.service(name, before)
		if after == before {
			continue
		}
		b.changes[name] = change{before, after}
		if (before == nil) != (after == nil) {
			b.membership = true
			if hasCapital(name) {
				b.capitals++
				if after == nil {
					b.capitals -= 2
				}
			}
		}
		if after == nil {
			b.services.Delete(name)
		} else {
			b.services.Put(name, after)
		}
	}
}

// candidates are the names of the services that may differ from the
// predecessor's.
func (b *build) candidates() map[string]struct{} {
	names := make(map[string]struct{})
	catalogNames, known := b.in.Catalog.ChangedSince(b.base.catalog)
	if !known || (b.meshChanged && !b.sameDefaults()) {
		b.catalogNames = true
		b.allNames(names)
		return names
	}
	for _, catalogName := range catalogNames {
		before, after := b.base.catalog.Service(catalogName), b.in.Catalog.Service(catalogName)
		b.catalogNames = b.catalogNames || (before == nil) != (after == nil) || before.Empty() != after.Empty()
		b.naming.affected(catalogName, names)
	}
	if b.meshChanged {
		for _, n := range []*naming{b.base.naming, b.naming} {
			n.all(names)
			n.affected(b.base.globals.tracing.Service, names)
			n.affected(b.c.tracing.Service, names)
		}
	}
	return names
}

// sameDefaults reports whether a service that the file does not name is made
// as it was.
func (b *build) sameDefaults() bool {
	return b.sameTransport && b.sameSampling && sameSettings(b.base.mesh.Service(""), b.in.Mesh.Service(""))
}

func (b *build) allNames(names map[string]struct{}) {
	for name := range b.base.services.All() {
		names[name] = struct{}{}
	}
	b.naming.all(names)
	for _, c := range []*watch.Catalog{b.base.catalog, b.in.Catalog} {
		for s := range c.Services() {
			names[s.Name] = struct{}{}
		}
	}
}

// report replaces what is known of one thing.
func (b *build) report(key string, held []Held, notes []string) {
	if len(held) == 0 && len(notes) == 0 {
		_, had := b.reports.Delete(key)
		b.reported = b.reported || had
		return
	}
	b.reported = true
	b.reports.Put(key, report{held, notes})
}

func (b *build) changedNames() []string { return slices.Sorted(maps.Keys(b.changes)) }

func (b *build) finish(prev *Snapshot) *Snapshot {
	b.forgetGroups()
	b.forgetScopes()
	b.forgetProxyless()
	next := &state{
		mesh:        b.in.Mesh,
		catalog:     b.in.Catalog,
		globals:     b.c.globals,
		naming:      b.naming,
		authz:       b.authz,
		collector:   b.collector,
		limitServer: b.limitServer,
		roots:       b.roots,
		rootsSet:    b.rootsSet,
		runtime:     b.runtime,
		datacenters: b.datacenters,
		services:    b.services.Tree(),
		capitals:    b.capitals,
		proxyless:   b.proxyless.Tree(),
		scopes:      b.scopes.Tree(),
		scopesOf:    b.scopesOf.Tree(),
		groups:      b.groups.Tree(),
		proxies:     b.proxies.Tree(),
		locals:      b.locals.Tree(),
		meshNotes:   b.base.meshNotes,
	}
	if b.meshChanged || b.membership || b.catalogNames || b.callersMoved {
		next.meshNotes = b.meshNotes(next)
	}
	next.reports = b.reports.Tree()

	snapshot := &Snapshot{Input: b.in, ChangedViews: b.changed, Removed: b.removed, state: next}
	for _, key := range slices.Sorted(maps.Keys(b.changedScopes)) {
		snapshot.ChangedScopes = append(snapshot.ChangedScopes, b.changedScopes[key])
	}
	if prev != nil && prev.state == b.base && !b.reported && slices.Equal(next.meshNotes, b.base.meshNotes) {
		snapshot.Held, snapshot.Notes = prev.Held, prev.Notes
		return snapshot
	}
	for _, r := range next.reports.All() {
		snapshot.Held = append(snapshot.Held, r.held...)
		snapshot.Notes = append(snapshot.Notes, r.notes...)
	}
	snapshot.Notes = append(snapshot.Notes, next.meshNotes...)
	slices.SortStableFunc(snapshot.Held, func(x, y Held) int {
		return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Cause, y.Cause))
	})
	return snapshot
}
