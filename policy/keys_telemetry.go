package policy

import "time"

var telemetryKeys = table[Mesh]{"telemetry", []row[Mesh]{
	{name: "tracing", takes: within[Mesh](&tracingKeys), says: "how proxies report spans"},
	{name: "metrics", takes: within[Mesh](&metricsKeys), says: "how Prometheus scrapes the proxies"},
	{name: "access_logs", takes: within[Mesh](&accessLogKeys), says: "where proxies write what they answered"},
}}

var tracingKeys = table[Tracing]{"tracing", []row[Tracing]{
	{name: "enabled", takes: one(boolean(), func(t *Tracing) *bool { return &t.Enabled }), unset: "true where the file has `tracing`", says: "false turns it off"},
	{
		name: "provider", takes: one(word("jaeger", "otlp", "zipkin"), func(t *Tracing) *string { return &t.Provider }), def: "jaeger",
		says: "`jaeger` and `otlp` are both OTLP over gRPC", becomes: "HTTP connection manager `tracing.provider`",
	},
	{
		name: "sampling_rate", takes: one(ratio(), func(t *Tracing) *float64 { return &t.SamplingRate }), def: "0.1",
		says: "ratio of the traces that begin here, in steps of 0.0001. What who began a trace has decided holds: by `traceparent`, and with `zipkin` by B3 first", becomes: "`random_sampling` of each Route's `tracing`",
	},
	{
		name: "endpoint", takes: one(hostPort(), func(t *Tracing) *string { return &t.Endpoint }), unset: "none",
		says: "the collector", becomes: "the cluster `tracing`",
	},
	{
		name: "service", takes: one(serviceName(), func(t *Tracing) *string { return &t.Service }), def: "jaeger",
		says:    "the catalog's service that is the collector, where there is no endpoint (port from meta `otlp_port`, else 4317; zipkin 9411); if the catalog has none, a host of that name",
		becomes: "the cluster `tracing`",
	},
	{
		name: "tags", takes: list(object(&tagKeys, nil), func(t *Tracing) *[]Tag { return &t.Tags }), unset: "none",
		says:    "a value that is one `${VARIABLE}`, with or without a default, is taken by each proxy from its own environment; what it is beside the control plane is only the default. An empty value is an error",
		becomes: "`custom_tags`, environment or literal",
	},
}}

var tagKeys = table[Tag]{"tag", []row[Tag]{
	{name: "key", takes: one(text(), func(t *Tag) *string { return &t.Key }), required: true, says: "its name in the span"},
	{name: "value", takes: tagValue(), required: true, says: "what it is, or a variable of each proxy"},
}}

var metricsKeys = table[Metrics]{"metrics", []row[Metrics]{
	{name: "enabled", takes: one(boolean(), func(m *Metrics) *bool { return &m.Enabled }), unset: "true where the file has `metrics`", says: "false turns it off"},
	{name: "provider", takes: only[Metrics]("prometheus"), def: "prometheus", says: "who scrapes"},
	{
		name: "scrape_interval", takes: one(duration(time.Second), func(m *Metrics) *time.Duration { return &m.ScrapeInterval }), def: "15s",
		says: "how often Prometheus scrapes a proxy", becomes: "`__scrape_interval__` in `/sd/prometheus`",
	},
	{
		name: "path", takes: one(requestPath(), func(m *Metrics) *string { return &m.Path }), def: "/metrics",
		says: "the only path that the metrics listener answers", becomes: "the listener `metrics`; `__metrics_path__`",
	},
	{
		name: "port", takes: one(port(), func(m *Metrics) *uint16 { return &m.Port }), unset: "none",
		says:    "its port in proxies whose metadata has no `metrics_port` (what `controlplane bootstrap` prints always has one, 9102). They need a cluster `mesh_admin`, their own admin interface",
		becomes: "the listener `metrics`",
	},
}}

var accessLogKeys = table[AccessLogs]{"access_logs", []row[AccessLogs]{
	{name: "enabled", takes: one(boolean(), func(a *AccessLogs) *bool { return &a.Enabled }), unset: "true where the file has `access_logs`", says: "false turns it off"},
	{name: "provider", takes: only[AccessLogs]("file", "otlp", "als"), unset: "`file`", says: "where they go"},
	{
		name: "path", takes: one(absolutePath(), func(a *AccessLogs) *string { return &a.Path }), def: "/dev/stdout",
		says: "the file", becomes: "`access_log` of the inbound and outbound listeners",
	},
	{
		name: "format", takes: one(word("json", "text"), func(a *AccessLogs) *string { return &a.Format }), def: "json",
		says: "what a line looks like", becomes: "its format",
	},
	{name: "filter", takes: within[AccessLogs](&logFilterKeys), says: "which answers are logged"},
}}

var logFilterKeys = table[AccessLogs]{"access_log_filter", []row[AccessLogs]{
	{
		name: "min_status", takes: one(whole(100, 599), func(a *AccessLogs) *uint32 { return &a.MinStatus }), unset: "none: everything",
		says: "only answers from this status on", becomes: "a filter",
	},
	{
		name: "sample", takes: one(ratio(), func(a *AccessLogs) *float64 { return &a.Sample }), def: "0",
		says: "ratio of the rest that is logged all the same", becomes: "a filter",
	},
}}
