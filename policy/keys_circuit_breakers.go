package policy

import "time"

var circuitBreakersKeys = table[Mesh]{"circuit_breakers", []row[Mesh]{
	{name: "default", takes: within[Mesh](&breakerKeys), says: "for every service"},
	{name: "custom", takes: named[Mesh](&breakerKeys), says: "for service X, key by key over `default`"},
}}

// breakerKeys are those of circuit_breakers.default and of each of custom,
// which have the outlier detection inside.
var breakerKeys = table[CircuitBreakers]{"service_circuit_breakers", append(limitKeys.rows, row[CircuitBreakers]{
	name: "outlier_detection", takes: within[CircuitBreakers](&outlierKeys), says: "when an instance that answers badly is left out",
})}

var limitKeys = table[CircuitBreakers]{"limits", []row[CircuitBreakers]{
	{
		name: "max_connections", takes: one(whole(1, most), func(c *CircuitBreakers) *uint32 { return &c.MaxConnections }), def: "1024",
		says: "connections at one time; between sidecars (HTTP/2) it bites only while connecting", becomes: "Cluster `circuit_breakers.thresholds.max_connections`",
	},
	{
		name: "max_pending_requests", takes: one(whole(1, most), func(c *CircuitBreakers) *uint32 { return &c.MaxPendingRequests }), def: "1024",
		says: "requests that wait for a connection; as above", becomes: "`…max_pending_requests`",
	},
	{
		name: "max_requests", takes: one(whole(1, most), func(c *CircuitBreakers) *uint32 { return &c.MaxRequests }), def: "1024",
		says: "requests at one time", becomes: "`…max_requests`",
	},
	{
		name: "max_retries", takes: one(whole(0, most), func(c *CircuitBreakers) *uint32 { return &c.MaxRetries }), def: "1024",
		says: "retries at one time, to the whole service; under 10 is a warning, 0 means no retry", becomes: "`…max_retries`",
	},
	{
		name: "retry_budget", takes: within[CircuitBreakers](&retryBudgetKeys), unset: "none: `max_retries` holds",
		says: "retries at one time as a share of the requests at that time, below. It takes the place of `max_retries`", becomes: "`…retry_budget`",
	},
}}

var retryBudgetKeys = table[RetryBudget]{"retry_budget", []row[RetryBudget]{
	{
		name: "percent", takes: one(percentage(), func(b *RetryBudget) *float64 { return &b.Percent }), def: "20",
		says: "of the requests that are under way or wait for a connection; in an outage, 20 has the service called 1.2 times a request, whatever `retry.attempts` says", becomes: "`budget_percent`",
	},
	{
		name: "min_concurrency", takes: one(whole(0, most), func(b *RetryBudget) *uint32 { return &b.MinConcurrency }), def: "10",
		says: "so many retries at one time there may always be. With little traffic this is the whole budget: under 10 is a warning", becomes: "`min_retry_concurrency`",
	},
}}

var outlierKeys = table[OutlierDetection]{"outlier_detection", []row[OutlierDetection]{
	{
		name: "consecutive_5xx", takes: one(whole(0, most), func(o *OutlierDetection) *uint32 { return &o.Consecutive5xx }), def: "5",
		says: "answers of 5xx in a row that eject an instance; 0: never", becomes: "Cluster `outlier_detection.consecutive_5xx`; 0 enforces it on 0 %",
	},
	{
		name: "consecutive_gateway_failure", takes: one(whole(0, most), func(o *OutlierDetection) *uint32 { return &o.ConsecutiveGatewayFailure }), def: "5",
		says: "the same, of 502, 503, 504", becomes: "`…consecutive_gateway_failure`",
	},
	{
		name: "interval", takes: one(duration(time.Millisecond), func(o *OutlierDetection) *time.Duration { return &o.Interval }), def: "10s",
		says: "how often ejections are looked at", becomes: "`…interval`",
	},
	{
		name: "base_ejection_time", takes: one(duration(time.Millisecond), func(o *OutlierDetection) *time.Duration { return &o.BaseEjectionTime }), def: "30s",
		says: "the first ejection; it grows with each", becomes: "`…base_ejection_time`",
	},
	{
		name: "max_ejection_time", takes: one(duration(time.Millisecond), func(o *OutlierDetection) *time.Duration { return &o.MaxEjectionTime }), def: "5m",
		says: "the longest; not less than the first", becomes: "`…max_ejection_time`",
	},
	{
		name: "max_ejection_percent", takes: one(whole(0, 100), func(o *OutlierDetection) *uint32 { return &o.MaxEjectionPercent }), def: "50",
		says: "how many instances may be out at one time, in percent", becomes: "`…max_ejection_percent`",
	},
}}
