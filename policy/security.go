package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"datapunk.dev/controlplane/yamlfile"
)

const (
	// minRotation is the least age at which an SVID is replaced. Tests of
	// rotation use 20 s; below this the fleet would do little else.
	minRotation = time.Second
	// usualRotation is the age below which a file is asked whether it means it.
	usualRotation = 10 * time.Minute
	// lifetimes is how many rotations an SVID lives where the file does not
	// say: a whole one in hand when the authority is down.
	lifetimes = 2
)

// security reads mTLS and authorization. What is not said is the safe side:
// mTLS is on and strict, and what no policy admits is denied.
func (d *decoder) security(root *mapping, m *Mesh) {
	s := root.section("security")
	securityKeys.read(s, m)
	mtls := s.section("mtls")
	d.mtls(mtls, &m.MTLS)
	authorization := s.section("authorization")
	d.authorization(authorization, &m.Authorization)
	d.trustDomain(root, mtls, authorization, m)
	switch {
	case m.Authorization.Enabled && !m.MTLS.Enabled:
		authorization.first("enabled").fail(CodeNoIdentity, "authorization.enabled: false, or mtls.enabled: true", "needs mtls.enabled: without mTLS there is no identity to check")
	case m.Authorization.Enabled && !m.Authorization.admits():
		authorization.fail(CodeDeniesAll, "a policy with action ALLOW, or default_action: ALLOW",
			"no ALLOW is enforced, so every request is denied")
	case m.Authorization.Enabled && m.MTLS.Mode == Permissive && mtls.has("mode"):
		mtls.first("mode").fail(CodePermissive, "mode: strict once every caller has a sidecar",
			"callers in plaintext have no identity: a policy that admits by principals or sources denies them")
	}
}

// admits reports whether there is anything that could let a request pass.
func (a *Authorization) admits() bool {
	return a.DefaultAction == Allow ||
		slices.ContainsFunc(a.Policies, func(p AuthorizationPolicy) bool { return p.Action == Allow && !p.Shadow })
}

func (d *decoder) ca(s *mapping, to *CA) {
	caKeys.defaults(to)
	caKeys.read(s, to)
	switch {
	case s.has("cert_file") != s.has("key_file"):
		s.fail(CodeMissing, "cert_file: /var/lib/mesh/ca.crt, key_file: /var/lib/mesh/ca.key", "cert_file and key_file stand together or not at all")
	case to.Provider == CAFiles && !s.has("cert_file"):
		s.fail(CodeMissing, "cert_file: /etc/mesh/ca.crt, key_file: /etc/mesh/ca.key", "provider files takes cert_file and key_file")
	case to.CertFile != "" && to.CertFile == to.KeyFile:
		s.first("key_file").fail(CodeConflict, "", "cert_file and key_file are one file")
	}
}

func (d *decoder) mtls(s *mapping, to *MTLS) {
	mtlsKeys.defaults(to)
	mtlsKeys.read(s, to)
	d.ca(s.section("ca"), &to.CA)
	if s.got("cert_rotation") && to.CertRotation < usualRotation {
		s.first("cert_rotation").fail(CodeShortLived, "", "every proxy gets a new certificate each %v: that is for tests", to.CertRotation)
	}
	switch {
	case !s.has("cert_ttl"):
		to.CertTTL = lifetimes * to.CertRotation
	case s.got("cert_ttl") && to.CertTTL <= to.CertRotation:
		s.first("cert_ttl").fail(CodeLifetime, "twice cert_rotation leaves time when the authority is down",
			"certificates that live %v end before they are replaced, after %v", to.CertTTL, to.CertRotation)
	}
}

func (v value) checkTrustDomain(name string) bool {
	if td, err := spiffeid.TrustDomainFromString(name); err != nil || td.Name() != name {
		v.fail(CodeTrustDomain, "small letters, digits, dots, dashes and underscores: security.mtls.trust_domain", "%q is no trust domain", name)
		return false
	}
	return true
}

// trustDomain settles the trust domain of the mesh: its key, else the one that
// the principals name, else the mesh's name.
func (d *decoder) trustDomain(root, mtls, authorization *mapping, m *Mesh) {
	principals := principalsOf(authorization)
	if m.MTLS.TrustDomain != "" || mtls.has("trust_domain") {
		for _, p := range principals {
			if p.domain != m.MTLS.TrustDomain && m.MTLS.TrustDomain != "" {
				p.fail(CodeForeign, "", "is in trust domain %s, and every proxy of this mesh in %s: it matches nobody", p.domain, m.MTLS.TrustDomain)
			}
		}
		return
	}
	for _, p := range principals {
		if m.MTLS.TrustDomain == "" {
			m.MTLS.TrustDomain = p.domain
		}
		if p.domain != m.MTLS.TrustDomain {
			p.fail(CodeTrustDomain, "say which one is this mesh's: security.mtls.trust_domain",
				"the principals name trust domain %s, and %s", m.MTLS.TrustDomain, p.domain)
			return
		}
	}
	if m.MTLS.TrustDomain == "" {
		m.MTLS.TrustDomain = m.Name
		if name, ok := root.peek("name"); ok && m.Name != "" {
			name.checkTrustDomain(m.Name)
		}
	}
}

// principalAt is a principal of a policy with its trust domain.
type principalAt struct {
	value
	domain string
}

// principalsOf are the principals of all policies that are right.
func principalsOf(authorization *mapping) []principalAt {
	var all []principalAt
	for _, item := range authorization.items("policies") {
		if item.Kind != yamlfile.Map {
			continue
		}
		for _, name := range []string{"principals", "not_principals"} {
			for _, p := range item.mapping().items(name) {
				if p.Kind != yamlfile.Scalar {
					continue
				}
				e, err := expand(p.Text, p.d.lookup)
				if err != nil || checkPrincipal(e.text) != "" {
					continue
				}
				domain, _, _ := strings.Cut(strings.TrimPrefix(e.text, "spiffe://"), "/")
				all = append(all, principalAt{p, domain})
			}
		}
	}
	return all
}

// checkPrincipal returns what is wrong with a pattern of SPIFFE IDs, or "".
// A star stands in the path alone: the last segment may be one, for everything
// below, and it may be part of any other.
func checkPrincipal(pattern string) string {
	rest, ok := strings.CutPrefix(pattern, "spiffe://")
	if !ok {
		return "does not begin with spiffe://"
	}
	domain, path, slash := strings.Cut(rest, "/")
	switch {
	case strings.Contains(domain, "*"):
		return "has a * in the trust domain, which admits strangers"
	case !slash || path == "":
		return "has no path: no proxy has that identity"
	case strings.Contains(path, "**"):
		return "has two stars together: one at the end stands for everything below"
	}
	if _, err := spiffeid.FromString(strings.ReplaceAll(pattern, "*", "x")); err != nil {
		return "is no SPIFFE ID: " + err.Error()
	}
	if err := CheckRegex(principalRegex(pattern)); err != nil {
		return "has stars that take a regular expression: " + err.Error()
	}
	return ""
}

func (v value) principal(text string) bool {
	why := checkPrincipal(text)
	if why == "" {
		return true
	}
	hint := "spiffe://TRUST-DOMAIN/SERVICE, or spiffe://TRUST-DOMAIN/* for the whole mesh"
	if domain, _, slash := strings.Cut(strings.TrimPrefix(text, "spiffe://"), "/"); strings.HasPrefix(text, "spiffe://") {
		switch {
		case strings.TrimRight(domain, "*") != domain && strings.Trim(domain, "*.") != "" && !slash:
			hint = "did you mean spiffe://" + strings.TrimRight(domain, "*.") + "/*?"
		case !slash && domain != "":
			hint = "did you mean spiffe://" + domain + "/*?"
		}
	}
	v.fail(CodePrincipal, hint, "%q %s", text, why)
	return false
}
