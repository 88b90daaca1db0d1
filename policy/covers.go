package policy

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// policySet answers whether all that one policy matches is matched by others.
// A "no" may be a "cannot tell"; a "yes" is certain.
type policySet struct {
	policies []*AuthorizationPolicy
	domain   string // the trust domain
	prints   map[string]bool
	budget   int // comparisons that are left before it cannot tell
}

// maxComparisons bounds the work of one set, whatever its policies: a few
// seconds.
const maxComparisons = 1 << 22

// newPolicySet returns the policies of a mesh with the action that decide.
func newPolicySet(m *Mesh, a Action) *policySet {
	s := &policySet{policies: m.enforced(a), domain: m.MTLS.TrustDomain, prints: make(map[string]bool), budget: maxComparisons}
	for _, p := range s.policies {
		s.prints[fingerprint(p, s.domain)] = true
	}
	return s
}

// fingerprint is equal for policies that match the same by the same words.
func fingerprint(p *AuthorizationPolicy, domain string) string {
	q := *p
	q.Name, q.Key = "", ""
	text, err := json.Marshal(q)
	if err != nil {
		panic("a policy is plain data: " + err.Error())
	}
	return domain + string(text)
}

// maxParts bounds into how many parts a policy is taken apart.
const maxParts = 1024

// covers reports whether whatever p matches, a policy of a mesh with the trust
// domain, is matched by the set. One policy of the set need not do for all of
// p: an ALLOW of two sources may have become one of each.
func (s *policySet) covers(p *AuthorizationPolicy, domain string) bool {
	if s.prints[fingerprint(p, domain)] || s.one(p, domain) {
		return true
	}
	parts := 1
	for _, n := range []int{len(p.Principals) + len(p.Sources), len(p.Destinations), len(p.Paths), len(p.Methods), len(p.Ports)} {
		if parts *= max(n, 1); parts > maxParts {
			return false
		}
	}
	for _, part := range apart(p) {
		if !s.one(part, domain) {
			return false
		}
	}
	return true
}

// one reports whether one policy of the set matches all that p does.
func (s *policySet) one(p *AuthorizationPolicy, domain string) bool {
	if s.budget -= len(s.policies); s.budget < 0 {
		return false
	}
	return slices.ContainsFunc(s.policies, func(q *AuthorizationPolicy) bool { return policyWithin(p, domain, q, s.domain) })
}

// apart returns policies with one value a field that match together what p
// matches.
func apart(p *AuthorizationPolicy) []*AuthorizationPolicy {
	parts := []*AuthorizationPolicy{p}
	split := func(n int, narrow func(part *AuthorizationPolicy, i int)) {
		if n < 2 {
			return
		}
		finer := make([]*AuthorizationPolicy, 0, n*len(parts))
		for _, part := range parts {
			for i := range n {
				one := *part
				narrow(&one, i)
				finer = append(finer, &one)
			}
		}
		parts = finer
	}
	split(len(p.Principals)+len(p.Sources), func(part *AuthorizationPolicy, i int) {
		if i < len(p.Principals) {
			part.Principals, part.Sources = p.Principals[i:i+1], nil
		} else {
			i -= len(p.Principals)
			part.Principals, part.Sources = nil, p.Sources[i:i+1]
		}
	})
	split(len(p.Destinations), func(part *AuthorizationPolicy, i int) { part.Destinations = p.Destinations[i : i+1] })
	split(len(p.Paths), func(part *AuthorizationPolicy, i int) { part.Paths = p.Paths[i : i+1] })
	split(len(p.Methods), func(part *AuthorizationPolicy, i int) { part.Methods = p.Methods[i : i+1] })
	split(len(p.Ports), func(part *AuthorizationPolicy, i int) { part.Ports = p.Ports[i : i+1] })
	return parts
}

// policyWithin reports whether all that p matches is matched by q, of the same
// action: each condition of q is one of p too, and no wider there, and each
// exception of q is one of p. On a service of TCP, where conditions on HTTP
// make an ALLOW match nothing and are ignored in a DENY, that holds as well.
func policyWithin(p *AuthorizationPolicy, pDomain string, q *AuthorizationPolicy, qDomain string) bool {
	return narrower(callersOf(p, pDomain), callersOf(q, qDomain), principalWithin) &&
		narrower(p.Destinations, q.Destinations, equal) &&
		narrower(p.Paths, q.Paths, pathWithin) &&
		narrower(p.Methods, q.Methods, equal) &&
		narrower(p.Headers, q.Headers, sameHeader) &&
		narrower(p.Ports, q.Ports, equal) &&
		fewer(q.identities(qDomain, q.NotPrincipals, q.NotSources), p.identities(pDomain, p.NotPrincipals, p.NotSources), principalWithin) &&
		fewer(q.NotDestinations, p.NotDestinations, equal) &&
		fewer(q.NotPaths, p.NotPaths, pathWithin) &&
		fewer(q.NotMethods, p.NotMethods, equal) &&
		fewer(q.NotHeaders, p.NotHeaders, sameHeader) &&
		fewer(q.NotPorts, p.NotPorts, equal)
}

// narrower reports whether a condition with the values p holds only where one
// with the values q does. None means any.
func narrower[T any](p, q []T, in func(p, q T) bool) bool {
	return len(q) == 0 || len(p) > 0 && fewer(p, q, in)
}

// fewer reports whether each of p is in one of q.
func fewer[T any](p, q []T, in func(p, q T) bool) bool {
	for _, v := range p {
		if !slices.ContainsFunc(q, func(w T) bool { return in(v, w) }) {
			return false
		}
	}
	return true
}

func equal[T comparable](a, b T) bool { return a == b }

func sameHeader(a, b HeaderMatch) bool { return reflect.DeepEqual(a, b) }

// callersOf are the identities that a policy names. An ALLOW that names only
// exceptions is of everybody else in the mesh.
func callersOf(p *AuthorizationPolicy, domain string) []string {
	some := p.identities(domain, p.Principals, p.Sources)
	if len(some) == 0 && p.Action == Allow {
		return []string{"spiffe://" + domain + "/*"}
	}
	return some
}

func (p *AuthorizationPolicy) identities(domain string, principals, services []string) []string {
	all := slices.Clone(principals)
	for _, s := range services {
		all = append(all, "spiffe://"+domain+"/"+s)
	}
	return all
}

// principalWithin reports whether every identity that p matches is one that q
// matches.
func principalWithin(p, q string) bool { return ParsePrincipal(q).covers(ParsePrincipal(p)) }

// pathWithin reports whether every path that p matches is one that q matches.
// `/admin/*` is also /admin.
func pathWithin(p, q string) bool {
	if p == q {
		return true
	}
	head, open := strings.CutSuffix(q, "*")
	switch {
	case !open:
		return false
	case head == "" || head == "/":
		return true
	}
	text, _ := strings.CutSuffix(p, "*")
	return strings.HasPrefix(text, head) || p == strings.TrimSuffix(head, "/")
}
