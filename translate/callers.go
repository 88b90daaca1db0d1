package translate

import (
	"iter"
	"slices"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// A TCP service is guarded by the TLS handshake: a filter behind it would
// decide on the caller's first byte, when a server that speaks first has
// already spoken. Who may call is a list of identities in the validation
// context of a secret, so that an edit moves no listener.

// nobody is in no certificate. An empty list would admit everybody.
const nobody = "nobody"

// callersSecret is the secret callers/<service>, and whether it lists callers
// one by one.
func (b *build) callersSecret(service string, r rules) (secret *resource.Resource, listed bool, err error) {
	var d builder
	admitted, listed := b.admittedCallers(r)
	if len(admitted) == 0 {
		admitted = []policy.Principal{{Exact: nobody}}
	}
	validation := &tlsv3.CertificateValidationContext{TrustedCa: inline(b.in.Roots)}
	for _, p := range admitted {
		m := identityMatcher(p)
		d.checkRegex(m)
		validation.MatchTypedSubjectAltNames = append(validation.MatchTypedSubjectAltNames, uriSAN(m))
	}
	name := resource.SecretCallers(service)
	secret, err = d.finish(resource.Secret, name, &tlsv3.Secret{
		Name: name,
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: validation},
	}, r.keys, nil)
	return secret, listed, err
}

// admittedCallers are the identities that may open a connection, each pattern
// once. A list of names in a certificate cannot except anybody: where a policy
// excepts one of a pattern, those of the pattern that are known are listed one
// by one, and nobody else of it is admitted.
func (b *build) admittedCallers(r rules) (admitted []policy.Principal, listed bool) {
	anybody := policy.Callers{Some: []policy.Principal{{Prefix: b.c.anyIdentity()}}}
	if !r.enabled {
		return anybody.Some, false
	}
	allows := []policy.Callers{anybody}
	if !r.allowByDefault {
		allows = b.c.callersOf(r.tcpAllows())
	}
	denies := b.c.callersOf(r.enforced(policy.Deny))
	denied := func(id string) bool {
		return slices.ContainsFunc(denies, func(c policy.Callers) bool { return c.Match(id) })
	}
	seen := make(map[policy.Principal]struct{})
	admit := func(p policy.Principal) {
		if _, twice := seen[p]; !twice {
			seen[p] = struct{}{}
			admitted = append(admitted, p)
		}
	}
	for _, allow := range allows {
		if len(allow.Some) == 0 {
			allow.Some = anybody.Some
		}
		for _, p := range allow.Some {
			switch {
			case p.Exact != "":
				if allow.Match(p.Exact) && !denied(p.Exact) {
					admit(p)
				}
			case !allow.Excepts(p) && !slices.ContainsFunc(denies, func(c policy.Callers) bool { return c.Meets(p) }):
				admit(p)
			default:
				listed = true
				for name := range b.knownCallers() {
					if id := b.c.identity(name); p.Matches(id) && allow.Match(id) && !denied(id) {
						admit(policy.Principal{Exact: id})
					}
				}
			}
		}
	}
	return admitted, listed
}

// knownCallers are the names of the services of the mesh, and of those of
// connected proxies that are registered nowhere.
func (b *build) knownCallers() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range b.services.All() {
			if !yield(name) {
				return
			}
		}
		last := ""
		for p := range b.in.Fleet.Profiles() {
			if p.Service == last {
				continue
			}
			last = p.Service
			if _, known := b.services.Get(p.Service); !known && unservable(p.Service) == "" && !yield(p.Service) {
				return
			}
		}
	}
}

func (c *compiler) callersOf(policies []*rule) []policy.Callers {
	all := make([]policy.Callers, 0, len(policies))
	for _, p := range policies {
		all = append(all, p.Callers(c.trustDomain))
	}
	return all
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

// admitPlaintextTCP reports whether a caller without a certificate, and so
// without an identity, may open a connection while mTLS is permissive.
func (r rules) admitPlaintextTCP() bool {
	if !r.enabled {
		return true
	}
	return r.allowByDefault && !slices.ContainsFunc(r.enforced(policy.Deny), func(p *rule) bool {
		return len(p.Principals)+len(p.Sources) == 0
	})
}
