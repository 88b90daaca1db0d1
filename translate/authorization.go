package translate

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"datapunk.dev/controlplane/policy"
)

// authorization is the mesh's authorization, with a print of each policy by
// which two of them can be compared.
type authorization struct {
	enabled        bool
	allowByDefault bool
	policies       []*rule
}

type rule struct {
	policy.AuthorizationPolicy
	print string
}

func authorizationOf(m *policy.Mesh, stage Stage) *authorization {
	a := &authorization{
		enabled:        m.Authorization.Enabled && stage == Settled,
		allowByDefault: m.Authorization.DefaultAction == policy.Allow,
	}
	for _, p := range m.Authorization.Policies {
		a.policies = append(a.policies, &rule{p, fingerprint(p)})
	}
	return a
}

// fingerprint tells policies apart. It is the key by which services share one
// route configuration, so it must not collide.
func fingerprint(p policy.AuthorizationPolicy) string {
	text, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("a policy is plain data: %v", err))
	}
	sum := sha256.Sum256(text)
	return string(sum[:])
}

// rules are the policies that apply to the instances of one service.
type rules struct {
	enabled        bool
	allowByDefault bool
	applied        []*rule
	check          checkRequest
	slashes        bool // paths with an encoded slash are taken
	notCounted     checkRequest
	keys           []string
	print          string
}

// byPort reports whether a policy of calls to the service depends on the
// application's port.
func (a *authorization) byPort(service string) bool {
	return a.enabled && slices.ContainsFunc(a.policies, func(p *rule) bool {
		return includes(p.Destinations, p.NotDestinations, service) && len(p.Ports)+len(p.NotPorts) > 0
	})
}

// checkRequest is what an active check asks of the application; zero if it asks
// nothing.
type checkRequest struct{ method, path string }

func (r rules) equal(o rules) bool { return r.print == o.print }

// rulesFor picks the policies whose destinations include the service and whose
// ports, if any, include the application's.
func (a *authorization) rulesFor(service string, appPort uint16) rules {
	r := rules{enabled: a.enabled, allowByDefault: a.allowByDefault}
	r.print = fmt.Sprintf("%t %t ", a.enabled, a.allowByDefault)
	if !a.enabled {
		r.keys = []string{policy.KeyAuthorization}
		return r
	}
	var print strings.Builder
	for _, p := range a.policies {
		if !includes(p.Destinations, p.NotDestinations, service) {
			continue
		}
		if !includes(p.Ports, p.NotPorts, appPort) {
			continue
		}
		r.applied = append(r.applied, p)
		r.keys = append(r.keys, p.Key)
		print.WriteString(p.print)
	}
	r.keys = append(r.keys, policy.KeyAuthorization)
	r.print += print.String()
	return r
}

// checkedBy adds the active checks of the service's callers. The file asks every
// proxy for them, so every service of the mesh may make them: a check that is
// denied would take a healthy instance out. A DENY denies it all the same.
func (r rules) checkedBy(s *policy.Service) rules {
	if !r.enabled || r.allowByDefault {
		return r
	}
	method, path := s.CheckRequest()
	if path == "" {
		return r
	}
	r.check = checkRequest{method, path}
	r.keys = append(slices.Clone(r.keys), s.Keys(policy.SettingHealthChecks)...)
	r.print = fmt.Sprintf("%q %s", r.check, r.print)
	return r
}

// takingSlashes adds whether the service takes paths with an encoded slash.
func (r rules) takingSlashes(s *policy.Service) rules {
	if s.EncodedSlashes == policy.Keep {
		r.slashes = true
		r.keys = append(slices.Clone(r.keys), s.Keys(policy.SettingEncodedSlashes)...)
		r.print = "slashes " + r.print
	}
	return r
}

// notCounting adds the active checks that a rate limit is not to count: a service at
// its limit would be taken for sick.
func (r rules) notCounting(s *policy.Service, f inboundFilling) rules {
	method, path := s.CheckRequest()
	if path == "" || f.empty() {
		return r
	}
	r.notCounted = checkRequest{method, path}
	r.keys = append(slices.Clone(r.keys), f.keys(s)...)
	r.print = fmt.Sprintf("not counting %q %s", r.notCounted, r.print)
	return r
}

// includes reports whether v is one of some, where none means any, and none
// of not.
func includes[T comparable](some, not []T, v T) bool {
	return (len(some) == 0 || slices.Contains(some, v)) && !slices.Contains(not, v)
}

// enforced are the policies with the action that decide, not only record.
func (r rules) enforced(a policy.Action) []*rule {
	return r.with(func(p *rule) bool { return p.Action == a && !p.Shadow })
}

// shadowed are the policies with the action that only record what they would
// have decided.
func (r rules) shadowed(a policy.Action) []*rule {
	return r.with(func(p *rule) bool { return p.Action == a && p.Shadow })
}

// audits are the policies that mark a request for the access log.
func (r rules) audits() []*rule {
	return r.with(func(p *rule) bool { return p.Action == policy.Audit })
}

func (r rules) with(pick func(*rule) bool) []*rule {
	var picked []*rule
	for _, p := range r.applied {
		if pick(p) {
			picked = append(picked, p)
		}
	}
	return picked
}

// fromAnybody reports whether the policy says nothing of who calls. An ALLOW
// that does so admits nobody: what is empty denies.
func (p *rule) fromAnybody() bool {
	return len(p.Principals)+len(p.Sources)+len(p.NotPrincipals)+len(p.NotSources) == 0
}

// identityMatcher compiles a pattern of SPIFFE IDs.
func identityMatcher(p policy.Principal) *matcherv3.StringMatcher {
	switch {
	case p.Regex != "":
		return regex(p.Regex)
	case p.Prefix != "":
		return prefix(p.Prefix)
	default:
		return exact(p.Exact)
	}
}
