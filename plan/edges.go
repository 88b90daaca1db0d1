package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/admission"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
)

// EdgeChange is who may call a service otherwise than before.
type EdgeChange struct {
	Callee  string           `json:"callee"`
	From    admission.Answer `json:"from"`
	To      admission.Answer `json:"to"`
	Callers []string         `json:"callers"`
}

// Opens reports whether the callers may do more than before.
func (e EdgeChange) Opens() bool { return e.To > e.From }

// Anybody stands for callers without a certificate.
const Anybody = "(a caller without a certificate)"

// guard is what decides who is admitted to the proxies of a profile: a resource, or
// none where every caller is.
type guard struct {
	rules *resource.Resource
	tcp   bool
	// plaintext says that callers without a certificate get as far as the rules, and
	// encrypted that callers of the mesh show one.
	plaintext, encrypted bool
	domain               string
}

// guardOf is what guards the proxies of a profile.
func guardOf(s *translate.Snapshot, profile resource.Profile) (g guard, ok bool) {
	view := s.View(profile)
	if view == nil || view.Own.Get(resource.Listener, resource.ListenerInbound) == nil {
		return g, false
	}
	settings, _ := s.Settings(profile.Service)
	mtls := s.Input.Mesh.MTLS
	g = guard{tcp: settings.Protocol == policy.TCP, encrypted: mtls.Enabled, domain: mtls.TrustDomain}
	if g.plaintext = !mtls.Enabled; mtls.Enabled && mtls.Mode != policy.Strict {
		g.plaintext = plaintextChain(view.Own.Get(resource.Listener, resource.ListenerInbound))
	}
	if g.tcp {
		g.rules = view.Own.Get(resource.Secret, resource.SecretCallers(profile.Service))
	} else {
		g.rules = view.Own.Get(resource.Route, routeInbound)
	}
	return g, true
}

// plaintextChain reports whether an inbound listener takes connections without TLS.
func plaintextChain(r *resource.Resource) bool {
	var l listenerv3.Listener
	if proto.Unmarshal(r.Body, &l) != nil {
		return true // it is our own; what is not known is taken for open
	}
	return slices.ContainsFunc(l.FilterChains, func(c *listenerv3.FilterChain) bool { return c.TransportSocket == nil })
}

// routeInbound is the name of the route configuration of inbound calls.
const routeInbound = "inbound"

// admits says of each caller whether it is admitted.
type admits func(caller string) admission.Answer

// admitsOf reads a guard.
func admitsOf(g guard) (admits, error) {
	if g.rules == nil {
		// A service of TCP without mTLS, or HTTP routes that are not there yet.
		answer := admission.Never
		if g.tcp && !g.encrypted {
			answer = admission.Always
		}
		return func(string) admission.Answer { return answer }, nil
	}
	read := admission.HTTP
	if g.tcp {
		read = admission.TCP
	}
	rules, err := read(g.rules.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", g.rules.Type, g.rules.Name, err)
	}
	return func(caller string) admission.Answer {
		switch {
		case caller == Anybody && !g.plaintext:
			return admission.Never
		case caller == Anybody && g.tcp:
			return admission.Always
		case caller == Anybody || !g.encrypted:
			return rules.Decide("", nil).Answer
		}
		return rules.Decide("spiffe://"+g.domain+"/"+caller, nil).Answer
	}, nil
}

// edges compares who is admitted to whom. Services that share their rules are
// compared once.
func (c *comparison) edges() error {
	callers := c.callers()
	type change struct{ from, to admission.Answer }
	known := make(map[[2]guard]map[change][]string)
	said := make(map[string]bool)
	for profile := range c.next.Input.Fleet.Profiles() {
		before, was := guardOf(c.last, profile)
		after, is := guardOf(c.next, profile)
		if !was || !is || before == after {
			continue
		}
		key := [2]guard{before, after}
		changes, ok := known[key]
		if !ok {
			changes = make(map[change][]string)
			then, err := admitsOf(before)
			if err != nil {
				return err
			}
			now, err := admitsOf(after)
			if err != nil {
				return err
			}
			for _, caller := range callers {
				if from, to := then(caller), now(caller); from != to {
					changes[change{from, to}] = append(changes[change{from, to}], caller)
				}
			}
			known[key] = changes
		}
		for ch, who := range changes {
			edge := EdgeChange{profile.Service, ch.from, ch.to, who}
			print := fmt.Sprint(edge.Callee, edge.From, edge.To, strings.Join(who, ","))
			if !said[print] { // another proxy of the service
				said[print] = true
				c.plan.Edges = append(c.plan.Edges, edge)
			}
		}
	}
	slices.SortStableFunc(c.plan.Edges, compareEdges)
	return nil
}

// callers are the services that may call: of both snapshots, and of the fleet.
func (c *comparison) callers() []string {
	names := map[string]bool{Anybody: true}
	for _, s := range []*translate.Snapshot{c.last, c.next} {
		for name := range s.Services() {
			names[name] = true
		}
		for p := range s.Input.Fleet.Profiles() {
			names[p.Service] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Admits returns what says who is admitted to the proxies of a profile; ok is false
// if nobody can call them.
func Admits(s *translate.Snapshot, profile resource.Profile) (admits func(caller string) admission.Answer, ok bool, err error) {
	g, ok := guardOf(s, profile)
	if !ok {
		return nil, false, nil
	}
	admits, err = admitsOf(g)
	return admits, err == nil, err
}
