package translate

import (
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// inboundPolicy is whom the sidecars of a service admit: over HTTP by their
// inbound routes, of TCP by the secret callers/<service>.
type inboundPolicy struct {
	settings *policy.Service
	globals  *globals
	rules    rules              // the policies that apply
	roots    *resource.Resource // of a TCP service

	routes  *resource.Set // inbound; nil for TCP
	callers *resource.Set // the secret; nil for HTTP
	// plaintextTCP admits TCP callers without a certificate.
	plaintextTCP bool
	listed       bool // TCP callers are listed one by one: who is known matters
}

// inboundPolicyOf makes the policy of a service's sidecars whose application
// has the port. Before is the predecessor's, or nil.
func (b *build) inboundPolicyOf(key groupKey, settings *policy.Service, port uint16, before *inboundPolicy) *inboundPolicy {
	p := &inboundPolicy{settings: settings, globals: b.c.globals, rules: b.authz.rulesFor(settings.Name, port).checkedBy(settings).takingSlashes(settings)}
	if settings.Protocol == policy.TCP {
		p.roots = b.roots
	}
	if before != nil && before.settings == p.settings && before.globals == p.globals && before.rules.equal(p.rules) && before.roots == p.roots &&
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
			return held
		}
		inbound = closedConfiguration()
	}
	p.routes = become(before.routes, inbound)
	return held
}

// become returns the successor of a set, which may be nil, that has exactly the
// resources.
func become(before *resource.Set, resources ...*resource.Resource) *resource.Set {
	if before == nil {
		return resource.NewSet(resources...)
	}
	return before.Become(resources)
}
