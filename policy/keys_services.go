package policy

import "time"

var serviceKeys = table[Service]{"service", []row[Service]{
	{
		name: "consul_service", takes: one(text(), func(s *Service) *string { return &s.ConsulService }), unset: "X",
		says: "its name in the catalog; two services of one name are an error", becomes: "which instances are its endpoints",
	},
	{
		name: "protocol", takes: one(word(HTTP, HTTP2, GRPC, TCP), func(s *Service) *Protocol { return &s.Protocol }), def: "http",
		says: "what the application speaks", becomes: "HTTP or TCP listeners and clusters",
	},
	{
		name: "encoded_slashes", takes: one(word(Refuse, Keep), func(s *Service) *EncodedSlashes { return &s.EncodedSlashes }), def: "refuse",
		says:    "what becomes of a request with `%2F` or `%5C` in its path: `refuse` answers 400; `keep` hands it on as it is, for an application that wants `/projects/group%2Fname`. Policies by path then see the encoded slash and not a `/`: a DENY of `/admin/*` does not match `/x%2F..%2Fadmin/`, whatever the application makes of it",
		becomes: "a route that answers 400, inbound",
	},
	{
		name: "upstreams", takes: list(upstream(), func(s *Service) *[]Upstream { return &s.Upstreams }), unset: "every service",
		says:    "whom it calls; with `local_bind_port: N` the sidecar listens on 127.0.0.1:N for TCP. `[]`: nobody",
		becomes: "the scope of its proxies: clusters, outbound routes, TCP listeners",
	},
	{name: "circuit_breakers", takes: within[Service](&limitKeys), unset: "`circuit_breakers.custom.X`", says: "the four limits", becomes: "as there"},
	{name: "outlier_detection", takes: within[Service](&outlierKeys), unset: "that of `custom.X`", says: "as above", becomes: "as there"},
	{name: "load_balancing", takes: within[Service](&serviceBalancingKeys), unset: "`load_balancing`", says: "`policy`, `hash_policy`, `panic_threshold`", becomes: "as there"},
	{name: "health_checks", takes: within[Service](&healthCheckKeys), unset: "`load_balancing.health_checks`", says: "as there", becomes: "as there"},
	{name: "health_check", takes: within[Service](&appCheckKeys), unset: "none: an instance is passing while its proxy's stream lives", says: "a check of the application by what stands beside it, below", becomes: "the check `ID:app` of its entry in the catalog, where proxies are registered, and so the health of its endpoints"},
	{name: "retry", takes: within[Service](&retryKeys), unset: "`policies.retry`", says: "as there", becomes: "as there"},
	{name: "timeout", takes: within[Service](&timeoutKeys), unset: "`policies.timeout`", says: "as there", becomes: "as there"},
	{
		name: "subsets", takes: named[Service](&subsetKeys), unset: "none",
		says: "parts of its instances that routes lead to by name: see [subsets](#subsets)", becomes: "a cluster `X|S` for each subset S, with circuit breakers and outlier detection of its own",
	},
	{
		name: "default_subset", takes: one(text(), func(s *Service) *string { return &s.DefaultSubset }), unset: "all instances",
		says: "where requests go that no route sends elsewhere", becomes: "Route `cluster`",
	},
	{
		name: "on_empty_subset", takes: one(word(Redistribute, Fail), func(s *Service) *OnEmpty { return &s.OnEmptySubset }), def: "redistribute",
		says:    "what becomes of requests to a subset in which nobody can take them, for there is no instance, or all are sick or ejected: `redistribute` sends them to the default subset, and to all instances if it has nobody either; a second try goes there too. `fail` answers 503",
		becomes: "a cluster `X|S|fallback` that tries `X|S` first",
	},
	{name: "admission_control", takes: within[Service](&admissionKeys), unset: "that of `policies.admission_control`", says: "as there", becomes: "as there"},
	{name: "rate_limit", takes: within[Service](&rateLimitKeys), unset: "that of `policies.rate_limit`", says: "as there", becomes: "as there"},
}}

var appCheckKeys = table[AppCheck]{"health_check", []row[AppCheck]{
	{
		name: "http", takes: one(requestPath(), func(c *AppCheck) *string { return &c.Path }), unset: "none",
		says:    "a GET of the path at the application's own port: 2xx is passing, 429 a warning, all else critical. Over HTTP/2 where `protocol` is `http2` or `grpc`",
		becomes: "HDS `http_health_check`, by the Envoy",
	},
	{name: "tcp", takes: one(boolean(), func(c *AppCheck) *bool { return &c.TCP }), unset: "none", says: "`true`: a connection to the application's port", becomes: "HDS `tcp_health_check`, by the Envoy"},
	{
		name: "grpc", takes: one(boolean(), func(c *AppCheck) *bool { return &c.GRPC }), unset: "none",
		says:    "`true`: `grpc.health.v1.Health/Check` of the application as a whole. Made by `controlplane sidecar`: beside an Envoy without it nothing is checked. One of `http`, `tcp` and `grpc` has to be there",
		becomes: "a call by the sidecar",
	},
	{name: "interval", takes: one(duration(time.Second), func(c *AppCheck) *time.Duration { return &c.Interval }), unset: "5s", says: "between two checks; a change is reported after half of it more, 1s to 5s", becomes: "`…interval`, and that of the reports"},
	{name: "timeout", takes: one(duration(100*time.Millisecond), func(c *AppCheck) *time.Duration { return &c.Timeout }), unset: "2s", says: "of one check; not more than the interval", becomes: "`…timeout`"},
	{name: "unhealthy_threshold", takes: one(whole(1, 1<<16), func(c *AppCheck) *uint32 { return &c.UnhealthyThreshold }), unset: "2", says: "failures in a row that make it critical", becomes: "`…unhealthy_threshold`"},
	{name: "healthy_threshold", takes: one(whole(1, 1<<16), func(c *AppCheck) *uint32 { return &c.HealthyThreshold }), unset: "1", says: "passes in a row that bring it back", becomes: "`…healthy_threshold`"},
}}

var upstreamKeys = table[Upstream]{"upstream", []row[Upstream]{
	{name: "service", takes: one(serviceName(), func(u *Upstream) *string { return &u.Service }), required: true, says: "its name"},
	{name: "local_bind_port", takes: one(port(), func(u *Upstream) *uint16 { return &u.LocalBindPort }), unset: "none", says: "for TCP: where the caller's sidecar listens on loopback"},
}}
