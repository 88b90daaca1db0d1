package translate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// proxy is what the proxies of one profile have for themselves.
type proxy struct {
	profile resource.Profile
	group   *group
	own     resource.Sets
	serves  bool // has an inbound listener
	local   localKey
	missing []string
}

func (p *proxy) view() *resource.View {
	return &resource.View{Profile: p.profile, Scope: p.group.scope, Own: p.own, Missing: p.missing}
}

// translateProxies brings up to date what proxies have for themselves: of all of
// them if the mesh changed, else of those in a group that a change touches, and
// of those that are new.
func (b *build) translateProxies(before *resource.Fleet) {
	came := b.reviewFleet(before)
	if b.meshChanged || b.rootsSet != b.base.rootsSet || (b.collector == nil) != (b.base.collector == nil) {
		for key, p := range b.proxies.Tree().All() {
			b.regroup(key, p)
		}
	} else {
		for _, g := range b.staleGroups() {
			b.regroupAll(g)
		}
	}
	for _, key := range came {
		profile, _ := b.in.Fleet.Get(key)
		b.proxy(key, profile, b.group(profile), nil)
	}
}

// reviewFleet drops what profiles have that no proxy has any more, and returns
// the keys of the new ones, sorted.
func (b *build) reviewFleet(before *resource.Fleet) (came []string) {
	b.callersMoved = b.membership
	for _, key := range b.in.Fleet.ChangedSince(before) {
		profile, here := b.in.Fleet.Get(key)
		known, was := b.proxies.Get(key)
		if here == was {
			continue
		}
		if was {
			profile = known.profile
			b.removed = append(b.removed, profile)
			b.proxies.Delete(key)
			b.release(known)
			b.report("proxy/"+key, nil, nil)
			b.leftGroups[known.group.key] = struct{}{}
		} else {
			came = append(came, key)
		}
		if _, inMesh := b.services.Get(profile.Service); !inMesh && before.HasService(profile.Service) != b.in.Fleet.HasService(profile.Service) {
			b.callersMoved = true
		}
	}
	slices.Sort(came)
	return slices.Compact(came)
}

// regroupAll brings a group up to date, and if it changed, its proxies.
func (b *build) regroupAll(before *group) {
	for key, p := range b.base.proxies.Below(resource.ServiceKey(before.key.service)) {
		if p.group != before {
			continue
		}
		if _, here := b.in.Fleet.Get(key); here && !b.regroup(key, p) {
			return // the group is as it was
		}
	}
}

// regroup brings one proxy up to date with its group. It reports whether that
// has changed.
func (b *build) regroup(key string, p *proxy) bool {
	g := b.group(p.profile)
	if g == p.group {
		return false
	}
	b.proxy(key, p.profile, g, p)
	return true
}

// proxy makes what one profile's proxies have for themselves, and notes their
// view as changed if it is. Before is what they had, or nil.
func (b *build) proxy(key string, profile resource.Profile, g *group, before *proxy) {
	p := &proxy{profile: profile, group: g}
	if own := kindOf(profile.Kind).own; own != nil {
		own(b, p, before)
	}
	b.proxies.Put(key, p)
	if before != nil && before.group.key != g.key {
		b.leftGroups[before.group.key] = struct{}{}
	}
	if before == nil || before.group.scope != g.scope || before.own != p.own || !slices.Equal(before.missing, p.missing) {
		b.changed = append(b.changed, p.view())
	}
}

// sidecarOwn makes an Envoy's listeners, and if it has an inbound one, the routes
// to the application and the application's clusters.
func (b *build) sidecarOwn(p, before *proxy) {
	b.listen(p, before)
	p.own[resource.Secret] = p.group.policy.callers
	if p.serves {
		p.own[resource.Route] = p.group.policy.routes
		p.own[resource.Extension] = p.group.policy.extra
		p.local = p.localKey()
	}
	switch {
	case before != nil && before.local == p.local:
		p.own[resource.Cluster] = before.own[resource.Cluster]
	default:
		p.own[resource.Cluster] = b.acquire(p.local)
		if before != nil {
			b.release(before)
		}
	}
}

// listen makes the listeners of a profile.
func (b *build) listen(p, before *proxy) {
	last := resource.NewSet()
	if before != nil {
		last = before.own[resource.Listener]
		if before.group.listen.equal(p.group.listen) {
			p.own[resource.Listener], p.serves, p.missing = last, before.serves, before.missing
			return
		}
	}
	l := &listening{c: b.c, settings: p.group.settings, profile: p.profile, last: last}
	l.all(b.templatesOf(p.group), p.group.listen.upstreams)
	p.own[resource.Listener], p.serves, p.missing = last.Become(l.made), l.serves, l.missing
	b.report("proxy/"+p.profile.Key(), l.held, nil)
}

func (p *proxy) localKey() localKey {
	s := p.group.settings
	return localKey{
		address: appAddress(p.profile), port: p.profile.AppPort, protocol: s.Protocol,
		// As long as the caller would wait, who cannot see this connection.
		connect: s.Timeout.Connect,
		idle:    s.Timeout.AppIdle,
	}
}

// appAddress is where a proxy's application listens.
func appAddress(p resource.Profile) string { return cmp.Or(p.AppAddress, loopback) }

// local is the clusters of applications with one key, which the proxies in front
// of them share.
type local struct {
	clusters *resource.Set
	users    int
}

// acquire returns the clusters of an application for one more proxy; nil for
// the zero key.
func (b *build) acquire(key localKey) *resource.Set {
	if key.port == 0 {
		return nil
	}
	known, ok := b.locals.Get(key.String())
	if !ok {
		made, err := localClusters(b.c, key)
		if err != nil {
			// Nothing in it comes from an operator but the timeouts.
			b.report("local/"+key.String(), []Held{{Type: resource.Cluster, Name: resource.ClusterLocalApp, Keys: []string{policy.KeyTimeout}, Cause: err.Error()}}, nil)
		}
		known.clusters = resource.NewSet(made...)
	}
	known.users++
	b.locals.Put(key.String(), known)
	return known.clusters
}

// release is told that a proxy has its application's clusters no more.
func (b *build) release(p *proxy) {
	key := p.local.String()
	known, ok := b.locals.Get(key)
	if !ok || p.local.port == 0 {
		return
	}
	if known.users--; known.users == 0 {
		b.locals.Delete(key)
		b.report("local/"+key, nil, nil)
		return
	}
	b.locals.Put(key, known)
}

func (k localKey) String() string {
	return fmt.Sprintf("%s/%d/%s/%v/%v", k.address, k.port, k.protocol, k.connect, k.idle)
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

func (l *listening) all(t *listenerTemplates, upstreams []tcpUpstream) {
	p := l.profile
	address := anyAddress
	if p.Address != "" {
		address = p.Address
	}
	if _, err := netip.ParseAddr(address); err != nil {
		l.missing = append(l.missing, fmt.Sprintf("address %q is no IP address: no inbound and no metrics listener", p.Address))
		address = ""
	}
	l.inbound(address, t.inbound)
	if p.OutboundPort == 0 {
		l.missing = append(l.missing, "outbound_port: no outbound listener")
	} else {
		l.add(binding{listenerOutbound, loopback, p.OutboundPort}, func() (*resource.Resource, error) {
			return t.outboundAt(p.OutboundPort)
		})
	}
	metricsPort := cmp.Or(p.MetricsPort, l.c.metrics.port)
	switch {
	case !l.c.metrics.enabled || address == "":
	case metricsPort == 0:
		l.missing = append(l.missing, "metrics_port: no metrics listener")
	default:
		l.add(binding{listenerMetrics, address, metricsPort}, func() (*resource.Resource, error) {
			return t.metrics.at(address, metricsPort)
		})
	}
	for i, u := range upstreams {
		l.add(binding{listenerOutboundTCP + u.service, loopback, u.port}, func() (*resource.Resource, error) {
			return t.upstreams[i].at(loopback, u.port)
		})
	}
}

func (l *listening) inbound(address string, t listenerTemplate) {
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
	// The application holds its port already.
	l.bound = append(l.bound, binding{"the application", appAddress(p), p.AppPort})
	l.serves = l.add(binding{listenerInbound, address, p.MeshPort}, func() (*resource.Resource, error) {
		return t.at(address, p.MeshPort)
	})
}

// add makes a listener, unless another one has its port: Envoy would refuse
// the second, and the whole response is then in doubt.
func (l *listening) add(at binding, make func() (*resource.Resource, error)) bool {
	if other, taken := l.taken(at); taken {
		// What a proxy says of itself is for its own status, not for the log.
		l.missing = append(l.missing, fmt.Sprintf("port %d is taken by %s: no %s listener", at.port, other.listener, at.listener))
		return false
	}
	made, err := make()
	if err != nil {
		return l.hold(at.listener, err.Error())
	}
	l.bound = append(l.bound, at)
	l.made = append(l.made, made)
	return true
}

func (l *listening) taken(at binding) (by binding, taken bool) {
	i := slices.IndexFunc(l.bound, at.clashes)
	if i < 0 {
		return binding{}, false
	}
	return l.bound[i], true
}

// hold keeps the last good listener, if it may stay where it is.
func (l *listening) hold(name, cause string) bool {
	l.held = append(l.held, Held{Type: resource.Listener, Name: name, Keys: listenerKeys(l.settings), Cause: l.settings.Name + ": " + cause})
	last := l.last.Get(name)
	if last == nil {
		return false
	}
	var was listenerv3.Listener
	if err := proto.Unmarshal(last.Body, &was); err != nil {
		return false // it is our own
	}
	where := was.GetAddress().GetSocketAddress()
	at := binding{name, where.GetAddress(), uint16(where.GetPortValue())}
	if _, taken := l.taken(at); taken {
		return false
	}
	l.bound = append(l.bound, at)
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
