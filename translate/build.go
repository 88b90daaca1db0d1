package translate

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// state is what one translation leaves for the next. It is immutable.
type state struct {
	mesh      *policy.Mesh
	catalog   *watch.Catalog
	globals   *globals
	naming    *naming
	authz     *authorization
	collector *collector
	roots     *resource.Resource // the secret ROOTCA; nil while mTLS is off

	services  *iradix.Tree[*service]
	proxyless *iradix.Tree[*proxyless] // of the services, while somebody asks
	scopes    *iradix.Tree[*scope]
	scopesOf  *iradix.Tree[[]string] // service → keys of the scopes that declare it
	places    *iradix.Tree[*place]   // profile → what makes its view
	placesOf  *iradix.Tree[*place]   // the same, by scope and profile
	reports   *iradix.Tree[report]

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
		services:  iradix.New[*service](),
		proxyless: iradix.New[*proxyless](),
		scopes:    iradix.New[*scope](),
		scopesOf:  iradix.New[[]string](),
		places:    iradix.New[*place](),
		placesOf:  iradix.New[*place](),
		reports:   iradix.New[report](),
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
	roots         *resource.Resource
	meshChanged   bool // anything of the mesh file, or the stage
	sameTransport bool // clusters and assignments are made as in base
	sameGlobals   bool
	rootsChanged  bool
	membership    bool // a service came or went
	catalogNames  bool // a name of the catalog came or went
	callersMoved  bool // a service came or went, of the mesh or of the fleet alone

	services  *iradix.Txn[*service]
	proxyless *iradix.Txn[*proxyless]
	scopesOf  *iradix.Txn[[]string]
	places    *iradix.Txn[*place]
	placesOf  *iradix.Txn[*place]
	reports   *iradix.Txn[report]

	changes    map[string]change
	scopes     map[string]*scope // those brought up to date
	workloads  map[workloadKey]*workload
	inbound    map[string]*resource.Resource
	left       map[workloadKey]struct{} // workloads that a place left
	leftScopes map[string]struct{}      // scopes that a place left

	changed []*resource.View
	removed []resource.Profile
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
	b.translateViews(before.Fleet)
	return b.finish(prev)
}

func begin(base *state, before, in Input) *build {
	b := &build{
		in:   in,
		base: base,

		naming:       base.naming,
		authz:        base.authz,
		meshChanged:  before.Mesh != in.Mesh || before.Stage != in.Stage,
		rootsChanged: !bytes.Equal(before.Roots, in.Roots),

		services:  base.services.Txn(),
		proxyless: base.proxyless.Txn(),
		scopesOf:  base.scopesOf.Txn(),
		places:    base.places.Txn(),
		placesOf:  base.placesOf.Txn(),
		reports:   base.reports.Txn(),

		changes:    make(map[string]change),
		scopes:     make(map[string]*scope),
		workloads:  make(map[workloadKey]*workload),
		inbound:    make(map[string]*resource.Resource),
		left:       make(map[workloadKey]struct{}),
		leftScopes: make(map[string]struct{}),
	}
	g := base.globals
	if b.meshChanged {
		if fresh := globalsOf(in.Mesh, in.Stage); g == nil || !g.equal(fresh) {
			g = fresh
		}
		b.naming = namingOf(in.Mesh)
		b.authz = authorizationOf(in.Mesh, in.Stage)
	}
	b.sameGlobals = g == base.globals
	b.sameTransport = base.globals != nil && g.sameTransport(base.globals)
	b.c = newCompiler(g)
	b.roots = base.roots
	if b.rootsChanged || base.globals == nil || (g.tls == tlsOff) != (base.globals.tls == tlsOff) {
		b.translateRoots()
	}
	return b
}

func (b *build) translateRoots() {
	b.report("roots", nil, nil)
	if b.c.tls == tlsOff || len(b.in.Roots) == 0 {
		b.roots = nil
		return
	}
	made, err := rootsSecret(b.in.Roots)
	if err != nil {
		b.report("roots", []Held{{Type: resource.Secret, Name: resource.SecretRoots, Keys: []string{policy.KeyMTLS}, Cause: err.Error()}}, nil)
		return
	}
	b.roots = made
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

// translateServices makes the services that may differ from the predecessor's.
func (b *build) translateServices() {
	for name := range b.candidates() {
		before, _ := b.services.Get([]byte(name))
		after := b.service(name, before)
		if after == before {
			continue
		}
		b.changes[name] = change{before, after}
		if (before == nil) != (after == nil) {
			b.membership = true
		}
		if after == nil {
			b.services.Delete([]byte(name))
		} else {
			b.services.Insert([]byte(name), after)
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
		b.catalogNames = b.catalogNames || (b.base.catalog.Service(catalogName) == nil) != (b.in.Catalog.Service(catalogName) == nil)
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
	return b.sameTransport && sameSettings(b.base.mesh.Service(""), b.in.Mesh.Service(""))
}

func (b *build) allNames(names map[string]struct{}) {
	it := b.base.services.Root().Iterator()
	for name, _, ok := it.Next(); ok; name, _, ok = it.Next() {
		names[string(name)] = struct{}{}
	}
	b.naming.all(names)
	for _, c := range []*watch.Catalog{b.base.catalog, b.in.Catalog} {
		for s := range c.Services() {
			names[s.Name] = struct{}{}
		}
	}
}

// service makes one service, with the parts of before that still hold. It is
// nil if the mesh has no such service.
func (b *build) service(name string, before *service) *service {
	report := "service/" + name
	settings := b.in.Mesh.Service(name)
	entry, known := b.naming.entry(b.in.Catalog, settings)
	if !known {
		b.report(report, nil, nil)
		return nil
	}
	if why := unservable(name); why != "" {
		b.report(report, nil, []string{fmt.Sprintf("service %q is left out: %s", name, why)})
		return nil
	}
	if before != nil && sameSettings(before.settings, settings) {
		settings = before.settings
	}
	unchanged := before != nil && before.settings == settings && b.sameTransport
	if unchanged && before.entry == entry && b.c.collects(entry) == b.base.globals.collects(entry) {
		return before
	}

	after := &service{settings: settings, entry: entry}
	if before == nil {
		before = &service{}
	}
	if unchanged {
		after.cluster, after.host, after.routeKeys = before.cluster, before.host, before.routeKeys
		for _, h := range before.held {
			if h.Type != resource.Endpoint {
				after.held = append(after.held, h)
			}
		}
	} else {
		after.makeCluster(b.c, before)
		after.makeHost(before)
	}
	after.makeEndpoints(b.c, before)
	b.report(report, after.held, after.left)
	return after
}

// report replaces what is known of one thing.
func (b *build) report(key string, held []Held, notes []string) {
	if len(held) == 0 && len(notes) == 0 {
		b.reports.Delete([]byte(key))
		return
	}
	b.reports.Insert([]byte(key), report{held, notes})
}

func (b *build) changedNames() []string { return slices.Sorted(maps.Keys(b.changes)) }

func (b *build) finish(prev *Snapshot) *Snapshot {
	next := &state{
		mesh:      b.in.Mesh,
		catalog:   b.in.Catalog,
		globals:   b.c.globals,
		naming:    b.naming,
		authz:     b.authz,
		collector: b.collector,
		roots:     b.roots,
		services:  b.services.Commit(),
		places:    b.places.Commit(),
		placesOf:  b.placesOf.Commit(),
	}
	next.scopes = b.usedScopes(next)
	next.scopesOf = b.scopesOf.Commit()
	next.proxyless = b.usedProxyless(next)
	b.forgetWorkloads(next)
	next.reports = b.reports.Commit()
	next.meshNotes = b.base.meshNotes
	if b.meshChanged || b.membership || b.catalogNames {
		next.meshNotes = b.meshNotes(next)
	}

	snapshot := &Snapshot{Input: b.in, Changed: b.changed, Removed: b.removed, state: next}
	if prev != nil && prev.state == b.base && next.reports == b.base.reports && slices.Equal(next.meshNotes, b.base.meshNotes) {
		snapshot.Held, snapshot.Notes = prev.Held, prev.Notes
		return snapshot
	}
	it := next.reports.Root().Iterator()
	for _, r, ok := it.Next(); ok; _, r, ok = it.Next() {
		snapshot.Held = append(snapshot.Held, r.held...)
		snapshot.Notes = append(snapshot.Notes, r.notes...)
	}
	snapshot.Notes = append(snapshot.Notes, next.meshNotes...)
	slices.SortStableFunc(snapshot.Held, func(x, y Held) int {
		return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Cause, y.Cause))
	})
	return snapshot
}
