package policy

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
	{name: "retry", takes: within[Service](&retryKeys), unset: "`policies.retry`", says: "as there", becomes: "as there"},
	{name: "timeout", takes: within[Service](&timeoutKeys), unset: "`policies.timeout`", says: "as there", becomes: "as there"},
	{name: "subsets", later: true},
	{name: "default_subset", later: true},
	{name: "rate_limit", later: true},
}}

var upstreamKeys = table[Upstream]{"upstream", []row[Upstream]{
	{name: "service", takes: one(serviceName(), func(u *Upstream) *string { return &u.Service }), required: true, says: "its name"},
	{name: "local_bind_port", takes: one(port(), func(u *Upstream) *uint16 { return &u.LocalBindPort }), unset: "none", says: "for TCP: where the caller's sidecar listens on loopback"},
}}
