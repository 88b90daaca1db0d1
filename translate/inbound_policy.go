package translate

import (
	"reflect"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// inboundPolicy is whom the sidecars of a service admit: over HTTP by their
// inbound routes, of TCP by the secret callers/<service>.
type inboundPolicy struct {
	settings *policy.Service
	globals  *globals
	rules    rules              // the policies that apply
	roots    *resource.Resource // of a TCP service

	filling inboundFilling     // of an HTTP service
	filled  *resource.Resource // by which it stands there; nil: could not be made, ever
	fillErr error              // why the last good one does

	routes  *resource.Set // inbound; nil for TCP
	extra   *resource.Set // the filling; nil for TCP
	callers *resource.Set // the secret; nil for HTTP
	// plaintextTCP admits TCP callers without a certificate.
	plaintextTCP bool
	listed       bool // TCP callers are listed one by one: who is known matters
}

// inboundPolicyOf makes the policy of a service's sidecars whose application
// has the port. Before is the predecessor's, or nil.
func (b *build) inboundPolicyOf(key groupKey, settings *policy.Service, port uint16, before *inboundPolicy) *inboundPolicy {
	p := &inboundPolicy{settings: settings, globals: b.c.globals}
	p.rules = b.authz.rulesFor(settings.Name, port).checkedBy(settings).takingSlashes(settings)
	if settings.Protocol == policy.TCP {
		p.roots = b.roots
	} else {
		p.filling = fillingOf(b.c.globals, settings, b.entry(settings.Name))
		p.rules = p.rules.notCounting(settings, p.filling)
	}
	if before != nil && before.settings == p.settings && before.globals == p.globals && before.rules.equal(p.rules) && before.roots == p.roots &&
		reflect.DeepEqual(before.filling, p.filling) &&
		(!before.listed || !b.callersMoved) {
		return before
	}
	if before == nil {
		before = &inboundPolicy{}
	}
	p.plaintextTCP = p.rules.admitPlaintextTCP()
	held := p.make(b, before)
	b.report(key.report(), held, nil)
	return p
}

// make makes the resource; the last good one stays if it can not be made.
func (p *inboundPolicy) make(b *build, before *inboundPolicy) (held []Held) {
	if p.settings.Protocol == policy.TCP {
		if p.roots == nil {
			return nil
		}
		name := resource.SecretCallers(p.settings.Name)
		callers, listed, err := b.callersSecret(p.settings.Name, p.rules)
		if p.listed = listed; err != nil {
			held = append(held, Held{Type: resource.Secret, Name: name, Keys: p.rules.keys, Cause: err.Error()})
			p.callers = before.callers
			return held
		}
		p.callers = become(before.callers, callers)
		return nil
	}
	inbound, err := b.inboundConfiguration(p.rules)
	if err != nil {
		held = append(held, Held{Type: resource.Route, Name: routeInbound, Keys: p.rules.keys, Cause: p.settings.Name + ": " + err.Error()})
		if p.routes = before.routes; p.routes != nil {
			return append(held, p.fill(b, before)...)
		}
		inbound = closedConfiguration()
	}
	p.routes = become(before.routes, inbound)
	return append(held, p.fill(b, before)...)
}

// fill fills the place of the inbound listener.
func (p *inboundPolicy) fill(b *build, before *inboundPolicy) (held []Held) {
	if before.filled != nil && before.fillErr == nil && before.globals.trustDomain == p.globals.trustDomain && reflect.DeepEqual(before.filling, p.filling) {
		p.filled, p.extra = before.filled, before.extra
		return nil
	}
	keys := p.filling.keys(p.settings)
	if p.filled, p.fillErr = p.filling.fill(b.c, keys); p.fillErr != nil {
		held = append(held, Held{Type: resource.Extension, Name: filterInbound, Keys: keys, Cause: p.settings.Name + ": " + p.fillErr.Error()})
		p.filled = before.filled
	}
	if p.filled != nil {
		p.extra = become(before.extra, p.filled)
	}
	return held
}

// entry is what the catalog has of a service, nil if nothing.
func (b *build) entry(name string) *watch.Service {
	if s, ok := b.services.Get(name); ok {
		return s.entry
	}
	return nil
}

// become returns the successor of a set, which may be nil, that has exactly the
// resources.
func become(before *resource.Set, resources ...*resource.Resource) *resource.Set {
	if before == nil {
		return resource.NewSet(resources...)
	}
	return before.Become(resources)
}
