package policy

import "time"

var securityKeys = table[Mesh]{"security", []row[Mesh]{
	{name: "mtls", takes: within[Mesh](&mtlsKeys), says: "how sidecars identify each other"},
	{name: "authorization", takes: within[Mesh](&authorizationKeys), says: "who may call whom"},
}}

var mtlsKeys = table[MTLS]{"mtls", []row[MTLS]{
	{
		name: "enabled", takes: one(boolean(), func(m *MTLS) *bool { return &m.Enabled }), def: "true",
		says:    "sidecars identify each other. An edit goes from sidecar to sidecar in steps (docs/architecture.md), so that no call between them fails; authorization comes last and goes first",
		becomes: "TLS contexts of listeners and clusters, certificates by SDS",
	},
	{
		name: "mode", takes: one(word(Strict, Permissive), func(m *MTLS) *Mode { return &m.Mode }), def: "strict",
		says:    "`permissive` also serves callers in plaintext, who have no identity, and calls instances without `mesh_port` in plaintext. Of TCP, a caller that says nothing for 2 s is one in plaintext",
		becomes: "a second filter chain; transport socket matches",
	},
	{
		name: "trust_domain", takes: one(trustDomain(), func(m *MTLS) *string { return &m.TrustDomain }), unset: "that of the principals, if they name one; else `name`",
		says:    "`spiffe://<trust domain>/…`. Principals of several trust domains are an error as long as this key is not there, a warning when it is",
		becomes: "identities, SAN matchers",
	},
	{
		name: "cert_rotation", takes: one(durationUpTo(minRotation, longestRotation), func(m *MTLS) *time.Duration { return &m.CertRotation }), def: "24h",
		says: "the age at which a certificate is replaced at the latest; under 10m is a warning", becomes: "renewal of the secret `default`: no listener and no cluster moves",
	},
	{
		name: "cert_ttl", takes: one(durationUpTo(minRotation, longestLife), func(m *MTLS) *time.Duration { return &m.CertTTL }), unset: "2 × `cert_rotation`",
		says: "how long it is valid; longer than the rotation", becomes: "the certificate",
	},
	{
		name: "root", takes: one(rootHash(), func(m *MTLS) *string { return &m.Root }), unset: "any; a new one where there is none",
		says: "SHA-256 of the root certificate `ca.pem`, as the first start and `controlplane token join` say it. A start with another authority, or with a data directory that was lost, ends with an error: no proxy would trust a new one",
	},
	{name: "ca", takes: within[MTLS](&caKeys), unset: "the data directory", says: "where the authority is. A process that runs goes on with no edit of it: that takes a restart, and another root `controlplane roots` (docs/security.md)"},
}}

var caKeys = table[CA]{"ca", []row[CA]{
	{
		name: "provider", takes: one(wordOf([]CAProvider{CABuiltin, CAFiles}, "vault", "spire"), func(c *CA) *CAProvider { return &c.Provider }), def: "builtin",
		says: "`builtin`: the control plane's own authority, made at its first start; with `cert_file` and `key_file` its root is there. `files`: the operator's: it is never made and never written, and may be an intermediate", becomes: "who signs the certificates of proxies",
	},
	{
		name: "cert_file", takes: one(text(), func(c *CA) *string { return &c.CertFile }), unset: "`ca.pem` and `ca-key.pem` of the data directory; with `files`, an error",
		says: "the certificate and its key, both or neither; a relative path is relative to the working directory. With `files`, the certificate that signs, each followed by the one that signed it, the root at the end; they are read again when they change, but for another root",
	},
	{name: "key_file", takes: one(text(), func(c *CA) *string { return &c.KeyFile })},
}}

var authorizationKeys = table[Authorization]{"authorization", []row[Authorization]{
	{
		name: "enabled", takes: one(boolean(), func(a *Authorization) *bool { return &a.Enabled }), unset: "true where the file has `authorization`",
		says:    "false admits everybody. Without mTLS it is an error: there is no identity to check",
		becomes: "RBAC in the inbound route configuration, the secret `callers/X` for TCP",
	},
	{
		name: "default_action", takes: one(word(Allow, Deny), func(a *Authorization) *Action { return &a.DefaultAction }), def: "DENY",
		says: "what happens to a request that no policy decides", becomes: "the allow filter",
	},
	{
		name: "explain_denials", takes: one(boolean(), func(a *Authorization) *bool { return &a.ExplainDenials }), def: "false",
		says:    "a caller that is denied over HTTP is told by which policy, or that none admits it. The callee's access log and statistics always say it",
		becomes: "a value of the runtime layer, by which the text of a 403 is chosen: no listener moves",
	},
	{name: "policies", takes: listed[Authorization](&policyKeys), unset: "none", says: "below", becomes: "one RBAC policy each, under its name"},
}}

// policyKeys are those of one policy: what it is, and its conditions.
var policyKeys = table[AuthorizationPolicy]{"policy", append([]row[AuthorizationPolicy]{
	{
		name: "name", takes: one(text(), func(p *AuthorizationPolicy) *string { return &p.Name }), required: true, hint: "a denied caller and the statistics are told the name",
		says: "a name of its own",
	},
	{
		name: "action", takes: one(word(Allow, Deny, Audit), func(p *AuthorizationPolicy) *Action { return &p.Action }), required: true, hint: "action: ALLOW, DENY or AUDIT",
		says: "`DENY` comes before `ALLOW`; `AUDIT` only marks the access log",
	},
	{name: "mode", takes: policyMode(), unset: "`enforce`", says: "a `shadow` is only counted"},
}, conditionKeys.rows...)}

// conditionKeys are the conditions of a policy. Each has a form that excepts.
var conditionKeys = table[AuthorizationPolicy]{"conditions", []row[AuthorizationPolicy]{
	{
		name: "principals", takes: list(principal(), func(p *AuthorizationPolicy) *[]string { return &p.Principals }),
		says: "who calls. A last segment `*` is everything below it (`spiffe://datapunk/*`); elsewhere in the path a `*` is any part of one segment; in or next to the trust domain it is an error",
	},
	{name: "not_principals", takes: list(principal(), func(p *AuthorizationPolicy) *[]string { return &p.NotPrincipals })},
	{
		name: "sources", takes: list(serviceName(), func(p *AuthorizationPolicy) *[]string { return &p.Sources }),
		says: "services of this mesh that call. With `principals` it is one condition: either may match",
	},
	{name: "not_sources", takes: list(serviceName(), func(p *AuthorizationPolicy) *[]string { return &p.NotSources })},
	{
		name: "destinations", takes: list(serviceName(), func(p *AuthorizationPolicy) *[]string { return &p.Destinations }),
		says: "services that are called",
	},
	{name: "not_destinations", takes: list(serviceName(), func(p *AuthorizationPolicy) *[]string { return &p.NotDestinations })},
	{
		name: "paths", takes: list(pathPattern(), func(p *AuthorizationPolicy) *[]string { return &p.Paths }),
		says: "paths as they are after normalisation, without the query; `*` at the end for a prefix (`/admin/*` is also `/admin`). What no normalised path has is refused: `//`, `/./`, `/../`, `\\`, an encoded slash, a query. A DENY ignores case, an ALLOW does not; `not_paths` the other way round: what a DENY excepts is excepted in that spelling alone",
	},
	{name: "not_paths", takes: list(pathPattern(), func(p *AuthorizationPolicy) *[]string { return &p.NotPaths })},
	{
		name: "methods", takes: list(method(), func(p *AuthorizationPolicy) *[]string { return &p.Methods }),
		says: "in capital letters",
	},
	{name: "not_methods", takes: list(method(), func(p *AuthorizationPolicy) *[]string { return &p.NotMethods })},
	{
		name: "headers", takes: list(object(&headerKeys, checkHeader), func(p *AuthorizationPolicy) *[]HeaderMatch { return &p.Headers }),
		says: "headers, below; of one that stands in several lines, one that matches is enough",
	},
	{name: "not_headers", takes: list(object(&headerKeys, checkHeader), func(p *AuthorizationPolicy) *[]HeaderMatch { return &p.NotHeaders })},
	{
		name: "ports", takes: list(port(), func(p *AuthorizationPolicy) *[]uint16 { return &p.Ports }),
		says: "the application's",
	},
	{name: "not_ports", takes: list(port(), func(p *AuthorizationPolicy) *[]uint16 { return &p.NotPorts })},
}}

var headerKeys = table[HeaderMatch]{"header", []row[HeaderMatch]{
	{
		name: "name", takes: one(callerHeaderName(), func(h *HeaderMatch) *string { return &h.Name }), required: true,
		says: "its name, in any case. What a sidecar takes out of requests or writes itself is an error: `x-envoy-…`, `x-forwarded-client-cert`, those of one hop (`connection`, `te`, `upgrade` …), `x-request-id`, and those of traces. `:authority`, the host, is compared without its port, its case, and `.mesh` behind it; it takes no `regex`",
	},
	{name: "exact", takes: one(anyText(), func(h *HeaderMatch) *string { h.Exact = new(string); return h.Exact }), says: "the whole value"},
	{name: "prefix", takes: one(text(), func(h *HeaderMatch) *string { h.Prefix = new(string); return h.Prefix }), says: "what the value begins with"},
	{name: "suffix", takes: one(text(), func(h *HeaderMatch) *string { h.Suffix = new(string); return h.Suffix }), says: "what the value ends with"},
	{name: "regex", takes: one(regex(), func(h *HeaderMatch) *string { h.Regex = new(string); return h.Regex }), says: "the whole value, in RE2's syntax; Envoy takes at most 100 instructions, which is not quite 100 letters"},
	{name: "present", takes: one(boolean(), func(h *HeaderMatch) *bool { h.Present = new(bool); return h.Present }), says: "whether the request has it"},
}}
