package policy

import "time"

// meshBalancingKeys are those of the mesh, which has the health checks inside;
// serviceBalancingKeys those of a service, which has them beside.
var meshBalancingKeys = table[LoadBalancing]{"load_balancing", append(balancingKeys.rows, row[LoadBalancing]{
	name: "health_checks", takes: within[LoadBalancing](&healthCheckKeys), unset: "no active checks",
	says: "checks by each proxy of each instance, below", becomes: "Cluster `health_checks`",
})}

var serviceBalancingKeys = table[LoadBalancing]{"service_load_balancing", append(balancingKeys.rows, row[LoadBalancing]{
	name: "health_checks", refused: "the health_checks of a service stand beside its load_balancing, not inside",
})}

var balancingKeys = table[LoadBalancing]{"balancing", []row[LoadBalancing]{
	{
		name: "policy", def: "least_request",
		takes: one(word("least_request", "round_robin", "random", "ring_hash", "maglev"), func(l *LoadBalancing) *string { return &l.Policy }),
		says:  "how an instance is picked; `least_request` is of two", becomes: "Cluster `load_balancing_policy`",
	},
	{
		name: "hash_policy", takes: list(object(&hashPolicyKeys, checkHashPolicy), func(l *LoadBalancing) *[]HashPolicy { return &l.HashPolicy }), unset: "none",
		says: "what `ring_hash` and `maglev` hash; each entry has one of `header: NAME`, `cookie: NAME` and `source_ip: true`", becomes: "Route `hash_policy`",
	},
	{
		name: "panic_threshold", takes: one(percentage(), func(l *LoadBalancing) *float64 { return &l.PanicThreshold }), def: "50",
		says: "percentage of healthy instances below which the unhealthy are called too; 0: never. Those in maintenance or of weight 0 are never called, and not counted", becomes: "Cluster `common_lb_config.healthy_panic_threshold`",
	},
	{name: "locality", takes: within[LoadBalancing](&localityKeys), unset: "every place is alike", says: "how much it counts where an instance is: see [places](#places)"},
	{name: "slow_start", takes: within[LoadBalancing](&slowStartKeys), unset: "none: an instance that comes has its share at once", says: "has a new instance take its share bit by bit, below; with `least_request` and `round_robin`", becomes: "`slow_start_config` of the policy"},
}}

var hashPolicyKeys = table[HashPolicy]{"hash_policy", []row[HashPolicy]{
	{name: "header", takes: one(headerName(), func(h *HashPolicy) *string { return &h.Header }), says: "the value of a header"},
	{name: "cookie", takes: one(text(), func(h *HashPolicy) *string { return &h.Cookie }), says: "the value of a cookie"},
	{name: "source_ip", takes: one(boolean(), func(h *HashPolicy) *bool { return &h.SourceIP }), says: "the caller's address"},
}}

var healthCheckKeys = table[HealthChecks]{"health_checks", []row[HealthChecks]{
	{
		name: "protocol", takes: one(word("tcp", "http", "grpc"), func(h *HealthChecks) *string { return &h.Protocol }), def: "tcp",
		says: "`tcp` sees the sidecar, not the application; a service of protocol tcp that inherits another is checked by `tcp`", becomes: "the checker",
	},
	{
		name: "path", takes: one(requestPath(), func(h *HealthChecks) *string { return &h.Path }), unset: "must be there for `http`",
		says:    "what is asked; without a query. No ALLOW is needed: where authorization is on, every service of the mesh may GET it (of grpc, call `grpc.health.v1.Health/Check`), unless a DENY matches",
		becomes: "`http_health_check.path`; the policy `health-checks` in the inbound RBAC",
	},
	{
		name: "timeout", takes: one(duration(time.Millisecond), func(h *HealthChecks) *time.Duration { return &h.Timeout }), def: "5s",
		says: "of one check; not more than the interval", becomes: "`…timeout`",
	},
	{
		name: "interval", takes: one(duration(time.Millisecond), func(h *HealthChecks) *time.Duration { return &h.Interval }), def: "10s",
		says: "between two checks, with or without traffic", becomes: "`…interval`, `…no_traffic_interval`",
	},
	{
		name: "unhealthy_threshold", takes: one(whole(1, 1<<16), func(h *HealthChecks) *uint32 { return &h.UnhealthyThreshold }), def: "3",
		says: "failures that take an instance out", becomes: "`…unhealthy_threshold`",
	},
	{
		name: "healthy_threshold", takes: one(whole(1, 1<<16), func(h *HealthChecks) *uint32 { return &h.HealthyThreshold }), def: "2",
		says: "passes that bring it back", becomes: "`…healthy_threshold`",
	},
}}
