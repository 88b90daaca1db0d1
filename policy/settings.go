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
	SettingCircuitBreakers
	SettingOutlierDetection
	SettingLoadBalancing
	SettingHealthChecks
	SettingRetry
	SettingTimeout

	numSettings
)

// String is the key of services.X that the setting has.
func (s Setting) String() string {
	return [numSettings]string{
		"consul_service", "protocol", "encoded_slashes", "upstreams", "circuit_breakers", "outlier_detection",
		"load_balancing", "health_checks", "retry", "timeout",
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
	breakerKeys.read(s, &to.CircuitBreakers)
	d.checkBreakers(s, to)
}

// checkBreakers looks at the four limits.
func (d *decoder) checkBreakers(s *mapping, to *Service) {
	if cb := to.CircuitBreakers; s.got("max_retries") && cb.MaxRetries < fewRetries {
		s.first("max_retries").fail(CodeFewRetries, "retries at one time, in each proxy, to the whole service; 1024 if left out",
			"at most %d retries at one time: requests are lost when an instance dies under load", cb.MaxRetries)
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
	switch {
	case s.has("hash_policy") && !hashes(lb.Policy):
		s.keyOf("hash_policy").fail(CodeNoEffect, "policy: ring_hash, or maglev", "has no effect with policy %s", lb.Policy)
	case s.has("policy") && hashes(lb.Policy) && len(lb.HashPolicy) == 0:
		s.keyOf("policy").fail(CodeNoEffect, "hash_policy: [{header: x-user-id}]", "%s without a hash_policy picks at random", lb.Policy)
	}
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
