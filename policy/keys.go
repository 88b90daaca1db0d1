package policy

// documentKeys are the keys of a file.
var documentKeys = table[Mesh]{"file", []row[Mesh]{
	{name: "mesh", takes: within[Mesh](&meshKeys), required: true, hint: "everything stands below mesh:", says: "the mesh"},
}}

// meshKeys are the keys below mesh. Each section has a file of its own.
var meshKeys = table[Mesh]{"mesh", append(environmentKeys.rows, row[Mesh]{
	name: "environments", takes: named[Mesh](&environmentKeys), unset: "none", says: "what differs in environment E: any of the keys here",
})}

// environmentKeys are the keys that an environment may have: all but
// environments.
var environmentKeys = table[Mesh]{"environment", []row[Mesh]{
	{
		name: "name", takes: one(text(), func(m *Mesh) *string { return &m.Name }), required: true, hint: "name: my-mesh",
		says: "the mesh", becomes: "a label of `controlplane_mesh_info`; the trust domain, if nothing else says one",
	},
	{
		name: "version", takes: one(anyText(), func(m *Mesh) *string { return &m.Version }), unset: "empty",
		says: "yours to use", becomes: "a label of `controlplane_mesh_info`",
	},
	{name: "discovery", takes: within[Mesh](&discoveryKeys), says: "where the catalog is"},
	{name: "circuit_breakers", takes: within[Mesh](&circuitBreakersKeys), says: "what each proxy sends to a service at one time, and when it leaves an instance out"},
	{name: "load_balancing", takes: within[Mesh](&meshBalancingKeys), says: "which instance a request goes to, and how instances are checked"},
	{name: "policies", takes: within[Mesh](&policiesKeys), says: "retries, timeouts and rate limits"},
	{name: "services", takes: named[Mesh](&serviceKeys), says: "what differs for service X, by its name in the mesh"},
	{name: "telemetry", takes: within[Mesh](&telemetryKeys), says: "traces, metrics and access logs"},
	{name: "security", takes: within[Mesh](&securityKeys), says: "mTLS, and who may call whom"},
	{name: "routes", takes: listed[Mesh](&routeKeys), unset: "none", says: "what becomes of some of the requests to a service: see [routes](#routes)"},
	{name: "edits", takes: within[Mesh](&editsKeys), says: "how an edit of this file comes to the proxies"},
	{name: "rollouts", later: true},
	{name: "gateways", later: true},
}}

// The keys that what is made of no single service comes from, for those who
// look for its line with [Mesh.Source].
const (
	KeyTimeout       = "policies.timeout"
	KeyTracing       = "telemetry.tracing"
	KeyLimitServer   = "policies.rate_limit.server"
	KeyMetrics       = "telemetry.metrics"
	KeyAccessLogs    = "telemetry.access_logs"
	KeyMTLS          = "security.mtls"
	KeyAuthorization = "security.authorization"
)
