package policy

import "time"

var rateLimitsKeys = table[Mesh]{"rate_limits", []row[Mesh]{
	{name: "default", takes: within[Mesh](&rateLimitKeys), says: "for every service"},
	{name: "custom", takes: named[Mesh](&rateLimitKeys), says: "for service C, key by key over `default`"},
	{name: "server", takes: within[Mesh](&limitServerKeys), unset: "none", says: "who counts where a limit is `per: global`: a server of Envoy's rate limit protocol, `envoy.service.ratelimit.v3`"},
}}

var limitServerKeys = table[LimitServer]{"limit_server", []row[LimitServer]{
	{
		name: "service", takes: one(serviceName(), func(s *LimitServer) *string { return &s.Service }), unset: "none: `address`",
		says: "the service of the mesh that it is, of `protocol: grpc`: called as any other, so its policies have to admit the services that are limited", becomes: "the cluster of the service",
	},
	{
		name: "address", takes: one(hostPort(), func(s *LimitServer) *string { return &s.Address }), unset: "none: `service`",
		says: "where it is, if it is no service of the mesh: exactly one of the two. Proxies speak plaintext to it without `tls`", becomes: "the cluster `mesh_rate_limit`",
	},
	{name: "tls", takes: within[LimitServer](&limitServerTLSKeys), unset: "none: plaintext", says: "how a server by `address` proves who it is"},
	{
		name: "domain", takes: one(text(), func(s *LimitServer) *string { return &s.Domain }), unset: "`mesh.name`",
		says: "the domain of the server's own configuration that the limits stand in", becomes: "`domain`",
	},
	{
		name: "timeout", takes: one(durationUpTo(time.Millisecond, 10*time.Second), func(s *LimitServer) *time.Duration { return &s.Timeout }), def: "50ms",
		says: "how long a request waits for its answer. It is what a server that hangs costs each request; one that is down costs nothing", becomes: "`timeout`",
	},
	{
		name: "on_failure", takes: one(word(AllowOnFailure, DenyOnFailure), func(s *LimitServer) *FailureMode { return &s.OnFailure }), def: "allow",
		says: "what becomes of requests that it says nothing of: `allow` takes them, without a limit, and counts: `…ratelimit.mesh.failure_mode_allowed`; `deny` answers 503", becomes: "`failure_mode_deny`, `status_on_error`",
	},
}}

var limitServerTLSKeys = table[LimitServerTLS]{"limit_server_tls", []row[LimitServerTLS]{
	{
		name: "ca", takes: one(certificates(), func(t *LimitServerTLS) *string { return &t.CA }), required: true, hint: "ca: |  and the PEM of the root",
		says: "the roots, as PEM, one of which the server's certificate comes from", becomes: "`trusted_ca` of the cluster `mesh_rate_limit`",
	},
	{
		name: "server_name", takes: one(text(), func(t *LimitServerTLS) *string { return &t.ServerName }), unset: "the host of `address`",
		says: "the DNS name, or the IP address, that the certificate is for", becomes: "`sni`, `match_typed_subject_alt_names`",
	},
}}

var rateLimitKeys = table[RateLimit]{"rate_limit", []row[RateLimit]{
	{
		name: "requests", takes: one(whole(1, most), func(r *RateLimit) *uint32 { return &r.All.Requests }), unset: "no bound of all together",
		says: "how many requests an instance of the service takes in an `interval`, whoever calls; a stream of gRPC and a WebSocket are one. Its own sidecar refuses what is more. Active health checks by HTTP or gRPC are not counted, and their path is not limited for anybody", becomes: "HTTP filter `local_ratelimit`, inbound, by ECDS: an edit of anything else leaves its count",
	},
	{
		name: "interval", takes: one(durationUpTo(minInterval, time.Hour), func(r *RateLimit) *time.Duration { return &r.All.Interval }), def: "1s",
		says: "the time in which they are taken; they come back one by one, not all at its end", becomes: "`token_bucket.fill_interval`",
	},
	{
		name: "burst", takes: one(whole(1, most), func(r *RateLimit) *uint32 { return &r.All.Burst }), unset: "`requests` of the same section",
		says: "how many may come at one time, after a pause", becomes: "`token_bucket.max_tokens`",
	},
	{
		name: "status", takes: limitStatus(), def: "429",
		says: "429, with `retry-after`, or 503. Calls of gRPC are answered RESOURCE_EXHAUSTED", becomes: "`status`",
	},
	{
		name: "per", takes: one(word(PerProxy, PerService, PerGlobal), func(r *RateLimit) *LimitedPart { return &r.Per }), def: "proxy",
		says: "`proxy`: each instance takes so many; `service`: all together do, each its part by the number of those that take requests, in all datacenters together: what stands by for a failover has its part too. A number that changes fills the buckets. `global`: `server` counts, and its own configuration says how many; `requests` and `callers`, if there are any, are of each instance beside it, and what they refuse the server is not asked for", becomes: "the numbers of the buckets; HTTP filter `ratelimit`, inbound, by ECDS",
	},
	{
		name: "mode", takes: one(word(Enforce, Shadow, Off), func(r *RateLimit) *LimitMode { return &r.Mode }), def: "enforce",
		says: "`shadow` refuses nobody and counts: `…http_local_rate_limit.rate_limited`, of a global limit `…ratelimit.mesh.over_limit`; `off` takes a service out of `default`", becomes: "`filter_enforced`",
	},
	{
		name: "callers", takes: named[RateLimit](&callerLimitKeys), unset: "none",
		says: "what caller C may take of it, by the identity in its certificate; `\"*\"`: each of the others for itself. It counts for the bound of all, too", becomes: "`descriptors`",
	},
}}

var callerLimitKeys = table[Bucket]{"caller_limit", []row[Bucket]{
	{name: "requests", takes: one(whole(1, most), func(b *Bucket) *uint32 { return &b.Requests }), required: true, hint: "requests: 100", says: "as above"},
	{name: "interval", takes: one(durationUpTo(minInterval, time.Hour), func(b *Bucket) *time.Duration { return &b.Interval }), unset: "1s", says: "as above"},
	{name: "burst", takes: one(whole(1, most), func(b *Bucket) *uint32 { return &b.Burst }), unset: "`requests`", says: "as above"},
}}

// minInterval is the shortest that Envoy takes.
const minInterval = 50 * time.Millisecond

func limitStatus() kind[RateLimit] {
	s := shape{form: formWhole, least: 429, most: 503, code: CodeRange}
	return kind[RateLimit]{s, func(v value, to *RateLimit) bool {
		n, ok := v.whole(429, 503)
		if ok && n != 429 && n != 503 {
			v.fail(CodeRange, "429, or 503", "%d is not what too many requests are answered", n)
			return false
		}
		to.Status = uint32(n) //nolint:gosec // at most 503
		return ok
	}}
}
