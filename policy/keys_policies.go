package policy

import "time"

var policiesKeys = table[Mesh]{"policies", []row[Mesh]{
	{name: "retry", takes: within[Mesh](&retryKeys), says: "when and how often a request is tried again"},
	{name: "timeout", takes: within[Mesh](&timeoutKeys), says: "what bounds connections and requests"},
	{name: "admission_control", takes: within[Mesh](&admissionKeys), unset: "none", says: "what a service refuses while many of its answers are failures, below"},
	{name: "rate_limit", takes: within[Mesh](&rateLimitsKeys), says: "how many requests a service takes, below"},
}}

var retryKeys = table[Retry]{"retry", []row[Retry]{
	{
		name: "attempts", takes: one(whole(0, maxAttempts), func(r *Retry) *uint32 { return &r.Attempts }), def: "2",
		says: "retries beside the first try; 0: none", becomes: "Route, or virtual host where routes share it, `retry_policy.num_retries`",
	},
	{
		name: "timeout", takes: one(duration(0), func(r *Retry) *time.Duration { return &r.Timeout }), unset: "none",
		says: "of each try, the first too, without connecting. On gRPC routes it holds only where `services.X.retry` sets it", becomes: "`…per_try_timeout`",
	},
	{name: "backoff", takes: within[Retry](&backoffKeys), says: "how long it waits between two tries"},
	{
		// Only what certainly never reached the application is tried
		// again unasked.
		name: "conditions", takes: list(retryCondition(), func(r *Retry) *[]string { return &r.Conditions }), def: "connect-failure, refused-stream, reset-before-request",
		says: "Envoy's words for what is tried again; those of gRPC, the last five, are always on for gRPC routes", becomes: "`…retry_on`, and of a route that shares the rest its header `x-envoy-retry-on`",
	},
	{
		name: "methods", takes: list(method(), func(r *Retry) *[]string { return &r.Methods }), unset: "every method",
		says:    "what may be retried; without it a POST is too, which is a warning when a condition lets it. Calls of gRPC are POSTs",
		becomes: "a route of their own",
	},
	{
		name: "status_codes", takes: list(whole(100, 599), func(r *Retry) *[]uint32 { return &r.StatusCodes }), unset: "none",
		says: "statuses that are retried", becomes: "`…retriable_status_codes`",
	},
	{
		name: "max_body_bytes", takes: one(whole(0, maxRetriedBody), func(r *Retry) *uint32 { return &r.MaxBodyBytes }), def: "1048576",
		says: "the largest body that is kept to be sent again. A larger one is sent once, and the application's own answer arrives. One whose size the request " +
			"does not say is sent again only where it cannot have reached the application; of gRPC, up to 4 MiB at least",
		becomes: "Route `request_body_buffer_limit`, `retry_policy.retriable_request_headers`",
	},
	{
		name: "host_selection", takes: one(word(PreviousHosts, AnyHost), func(r *Retry) *HostSelection { return &r.HostSelection }), def: "previous_hosts",
		says: "`previous_hosts`: a retry goes to an instance that has not failed it yet, if there is one; `any`: to any", becomes: "`…retry_host_predicate`",
	},
}}

var backoffKeys = table[Retry]{"backoff", []row[Retry]{
	{
		name: "base_interval", takes: one(duration(time.Millisecond), func(r *Retry) *time.Duration { return &r.BaseInterval }), def: "25ms",
		says: "the first wait is random below it; it doubles", becomes: "`…retry_back_off.base_interval`",
	},
	{
		name: "max_interval", takes: one(duration(time.Millisecond), func(r *Retry) *time.Duration { return &r.MaxInterval }), unset: "10 × base",
		says: "the longest wait", becomes: "`…retry_back_off.max_interval`",
	},
	{
		name: "retry_after", takes: one(durationUpTo(0, time.Hour), func(r *Retry) *time.Duration { return &r.RetryAfter }), unset: "0s: none",
		says:    "the longest wait that an answer may ask for: of one that is retried and has `retry-after` in seconds, up to this, the retry comes then; of any other as usual. It needs the status in `status_codes`, most often 429 or 503",
		becomes: "`…rate_limited_retry_back_off`",
	},
	{
		name: "multiplier", takes: multiplier(), unset: "2",
		says: "Envoy knows no other", becomes: "nothing",
	},
}}

var timeoutKeys = table[Timeout]{"timeout", []row[Timeout]{
	{
		name: "connect", takes: one(duration(time.Millisecond), func(t *Timeout) *time.Duration { return &t.Connect }), def: "5s",
		says: "to connect", becomes: "Cluster `connect_timeout`",
	},
	{
		name: "idle", takes: one(duration(0), func(t *Timeout) *time.Duration { return &t.Idle }), def: "1h",
		says: "a connection without requests is closed, on both sides; 0s: never", becomes: "`idle_timeout` of connections, HTTP and TCP",
	},
	{
		name: "request", unset: "what all tries may take, at least 15s; none on gRPC routes",
		takes: one(duration(0), func(t *Timeout) *time.Duration { t.Request = new(time.Duration); return t.Request }),
		says:  "a whole request, with its body; 0s: none. Not less than `retry.timeout`", becomes: "Route `timeout`",
	},
	{
		name: "stream_idle", takes: one(duration(0), func(t *Timeout) *time.Duration { return &t.StreamIdle }), def: "5m",
		says: "a stream on which nothing moves, outbound; 0s: never", becomes: "Route `idle_timeout`",
	},
	{
		name: "app_idle", takes: one(duration(time.Millisecond), func(t *Timeout) *time.Duration { return &t.AppIdle }), def: "1s",
		says: "a connection from the sidecar to its own application without requests is closed. Shorter than the application's keep-alive, " +
			"or a request may meet a connection that the application is closing", becomes: "`idle_timeout` of the clusters `local_app` and `local_app_grpc`",
	},
	{
		name: "max_connection_duration", takes: one(duration(0), func(t *Timeout) *time.Duration { return &t.MaxConnection }), def: "1h",
		says: "of TCP: the age at which a connection is cut, busy or not, so that policies and certificates of then hold for it; 0s: never. Connections of HTTP are replaced after 1 h, and no request on them is cut", becomes: "TCP proxy `max_downstream_connection_duration`, inbound",
	},
	{
		name: "max_stream_duration", takes: one(duration(0), func(t *Timeout) *time.Duration { return &t.MaxStream }), unset: "none",
		says: "the age at which a request or stream is ended with 504, busy or not, of gRPC too, whose callers may ask for less; 0s: never. Envoy takes one of the two: where it is set, `request` holds only as a route's own", becomes: "Route `max_stream_duration`",
	},
}}
