package codes

// identity are the codes of mTLS and of authorization.
func identity() []Entry {
	return []Entry{
		{
			Code: "MC1501", Title: "a principal that is no SPIFFE ID, or admits strangers",
			Why:     "A `*` may stand in the path alone: in or at the trust domain it would admit everybody who can make an authority.",
			Example: allow("principals: [\"spiffe://mesh*\"]"), Fix: "Write `spiffe://TRUST-DOMAIN/SERVICE`, or `spiffe://TRUST-DOMAIN/*` for the whole mesh.",
		},
		{
			Code: "MC1502", Title: "a condition that is empty, or an ALLOW without callers",
			Why:     "Empty means deny, and an ALLOW that admits nobody is a mistake.",
			Example: allow("principals: []"), Fix: "Name callers with `sources` or `principals`; leave a condition out to mean any.",
		},
		{
			Code: "MC1503", Title: "two policies of one name",
			Why:     "The name is what statistics and a denied call are told by.",
			Example: "  security: {authorization: {policies: [{name: p, action: DENY, sources: [a]}, {name: p, action: DENY, sources: [b]}]}}\n",
			Fix:     "Give each a name of its own.",
		},
		{
			Code: "MC1505", Title: "authorization, or limits of callers, without mTLS",
			Why:     "Without a certificate nobody has an identity, so nobody could be admitted by it.",
			Example: "  security: {mtls: {enabled: false}, authorization: {enabled: true}}\n", Fix: "Turn `security.mtls.enabled` on, or authorization off.",
		},
		{
			Code: "MC1506", Title: "no trust domain, or several",
			Why:     "Certificates are of one trust domain, and the file does not say which.",
			Example: "  security: {mtls: {trust_domain: Mesh}}\n", Fix: "Set `security.mtls.trust_domain`, in small letters, without `spiffe://`.",
		},
		{
			Code: "MC1507", Title: "a method, a header or a regular expression that is none",
			Why:     "No request would ever match: methods are in capital letters, some headers are written or taken out by sidecars, and Envoy takes RE2 expressions of at most 100 instructions.",
			Example: allow("sources: [a], methods: [get]"), Fix: "The message says what can be matched.",
		},
		{
			Code: "MC1508", Title: "certificates that end before they are replaced",
			Why:     "Every proxy would be without one until the next rotation.",
			Example: "  security: {mtls: {cert_rotation: 24h, cert_ttl: 24h}}\n", Fix: "Let `cert_ttl` be twice `cert_rotation`, or leave it out.",
		},
	}
}

func allow(rest string) string {
	return "  security: {authorization: {policies: [{name: p, action: ALLOW, " + rest + "}]}}\n"
}
