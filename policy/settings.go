package policy

import (
	"slices"
	"strings"
	"time"
)

// fewRetries is the number of concurrent retries below which a mesh loses
// requests when an instance dies: three lost requests at 600 a second, 1,024
// none.
const fewRetries = 10

// Setting is a part of a [Service] with keys of its own.
type Setting uint8

// The settings.
const (
	SettingConsulService Setting = iota
	SettingProtocol
	SettingEncodedSlashes
	SettingUpstreams
	SettingSubsets
	SettingCircuitBreakers
	SettingOutlierDetection
	SettingLoadBalancing
	SettingHealthChecks
	SettingAppCheck
	SettingRetry
	SettingTimeout
	SettingRateLimit
	SettingAdmissionControl

	numSettings
)

// String is the key of services.X that the setting has.
func (s Setting) String() string {
	return [numSettings]string{
		"consul_service", "protocol", "encoded_slashes", "upstreams", "subsets", "circuit_breakers", "outlier_detection",
		"load_balancing", "health_checks", "health_check", "retry", "timeout", "rate_limit", "admission_control",
	}[s]
}

// came records that a setting is written at the key.
func (s *Service) came(setting Setting, key string) {
	key = strings.TrimPrefix(key, "mesh.")
	s.keys[setting] = slices.Insert(slices.Clone(s.keys[setting]), 0, key)
}

// breakerLayer reads circuit_breakers.default or an entry of custom.
func (d *decoder) breakerLayer(s *mapping, to *Service) {
	d.outlierDetection(s.section("outlier_detection"), to)
	d.limits(s, &breakerKeys, to)
}

// limits reads what bounds calls at one time.
func (d *decoder) limits(s *mapping, keys *table[CircuitBreakers], to *Service) {
	cb := &to.CircuitBreakers
	keys.read(s, cb)
	budget := s.section("retry_budget")
	if budget.present() {
		if !cb.RetryBudget.Set {
			retryBudgetKeys.defaults(&cb.RetryBudget)
			cb.RetryBudget.Set = true
		}
		retryBudgetKeys.read(budget, &cb.RetryBudget)
	}
	const few = "at most %d retries at one time: requests are lost when an instance dies under load"
	switch {
	case cb.RetryBudget.Set && s.got("max_retries"):
		s.first("max_retries").fail(CodeNoEffect, "retry_budget.min_concurrency", "has no effect: there is a retry_budget")
	case s.got("max_retries") && cb.MaxRetries < fewRetries:
		s.first("max_retries").fail(CodeFewRetries, "retries at one time, in each proxy, to the whole service; 1024 if left out", few, cb.MaxRetries)
	}
	if budget.got("min_concurrency") && cb.RetryBudget.MinConcurrency < fewRetries {
		budget.first("min_concurrency").fail(CodeFewRetries, "10, or leave it out", "while there are few requests, "+few, cb.RetryBudget.MinConcurrency)
	}
	if s.has(limitKeys.names()...) {
		to.came(SettingCircuitBreakers, s.key)
	}
}

func (d *decoder) outlierDetection(s *mapping, to *Service) {
	od := &to.OutlierDetection
	outlierKeys.read(s, od)
	if s.has("base_ejection_time", "max_ejection_time") && od.MaxEjectionTime < od.BaseEjectionTime {
		s.first("max_ejection_time", "base_ejection_time").fail(CodeConflict, "",
			"max_ejection_time %v is less than base_ejection_time %v", od.MaxEjectionTime, od.BaseEjectionTime)
	}
	if s.present() {
		to.came(SettingOutlierDetection, s.key)
	}
}

// hashes reports whether a load-balancing policy picks by a hash.
func hashes(policy string) bool { return policy == "ring_hash" || policy == "maglev" }

// loadBalancing reads what the mesh's section and that of a service, each with
// a table of its own, have in common.
func (d *decoder) loadBalancing(s *mapping, keys *table[LoadBalancing], to *Service) {
	lb := &to.LoadBalancing
	keys.read(s, lb)
	d.slowStart(s.section("slow_start"), to)
	switch {
	case s.has("slow_start") && lb.Policy != "least_request" && lb.Policy != "round_robin":
		s.first("slow_start").fail(CodeNoEffect, "policy: least_request, or round_robin", "has no effect with policy %s", lb.Policy)
	case s.has("hash_policy") && !hashes(lb.Policy):
		s.keyOf("hash_policy").fail(CodeNoEffect, "policy: ring_hash, or maglev", "has no effect with policy %s", lb.Policy)
	case s.has("policy") && hashes(lb.Policy) && len(lb.HashPolicy) == 0:
		s.keyOf("policy").fail(CodeNoEffect, "hash_policy: [{header: x-user-id}]", "%s without a hash_policy picks at random", lb.Policy)
	}
	d.locality(s.section("locality"), to)
	if s.has(balancingKeys.names()...) {
		to.came(SettingLoadBalancing, s.key)
	}
}

func checkHashPolicy(s *mapping, h *HashPolicy) bool {
	n := 0
	for _, name := range []string{"header", "cookie", "source_ip"} {
		if s.has(name) {
			n++
		}
	}
	if n != 1 || s.got("source_ip") && !h.SourceIP {
		s.fail(CodeConflict, "one entry for each", "wants exactly one of header, cookie and source_ip: true")
		return false
	}
	return true
}

func (d *decoder) healthChecks(s *mapping, to *Service) {
	if !s.present() {
		return
	}
	h := to.HealthChecks
	if h == nil {
		h = new(HealthChecks)
		healthCheckKeys.defaults(h)
		to.HealthChecks = h
	}
	healthCheckKeys.read(s, h)
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
	to.came(SettingHealthChecks, s.key)
}

// appCheck reads how an application is checked by what stands beside it.
func (d *decoder) appCheck(s *mapping, to *Service) {
	if !s.present() {
		return
	}
	c := &AppCheck{Interval: 5 * time.Second, Timeout: 2 * time.Second, UnhealthyThreshold: 2, HealthyThreshold: 1}
	good := appCheckKeys.read(s, c)
	kinds := 0
	for _, kind := range []string{"http", "tcp", "grpc"} {
		if s.has(kind) {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		s.fail(CodeMissing, "http: /health", "has one of http, tcp and grpc")
	case kinds > 1 || s.got("tcp") && !c.TCP || s.got("grpc") && !c.GRPC:
		s.first("http", "tcp", "grpc").fail(CodeConflict, "http: /health", "wants exactly one of http, tcp: true and grpc: true")
	case c.GRPC && to.Protocol == TCP:
		s.first("grpc").fail(CodeConflict, "tcp: true", "%s speaks TCP, and cannot answer a check by grpc", to.Name)
	case c.Timeout > c.Interval:
		s.first("timeout", "interval").fail(CodeConflict, "", "timeout %v is longer than interval %v", c.Timeout, c.Interval)
	case good:
		to.AppCheck = c
	}
	to.came(SettingAppCheck, s.key)
}

// checkReported looks whether there is an entry that the check of an application can
// be a part of. A catalog that serve was given by a flag may be of the other method.
func checkReported(s *mapping, discovery *Discovery) {
	if !s.has("health_check") || discovery.Register || discovery.Method != "file" && discovery.Consul.Register.Enabled {
		return
	}
	hint := "discovery.consul.register_interval: 10s"
	if discovery.Method == "file" {
		hint = "discovery.register: true"
	}
	s.keyOf("health_check").fail(CodeNoEffect, hint, "has no effect: the control plane registers nothing, and so can say nothing of an application")
}

func (d *decoder) timeout(s *mapping, to *Service) {
	timeoutKeys.read(s, &to.Timeout)
	if s.present() {
		to.came(SettingTimeout, s.key)
	}
}

// checkTimes compares the time of a request with that of its tries, which
// Envoy does not.
func (d *decoder) checkTimes(s *Service, timeout, retry *mapping) {
	r, request := s.Retry, s.Timeout.Request
	if request == nil || *request == 0 || r.Attempts == 0 {
		return
	}
	v := timeout.first("request")
	if !timeout.has("request") {
		v = retry.first("timeout", "backoff", "attempts")
	}
	switch all := r.Timeout * time.Duration(r.Attempts+1); {
	case r.Timeout > *request:
		v.fail(CodeConflict, "", "a request ends after %v, before its first try of %v does", *request, r.Timeout)
	case r.RetryAfter >= *request:
		v.fail(CodeCutRetries, "", "a request ends after %v, and an answer may put its next try off by %v (backoff.retry_after)", *request, r.RetryAfter)
	case all > *request:
		v.fail(CodeCutRetries, "", "a request ends after %v; its %d tries of %v may take %v", *request, r.Attempts+1, r.Timeout, all)
	}
}
