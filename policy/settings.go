package policy

import "time"

// fewRetries is the number of concurrent retries below which a mesh loses
// requests when an instance dies: three lost requests at 600 a second, 1,024
// none.
const fewRetries = 10

// breakerLayer reads circuit_breakers.default or an entry of custom, which
// have the outlier detection inside.
func (d *decoder) breakerLayer(s *section, to *Service) {
	d.outlierDetection(s.section("outlier_detection"), to)
	d.circuitBreakers(s, to)
}

func (d *decoder) circuitBreakers(s *section, to *Service) {
	const most = 1<<32 - 1
	cb := &to.CircuitBreakers
	s.count("max_connections", &cb.MaxConnections, 1, most)
	s.count("max_pending_requests", &cb.MaxPendingRequests, 1, most)
	s.count("max_requests", &cb.MaxRequests, 1, most)
	if s.count("max_retries", &cb.MaxRetries, 0, most) && cb.MaxRetries < fewRetries {
		v, _ := s.peek("max_retries")
		v.fail(CodeFewRetries, "retries at one time, in each proxy, to the whole service; 1024 if left out",
			"at most %d retries at one time: requests are lost when an instance dies under load", cb.MaxRetries)
	}
	if s.has("max_connections", "max_pending_requests", "max_requests", "max_retries") {
		to.came("circuit_breakers", s.key)
	}
	s.later("retry_budget")
	s.close()
}

func (d *decoder) outlierDetection(s *section, to *Service) {
	od := &to.OutlierDetection
	s.count("consecutive_5xx", &od.Consecutive5xx, 0, 1<<32-1)
	s.count("consecutive_gateway_failure", &od.ConsecutiveGatewayFailure, 0, 1<<32-1)
	s.duration("interval", &od.Interval, time.Millisecond)
	s.duration("base_ejection_time", &od.BaseEjectionTime, time.Millisecond)
	s.duration("max_ejection_time", &od.MaxEjectionTime, time.Millisecond)
	s.count("max_ejection_percent", &od.MaxEjectionPercent, 0, 100)
	if s.has("base_ejection_time", "max_ejection_time") && od.MaxEjectionTime < od.BaseEjectionTime {
		s.first("max_ejection_time", "base_ejection_time").fail(CodeConflict, "",
			"max_ejection_time %v is less than base_ejection_time %v", od.MaxEjectionTime, od.BaseEjectionTime)
	}
	if s.present() {
		to.came("outlier_detection", s.key)
	}
	s.close()
}

// first is the first of the keys that the file has.
func (s *section) first(names ...string) value {
	for _, name := range names {
		if v, ok := s.peek(name); ok {
			return v
		}
	}
	return s.value
}

// hashes reports whether a load-balancing policy picks by a hash.
func hashes(policy string) bool { return policy == "ring_hash" || policy == "maglev" }

// loadBalancing leaves it to the caller to close the section: only that of the
// mesh has the health checks inside.
func (d *decoder) loadBalancing(s *section, to *Service) {
	lb := &to.LoadBalancing
	s.word("policy", &lb.Policy, "least_request", "round_robin", "random", "ring_hash", "maglev")
	s.percent("panic_threshold", &lb.PanicThreshold)
	readList(s, "hash_policy", &lb.HashPolicy, d.hashPolicy)
	switch {
	case s.has("hash_policy") && !hashes(lb.Policy):
		s.keyOf("hash_policy").fail(CodeNoEffect, "policy: ring_hash, or maglev", "has no effect with policy %s", lb.Policy)
	case s.has("policy") && hashes(lb.Policy) && len(lb.HashPolicy) == 0:
		s.keyOf("policy").fail(CodeNoEffect, "hash_policy: [{header: x-user-id}]", "%s without a hash_policy picks at random", lb.Policy)
	}
	if s.has("policy", "panic_threshold", "hash_policy") {
		to.came("load_balancing", s.key)
	}
}

func (d *decoder) hashPolicy(v value) (HashPolicy, bool) {
	var h HashPolicy
	s := v.section()
	if !s.present() {
		return h, false
	}
	ok := true
	if s.has("header") {
		ok = read(s, "header", &h.Header, value.headerName)
	}
	if s.has("cookie") {
		ok = s.filled("cookie", &h.Cookie) && ok
	}
	if s.has("source_ip") {
		ok = s.boolean("source_ip", &h.SourceIP) && ok
	}
	n := 0
	for _, set := range []bool{s.has("header"), s.has("cookie"), s.has("source_ip")} {
		if set {
			n++
		}
	}
	s.known = []string{"header", "cookie", "source_ip"}
	s.close()
	if n != 1 || (s.has("source_ip") && ok && !h.SourceIP) {
		v.fail(CodeConflict, "one entry for each", "wants exactly one of header, cookie and source_ip: true")
		return h, false
	}
	return h, ok
}

func (d *decoder) healthChecks(s *section, to *Service) {
	if !s.present() {
		return
	}
	h := to.HealthChecks
	if h == nil {
		h = &HealthChecks{Protocol: "tcp", Timeout: 5 * time.Second, Interval: 10 * time.Second, UnhealthyThreshold: 3, HealthyThreshold: 2}
		to.HealthChecks = h
	}
	s.word("protocol", &h.Protocol, "tcp", "http", "grpc")
	read(s, "path", &h.Path, value.path)
	s.duration("timeout", &h.Timeout, time.Millisecond)
	s.duration("interval", &h.Interval, time.Millisecond)
	s.count("unhealthy_threshold", &h.UnhealthyThreshold, 1, 1<<16)
	s.count("healthy_threshold", &h.HealthyThreshold, 1, 1<<16)
	switch {
	case h.Protocol == "http" && h.Path == "" && !s.has("path"):
		s.first("protocol").fail(CodeMissing, "path: /health", "an HTTP check wants a path")
	case h.Protocol != "http" && s.has("path"):
		s.first("path").fail(CodeConflict, "protocol: http", "is only for protocol http")
	}
	if h.Protocol != "tcp" && to.Protocol == TCP && s.has("protocol") {
		s.first("protocol").fail(CodeConflict, "protocol: tcp", "%s speaks TCP, and cannot answer a check by %s", to.Name, h.Protocol)
	}
	if s.has("timeout", "interval") && h.Timeout > h.Interval {
		s.first("timeout", "interval").fail(CodeConflict, "", "timeout %v is longer than interval %v", h.Timeout, h.Interval)
	}
	to.came("health_checks", s.key)
	s.close()
}

func (d *decoder) timeout(s *section, to *Service) {
	t := &to.Timeout
	s.duration("connect", &t.Connect, time.Millisecond)
	s.duration("idle", &t.Idle, 0)
	s.duration("stream_idle", &t.StreamIdle, 0)
	var request time.Duration
	if s.duration("request", &request, 0) {
		t.Request = &request
	}
	if s.present() {
		to.came("timeout", s.key)
	}
	s.later("max_stream_duration")
	s.close()
}

// checkTimes compares the time of a request with that of its tries, which
// Envoy does not.
func (d *decoder) checkTimes(s *Service, timeout, retry *section) {
	r, request := s.Retry, s.Timeout.Request
	if request == nil || *request == 0 || r.Timeout == 0 || r.Attempts == 0 {
		return
	}
	v := timeout.first("request")
	if !timeout.has("request") {
		v = retry.first("timeout", "attempts")
	}
	switch all := r.Timeout * time.Duration(r.Attempts+1); {
	case r.Timeout > *request:
		v.fail(CodeConflict, "", "a request ends after %v, before its first try of %v does", *request, r.Timeout)
	case all > *request:
		v.fail(CodeCutRetries, "", "a request ends after %v; its %d tries of %v may take %v", *request, r.Attempts+1, r.Timeout, all)
	}
}
