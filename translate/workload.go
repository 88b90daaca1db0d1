package translate

import (
	"fmt"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// workloadKey tells the proxies of one service apart by what their inbound
// configuration depends on: the application's port, if a policy names ports.
type workloadKey struct {
	service string
	port    uint16 // 0: no policy asks
}

func (k workloadKey) report() string { return fmt.Sprintf("workload/%s/%d", k.service, k.port) }

// workload is what all proxies in front of one service's instances share.
type workload struct {
	key      workloadKey
	settings *policy.Service
	globals  *globals
	rules    rules // the policies that apply
	outbound *resource.Resource
	roots    *resource.Resource

	inbound *resource.Resource // route configuration; nil for TCP
	routes  *resource.Set      // outbound and inbound
	secrets *resource.Set
	// plaintextTCP admits TCP callers without a certificate.
	plaintextTCP bool
	listed       bool // TCP callers are listed one by one: who is known matters
}

// workload makes the workload of a proxy, with the parts of the predecessor's
// that still hold.
func (b *build) workload(settings *policy.Service, appPort uint16, s *scope) *workload {
	applied := b.authz.rulesFor(settings.Name, appPort).checkedBy(settings)
	key := workloadKey{service: settings.Name}
	if applied.byPort {
		key.port = appPort
	}
	if w, ok := b.workloads[key]; ok {
		return w
	}
	w := b.makeWorkload(key, settings, applied, s)
	b.workloads[key] = w
	return w
}

// lastWorkload is the predecessor's workload with the key, or nil.
func (b *build) lastWorkload(key workloadKey) (last *workload) {
	walkPrefix(b.base.places, []byte(resource.ServiceKey(key.service)), func(p *place) bool {
		if p.workloadKey() == key {
			last = p.workload
		}
		return last == nil
	})
	return last
}

func (b *build) makeWorkload(key workloadKey, settings *policy.Service, applied rules, s *scope) *workload {
	before := b.lastWorkload(key)
	sameRules := before != nil && before.settings == settings && before.globals == b.c.globals && before.rules.equal(applied)
	sameCallers := before != nil && (!before.listed || !b.callersMoved)
	if sameRules && sameCallers && before.outbound == s.outbound && before.roots == b.roots {
		return before
	}
	w := &workload{key: key, settings: settings, globals: b.c.globals, rules: applied, outbound: s.outbound, roots: b.roots}
	if before == nil {
		before = &workload{routes: resource.NewSet(), secrets: resource.NewSet()}
	}
	w.plaintextTCP = applied.admitPlaintextTCP()
	var held []Held
	routes := []*resource.Resource{s.outbound}
	secrets := []*resource.Resource{}
	if b.roots != nil {
		secrets = append(secrets, b.roots)
	}
	if settings.Protocol == policy.TCP {
		if b.roots != nil {
			callers, listed, err := b.callersSecret(settings.Name, applied)
			w.listed = listed
			if err != nil {
				held = append(held, Held{Type: resource.Secret, Name: resource.SecretCallers(settings.Name), Keys: applied.keys, Cause: err.Error()})
				callers = before.secrets.Get(resource.SecretCallers(settings.Name))
			}
			if callers != nil {
				secrets = append(secrets, callers)
			}
		}
	} else {
		inbound, err := b.inboundConfiguration(applied)
		if err != nil {
			held = append(held, Held{Type: resource.Route, Name: routeInbound, Keys: applied.keys, Cause: settings.Name + ": " + err.Error()})
			inbound = before.inbound
			if inbound == nil {
				inbound = closedConfiguration()
			}
		}
		w.inbound = inbound
		routes = append(routes, inbound)
	}
	b.report(key.report(), held, nil)
	w.routes = before.routes.Become(routes)
	w.secrets = before.secrets.Become(secrets)
	return w
}

// forgetWorkloads drops what is reported of workloads that no proxy has any
// more.
func (b *build) forgetWorkloads(next *state) {
	for key := range b.left {
		used := false
		walkPrefix(next.places, []byte(resource.ServiceKey(key.service)), func(p *place) bool {
			used = p.workloadKey() == key
			return !used
		})
		if !used {
			b.report(key.report(), nil, nil)
		}
	}
}
