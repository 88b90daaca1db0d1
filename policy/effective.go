package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"datapunk.dev/controlplane/spelling"
)

// Effective is one setting of a service as it is in force, and where it came from.
type Effective struct {
	Key   string // below services.X: retry.attempts
	Value string // as it would be written
	// From is the key that it came from and Source its place; both empty, it is what
	// the control plane does unless a file says otherwise.
	From   string
	Source Source
}

// Effective returns every setting of a service, in the order of the tables of keys.
func (m *Mesh) Effective(name string) []Effective {
	s := m.Service(name)
	e := &effective{m: m, own: "services." + name}
	e.add("consul_service", s.ConsulService)
	e.add("protocol", s.Protocol)
	e.add("encoded_slashes", s.EncodedSlashes)
	if s.AllUpstreams {
		e.add("upstreams", "every service")
	} else {
		e.add("upstreams", upstreamTexts(s.Upstreams))
	}

	for _, part := range s.Subsets {
		e.within("subsets." + part.Name)
		e.add("tag", part.Tag)
		e.add("version", part.Version)
		e.add("meta", part.Meta)
		e.add("filter", part.Filter)
		e.add("only_passing", part.OnlyPassing)
	}
	e.within("")
	e.add("default_subset", s.DefaultSubset)
	e.add("on_empty_subset", s.OnEmptySubset)

	custom, whole := "circuit_breakers.custom."+name, "circuit_breakers.default"
	e.within("circuit_breakers", custom, whole)
	cb := s.CircuitBreakers
	e.add("max_connections", cb.MaxConnections)
	e.add("max_pending_requests", cb.MaxPendingRequests)
	e.add("max_requests", cb.MaxRequests)
	e.add("max_retries", cb.MaxRetries)
	if b := cb.RetryBudget; b.Set {
		e.add("retry_budget.percent", b.Percent)
		e.add("retry_budget.min_concurrency", b.MinConcurrency)
	}

	e.within("outlier_detection", custom+".outlier_detection", whole+".outlier_detection")
	od := s.OutlierDetection
	e.add("consecutive_5xx", od.Consecutive5xx)
	e.add("consecutive_gateway_failure", od.ConsecutiveGatewayFailure)
	e.add("interval", od.Interval)
	e.add("base_ejection_time", od.BaseEjectionTime)
	e.add("max_ejection_time", od.MaxEjectionTime)
	e.add("max_ejection_percent", od.MaxEjectionPercent)

	e.within("load_balancing", "load_balancing")
	lb := s.LoadBalancing
	e.add("policy", lb.Policy)
	e.add("hash_policy", hashTexts(lb.HashPolicy))
	e.add("panic_threshold", lb.PanicThreshold)
	if start := lb.SlowStart; start != (SlowStart{}) {
		e.add("slow_start.window", start.Window)
		e.add("slow_start.min_weight_percent", start.MinWeightPercent)
	}
	e.within("load_balancing.locality", "load_balancing.locality")
	e.add("mode", lb.Locality.Mode)
	e.add("zone_meta", lb.Locality.ZoneMeta)
	e.add("zone_tag", lb.Locality.ZoneTag)
	e.add("failover", failoverTexts(lb.Locality.Failover))
	e.add("min_healthy_percent", lb.Locality.MinHealthyPercent)

	if h := s.HealthChecks; h != nil {
		e.within("health_checks", "load_balancing.health_checks")
		e.add("protocol", h.Protocol)
		e.add("path", h.Path)
		e.add("timeout", h.Timeout)
		e.add("interval", h.Interval)
		e.add("unhealthy_threshold", h.UnhealthyThreshold)
		e.add("healthy_threshold", h.HealthyThreshold)
	}
	if c := s.AppCheck; c != nil {
		e.within("health_check")
		e.add("http", c.Path)
		e.add("tcp", c.TCP)
		e.add("grpc", c.GRPC)
		e.add("interval", c.Interval)
		e.add("timeout", c.Timeout)
		e.add("unhealthy_threshold", c.UnhealthyThreshold)
		e.add("healthy_threshold", c.HealthyThreshold)
	}

	e.within("retry", "policies.retry")
	r := s.Retry
	e.add("attempts", r.Attempts)
	e.add("timeout", r.Timeout)
	e.add("backoff.base_interval", r.BaseInterval)
	e.add("backoff.max_interval", r.MaxInterval)
	e.add("backoff.retry_after", r.RetryAfter)
	e.add("backoff.multiplier", 2)
	e.add("conditions", r.Conditions)
	e.add("methods", r.Methods)
	e.add("status_codes", r.StatusCodes)
	e.add("max_body_bytes", r.MaxBodyBytes)
	e.add("host_selection", r.HostSelection)

	e.within("timeout", "policies.timeout")
	t := s.Timeout
	e.add("connect", t.Connect)
	e.add("idle", t.Idle)
	if t.Request != nil {
		e.add("request", *t.Request)
	} else {
		e.add("request", "what all tries may take, at least 15s")
	}
	e.add("stream_idle", t.StreamIdle)
	e.add("max_stream_duration", t.MaxStream)
	e.add("app_idle", t.AppIdle)
	e.add("max_connection_duration", t.MaxConnection)

	if a := s.AdmissionControl; a != (AdmissionControl{}) {
		e.within("admission_control", "policies.admission_control")
		e.add("enabled", a.Enabled)
		e.add("success_rate", a.SuccessRate)
		e.add("window", a.Window)
		e.add("min_rps", a.MinRPS)
		e.add("max_rejection", a.MaxRejection)
	}
	if limit := s.RateLimit; limit.On() {
		custom, whole := "policies.rate_limit.custom."+name, "policies.rate_limit.default"
		e.within("rate_limit", custom, whole)
		if limit.All.Requests > 0 {
			e.add("requests", limit.All.Requests)
			e.add("interval", limit.All.Interval)
			e.add("burst", limit.All.Burst)
		}
		e.add("status", limit.Status)
		e.add("per", limit.Per)
		e.add("mode", limit.Mode)
		for _, c := range limit.Callers {
			of := ".callers." + c.Caller
			e.within("rate_limit"+of, custom+of, whole+of)
			e.add("requests", c.Requests)
			e.add("interval", c.Interval)
			e.add("burst", c.Burst)
		}
	}
	return e.all
}

// effective gathers the settings of one service.
type effective struct {
	m       *Mesh
	own     string   // services.X
	section string   // of own
	others  []string // sections that it falls back to, the nearest first
	all     []Effective
}

func (e *effective) within(section string, others ...string) { e.section, e.others = section, others }

// add takes up a setting. It came from the nearest section that has its key.
func (e *effective) add(name string, value any) {
	key := join(e.section, name)
	one := Effective{Key: key, Value: asWritten(value)}
	for _, from := range append([]string{join(e.own, key)}, suffixed(e.others, name)...) {
		if at, ok := e.m.keys["mesh."+from]; ok {
			one.From, one.Source = from, at
			break
		}
	}
	e.all = append(e.all, one)
}

func suffixed(sections []string, name string) []string {
	all := make([]string, 0, len(sections))
	for _, s := range sections {
		all = append(all, join(s, name))
	}
	return all
}

// asWritten is a value as a mesh file would have it.
func asWritten(value any) string {
	switch v := value.(type) {
	case time.Duration:
		return spelling.Duration(v)
	case []string:
		return "[" + strings.Join(v, ", ") + "]"
	case []uint32:
		texts := make([]string, len(v))
		for i, n := range v {
			texts[i] = strconv.FormatUint(uint64(n), 10)
		}
		return "[" + strings.Join(texts, ", ") + "]"
	case map[string]string:
		texts := make([]string, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			texts = append(texts, k+": "+v[k])
		}
		return "{" + strings.Join(texts, ", ") + "}"
	default:
		return fmt.Sprint(v)
	}
}

func upstreamTexts(upstreams []Upstream) []string {
	texts := make([]string, 0, len(upstreams))
	for _, u := range upstreams {
		if u.LocalBindPort == 0 {
			texts = append(texts, u.Service)
		} else {
			texts = append(texts, fmt.Sprintf("{service: %s, local_bind_port: %d}", u.Service, u.LocalBindPort))
		}
	}
	return texts
}

func failoverTexts(rules []Failover) []string {
	texts := make([]string, 0, len(rules))
	for _, f := range rules {
		texts = append(texts, fmt.Sprintf("{from: %s, to: %s}", asWritten(f.From), asWritten(f.To)))
	}
	return texts
}

func hashTexts(hashes []HashPolicy) []string {
	texts := make([]string, 0, len(hashes))
	for _, h := range hashes {
		switch {
		case h.Header != "":
			texts = append(texts, "{header: "+h.Header+"}")
		case h.Cookie != "":
			texts = append(texts, "{cookie: "+h.Cookie+"}")
		default:
			texts = append(texts, "{source_ip: true}")
		}
	}
	return texts
}
