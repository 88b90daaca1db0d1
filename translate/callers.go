package translate

import (
	"fmt"
	"regexp"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"datapunk.dev/controlplane/policy"
)

// A TCP service is guarded by the TLS handshake: a filter behind it would
// decide on the caller's first byte, when a server that speaks first has
// already spoken. Who may call is a list of identities in the validation
// context of a secret, so that an edit moves no listener.

// nobody is in no certificate. An empty list would admit everybody.
const nobody = "nobody"

// callersSecret is the secret callers/<service>.
func (b *build) callersSecret(service string, r rules) (*Resource, error) {
	var d draft
	admitted := b.admittedCallers(&d, r)
	if len(admitted) == 0 {
		admitted = []*matcherv3.StringMatcher{exact(nobody)}
	}
	validation := &tlsv3.CertificateValidationContext{TrustedCa: inline(b.in.Roots)}
	for _, m := range admitted {
		d.checkRegex(m)
		validation.MatchTypedSubjectAltNames = append(validation.MatchTypedSubjectAltNames, uriSAN(m))
	}
	name := callersPrefix + service
	return d.finish(Secret, name, &tlsv3.Secret{
		Name: name,
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: validation},
	}, r.keys, nil)
}

// admittedCallers are the identities that may open a connection. A list cannot
// except anybody, so where a policy does, it is of the services of the mesh,
// one by one.
func (b *build) admittedCallers(d *draft, r rules) []*matcherv3.StringMatcher {
	if !r.enabled || (r.allowByDefault && !r.enumerates()) {
		return []*matcherv3.StringMatcher{prefix(b.c.anyIdentity())}
	}
	if r.enumerates() {
		return b.enumerateCallers(d, r)
	}
	var admitted []*matcherv3.StringMatcher
	for _, p := range r.tcpAllows() {
		some, _ := p.callers(b.c.globals)
		for _, pattern := range some {
			m, err := identityMatcher(pattern)
			if err != nil {
				d.errs = append(d.errs, err)
				continue
			}
			admitted = append(admitted, m)
		}
	}
	return admitted
}

func (b *build) enumerateCallers(d *draft, r rules) []*matcherv3.StringMatcher {
	allows, denies := b.c.callerSets(d, r.tcpAllows()), b.c.callerSets(d, r.enforced(policy.Deny))
	var admitted []*matcherv3.StringMatcher
	it := b.services.Root().Iterator()
	for name, _, ok := it.Next(); ok; name, _, ok = it.Next() {
		id := b.c.identity(string(name))
		if (r.allowByDefault || matchAny(allows, id)) && !matchAny(denies, id) {
			admitted = append(admitted, exact(id))
		}
	}
	return admitted
}

// tcpAllows are the ALLOW policies that can match a connection: one with a
// condition on HTTP never does. (A DENY's conditions on HTTP are ignored, which
// denies more.)
func (r rules) tcpAllows() []*rule {
	var picked []*rule
	for _, p := range r.enforced(policy.Allow) {
		if !p.OfHTTP() && !p.fromAnybody() {
			picked = append(picked, p)
		}
	}
	return picked
}

// enumerates reports whether the callers of a TCP service can only be listed
// one by one.
func (r rules) enumerates() bool {
	if !r.enabled {
		return false
	}
	if len(r.enforced(policy.Deny)) > 0 {
		return true
	}
	for _, p := range r.tcpAllows() {
		if len(p.NotPrincipals)+len(p.NotSources) > 0 {
			return !r.allowByDefault
		}
	}
	return false
}

// admitPlaintextTCP reports whether a caller without a certificate, and so
// without an identity, may open a connection while mTLS is permissive.
func (r rules) admitPlaintextTCP() bool {
	if !r.enabled {
		return true
	}
	for _, p := range r.enforced(policy.Deny) {
		if len(p.Principals)+len(p.Sources) == 0 {
			return false
		}
	}
	return r.allowByDefault
}

// callerSet is the callers of one policy: one of some, none of not.
type callerSet struct{ some, not []*matcherv3.StringMatcher }

func (c *compiler) callerSets(d *draft, policies []*rule) []callerSet {
	compile := func(patterns []string) []*matcherv3.StringMatcher {
		var all []*matcherv3.StringMatcher
		for _, pattern := range patterns {
			m, err := identityMatcher(pattern)
			if err != nil {
				d.errs = append(d.errs, err)
				continue
			}
			all = append(all, m)
		}
		return all
	}
	sets := make([]callerSet, 0, len(policies))
	for _, p := range policies {
		some, not := p.callers(c.globals)
		sets = append(sets, callerSet{compile(some), compile(not)})
	}
	return sets
}

func matchAny(sets []callerSet, id string) bool {
	for _, s := range sets {
		if (len(s.some) == 0 || oneMatches(s.some, id)) && !oneMatches(s.not, id) {
			return true
		}
	}
	return false
}

func oneMatches(ms []*matcherv3.StringMatcher, id string) bool {
	for _, m := range ms {
		if matches(m, id) {
			return true
		}
	}
	return false
}

// matches is what Envoy will answer.
func matches(m *matcherv3.StringMatcher, s string) bool {
	switch p := m.MatchPattern.(type) {
	case *matcherv3.StringMatcher_Exact:
		return s == p.Exact
	case *matcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(s, p.Prefix)
	case *matcherv3.StringMatcher_SafeRegex:
		ok, err := regexp.MatchString("^(?:"+p.SafeRegex.Regex+")$", s)
		return err == nil && ok
	default:
		panic(fmt.Sprintf("a matcher of identities by %T", p))
	}
}
