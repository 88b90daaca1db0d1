package translate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// place is where a profile stands: what its view is put together from. A view
// itself is not kept, so that a change of a scope costs nothing for each of
// the profiles in it.
type place struct {
	profile   resource.Profile
	scope     string // key
	local     localKey
	workload  *workload     // nil for a proxyless client
	secrets   *resource.Set // of a proxyless client; nil for others
	listeners *resource.Set
	serves    bool // has an inbound listener
	listen    listenInput
	missing   []string
}

// listenInput is what listeners are made of, next to the profile.
type listenInput struct {
	settings     *policy.Service
	globals      *globals
	traced       bool
	plaintextTCP bool
	upstreams    []tcpUpstream
}

func (l listenInput) equal(o listenInput) bool {
	return l.settings == o.settings && l.globals == o.globals && l.traced == o.traced && l.plaintextTCP == o.plaintextTCP &&
		slices.Equal(l.upstreams, o.upstreams)
}

// view puts the view together.
func (p *place) view(s *scope) *resource.View {
	return &resource.View{Profile: p.profile, Sets: p.sets(s), Missing: p.missing}
}

// sets are what the view serves, of the place and of its scope.
func (p *place) sets(s *scope) [resource.NumTypes]*resource.Set {
	if s.kind == resource.Proxyless {
		return [resource.NumTypes]*resource.Set{resource.Cluster: s.base, resource.Endpoint: s.endpoints, resource.Secret: p.secrets, resource.Listener: s.listeners, resource.Route: s.none}
	}
	clusters, routes := s.base, s.routes
	if p.serves {
		clusters, routes = s.clusters[p.local], p.workload.routes
	}
	return [resource.NumTypes]*resource.Set{resource.Cluster: clusters, resource.Endpoint: s.endpoints, resource.Secret: p.workload.secrets, resource.Listener: p.listeners, resource.Route: routes}
}

func (s *state) view(p *place) *resource.View {
	scope, _ := s.scopes.Get([]byte(p.scope))
	return p.view(scope)
}

// workloadKey is the key of the place's workload, zero if it has none.
func (p *place) workloadKey() workloadKey {
	if p.workload == nil {
		return workloadKey{}
	}
	return p.workload.key
}

// sameView reports whether two views serve the same.
func sameView(v, o *resource.View) bool {
	return v.Sets == o.Sets && slices.Equal(v.Missing, o.Missing)
}

// inScope is the key of a place among those of its scope.
func inScope(scope string, profile []byte) []byte {
	return append([]byte(scope+"\x00"), profile...)
}

// translateViews brings the views up to date: all of them if the mesh or the
// roots changed, else those whose scope a change touches and those that are new.
func (b *build) translateViews(before *resource.Fleet) {
	stale := make(map[string]resource.Profile)
	b.reviewFleet(before, stale)
	if b.meshChanged || b.rootsChanged || b.collector != b.base.collector {
		it := b.places.Root().Iterator()
		for key, p, ok := it.Next(); ok; key, p, ok = it.Next() {
			stale[string(key)] = p.profile
		}
	} else {
		if len(b.changes) > 0 {
			b.touchScopes(stale)
		}
		b.relistCallers(stale)
	}
	for _, key := range slices.Sorted(maps.Keys(stale)) {
		b.place([]byte(key), stale[key])
	}
}

// relistCallers notes the places as stale whose callers are listed one by one,
// if a service came or went.
func (b *build) relistCallers(stale map[string]resource.Profile) {
	if !b.callersMoved {
		return
	}
	it := b.places.Root().Iterator()
	for key, p, ok := it.Next(); ok; key, p, ok = it.Next() {
		if p.workload != nil && p.workload.listed {
			stale[string(key)] = p.profile
		}
	}
}

// reviewFleet drops the views of profiles that no proxy has any more, and notes
// the new profiles as stale.
func (b *build) reviewFleet(before *resource.Fleet, stale map[string]resource.Profile) {
	b.callersMoved = b.membership
	for _, key := range b.in.Fleet.ChangedSince(before) {
		profile, here := b.in.Fleet.Get(key)
		known, was := b.places.Get([]byte(key))
		if here != was && !b.callersMoved {
			service := profile.Service
			if was {
				service = known.profile.Service
			}
			_, inMesh := b.services.Get([]byte(service))
			b.callersMoved = !inMesh && before.HasService(service) != b.in.Fleet.HasService(service)
		}
		switch {
		case here && !was:
			stale[key] = profile
		case was && !here:
			b.removed = append(b.removed, known.profile)
			b.places.Delete([]byte(key))
			b.placesOf.Delete(inScope(known.scope, []byte(key)))
			b.report("view/"+key, nil, nil)
			b.left[known.workloadKey()] = struct{}{}
			b.leftScopes[known.scope] = struct{}{}
		}
	}
}

// place brings one profile's place up to date, and notes its view as changed
// if it is.
func (b *build) place(key []byte, profile resource.Profile) {
	if _, here := b.in.Fleet.Get(string(key)); !here {
		return
	}
	before, known := b.base.places.Get(key)
	var old *resource.View
	if known {
		old = b.base.view(before)
	}

	p := &place{profile: profile}
	settings := b.settings(profile.Service, before)
	s := b.scope(profile.Kind, settings)
	p.scope = s.key
	if profile.Kind == resource.Proxyless {
		p.listen.settings = settings
		p.secrets = b.trustBundle(before)
	} else {
		p.workload = b.workload(settings, profile.AppPort, s)
		b.listen(p, key, settings, before)
	}
	if p.serves {
		p.local = localKey{port: profile.AppPort, protocol: settings.Protocol, idle: settings.Timeout.Idle}
		b.makeClusters(s, p.local)
	}

	if known && (before.scope != p.scope || before.local != p.local) {
		b.leftScopes[before.scope] = struct{}{}
	}
	if known && before.scope != p.scope {
		b.placesOf.Delete(inScope(before.scope, key))
	}
	if known && before.workloadKey() != p.workloadKey() {
		b.left[before.workloadKey()] = struct{}{}
	}
	b.places.Insert(key, p)
	b.placesOf.Insert(inScope(p.scope, key), p)
	if v := p.view(s); old == nil || !sameView(v, old) {
		b.changed = append(b.changed, v)
	}
}

// trustBundle is all that a proxyless client may have of secrets, for whoever
// keeps its files: its certificate is never in a view.
func (b *build) trustBundle(before *place) *resource.Set {
	switch {
	case before != nil && before.secrets.Get(resource.SecretRoots) == b.roots:
		return before.secrets
	case b.roots == nil:
		return resource.NewSet()
	}
	return resource.NewSet(b.roots)
}

// settings are the effective settings of a proxy's service, which the mesh
// need not know.
func (b *build) settings(name string, before *place) *policy.Service {
	if s, ok := b.services.Get([]byte(name)); ok {
		return s.settings
	}
	settings := b.in.Mesh.Service(name)
	if before != nil && sameSettings(before.listen.settings, settings) {
		return before.listen.settings
	}
	return settings
}

// listen makes the listeners of a profile.
func (b *build) listen(p *place, key []byte, settings *policy.Service, before *place) {
	p.listen = listenInput{settings: settings, globals: b.c.globals, traced: b.c.traced, plaintextTCP: p.workload.plaintextTCP, upstreams: b.tcpUpstreams(settings)}
	if before != nil && before.listen.equal(p.listen) {
		p.listeners, p.serves, p.missing = before.listeners, before.serves, before.missing
		return
	}
	last := resource.NewSet()
	if before != nil {
		last = before.listeners
	}
	l := &listening{c: b.c, settings: settings, profile: p.profile, last: last}
	l.all(p.listen)
	p.listeners, p.serves, p.missing = last.Become(l.made), l.serves, l.missing
	b.report("view/"+string(key), l.held, nil)
}

// tcpUpstreams are the declared upstreams that get a listener of their own.
func (b *build) tcpUpstreams(settings *policy.Service) []tcpUpstream {
	var upstreams []tcpUpstream
	for _, u := range settings.Upstreams {
		if u.LocalBindPort == 0 {
			continue
		}
		callee, ok := b.services.Get([]byte(u.Service))
		if !ok || callee.cluster == nil || callee.settings.Protocol != policy.TCP {
			continue
		}
		upstreams = append(upstreams, tcpUpstream{u.Service, u.LocalBindPort})
	}
	return upstreams
}

// listening is the making of one profile's listeners.
type listening struct {
	c        *compiler
	settings *policy.Service
	profile  resource.Profile
	last     *resource.Set

	made    []*resource.Resource
	held    []Held
	missing []string
	serves  bool
	bound   []binding
}

// binding is an address and port that a listener has.
type binding struct {
	listener, address string
	port              uint16
}

func (l *listening) all(in listenInput) {
	p := l.profile
	address := anyAddress
	if p.Address != "" {
		address = p.Address
	}
	if _, err := netip.ParseAddr(address); err != nil {
		l.missing = append(l.missing, fmt.Sprintf("address %q is no IP address: no inbound and no metrics listener", p.Address))
		address = ""
	}
	l.inbound(address, in.plaintextTCP)
	if p.OutboundPort == 0 {
		l.missing = append(l.missing, "outbound_port: no outbound listener")
	} else {
		l.add(binding{listenerOutbound, loopback, p.OutboundPort}, func() (*resource.Resource, error) {
			return outboundListener(l.c, l.settings, p.OutboundPort)
		})
	}
	metricsPort := cmp.Or(p.MetricsPort, l.c.metrics.port)
	switch {
	case !l.c.metrics.enabled || address == "":
	case metricsPort == 0:
		l.missing = append(l.missing, "metrics_port: no metrics listener")
	default:
		l.add(binding{listenerMetrics, address, metricsPort}, func() (*resource.Resource, error) {
			return metricsListener(l.c, address, metricsPort)
		})
	}
	for _, u := range in.upstreams {
		l.add(binding{listenerOutboundTCP + u.service, loopback, u.port}, func() (*resource.Resource, error) {
			return outboundTCPListener(l.c, l.settings, u)
		})
	}
}

func (l *listening) inbound(address string, plaintextTCP bool) {
	p := l.profile
	if address == "" {
		return
	}
	if p.AppPort == 0 || p.MeshPort == 0 {
		for _, m := range []struct {
			name string
			port uint16
		}{{"app_port", p.AppPort}, {"mesh_port", p.MeshPort}} {
			if m.port == 0 {
				l.missing = append(l.missing, m.name+": no inbound listener")
			}
		}
		return
	}
	// The application holds its port on loopback already.
	l.bound = append(l.bound, binding{"the application", loopback, p.AppPort})
	l.serves = l.add(binding{listenerInbound, address, p.MeshPort}, func() (*resource.Resource, error) {
		return inboundListener(l.c, l.settings, address, p.MeshPort, plaintextTCP)
	})
}

// add makes a listener, unless another one has its port: Envoy would refuse
// the second, and the whole response is then in doubt.
func (l *listening) add(at binding, make func() (*resource.Resource, error)) bool {
	for _, other := range l.bound {
		if other.clashes(at) {
			l.hold(at.listener, fmt.Sprintf("port %d is taken by %s", at.port, other.listener), false)
			return false
		}
	}
	made, err := make()
	if err != nil {
		return l.hold(at.listener, err.Error(), true)
	}
	l.bound = append(l.bound, at)
	l.made = append(l.made, made)
	return true
}

// hold keeps the last good listener, if it may stay where it is.
func (l *listening) hold(name, cause string, keep bool) bool {
	l.held = append(l.held, Held{Type: resource.Listener, Name: name, Keys: listenerKeys(l.settings), Cause: l.settings.Name + ": " + cause})
	last := l.last.Get(name)
	if !keep || last == nil {
		return false
	}
	l.made = append(l.made, last)
	return true
}

func (a binding) clashes(b binding) bool {
	return a.port == b.port && (a.address == b.address || unspecified(a.address) || unspecified(b.address))
}

func unspecified(address string) bool {
	a, err := netip.ParseAddr(address)
	return err == nil && a.IsUnspecified()
}
