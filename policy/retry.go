package policy

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// defaultMaxInterval is how many base intervals a back-off grows to where the
// file does not say: Envoy's own number.
const defaultMaxInterval = 10

// maxAttempts bounds retries. Each may take as long as the first try.
const maxAttempts = 100

// httpConditions and grpcConditions are Envoy's words for retry_on. Envoy
// ignores any other, and compares case.
func httpConditions() []string {
	return []string{
		"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited",
		"retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
	}
}

func grpcConditions() []string {
	return []string{"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}
}

func (d *decoder) retry(s *section, to *Service) {
	r := &to.Retry
	s.count("attempts", &r.Attempts, 0, maxAttempts)
	s.duration("timeout", &r.Timeout, 0)
	d.backoff(s.section("backoff"), r)
	s.names("conditions", &r.Conditions, value.checkCondition)
	s.names("methods", &r.Methods, value.checkMethod)
	readList(s, "status_codes", &r.StatusCodes, func(v value) (uint32, bool) {
		n, ok := v.whole(100, 599)
		return uint32(n), ok //nolint:gosec // at most 599
	})
	if slices.Contains(r.Conditions, "retriable-status-codes") && len(r.StatusCodes) == 0 && s.has("conditions") {
		s.keyOf("conditions").fail(CodeNoEffect, "status_codes: [503]", "retriable-status-codes without status_codes retries nothing")
	}
	if slices.Contains(r.Conditions, "retriable-headers") && s.has("conditions") {
		s.keyOf("conditions").fail(CodeNoEffect, "", "retriable-headers retries nothing: no key names the headers")
	}
	if s.has("conditions", "status_codes") && r.Attempts > 0 && len(r.Methods) == 0 && afterWork(r) {
		s.first("conditions", "status_codes").fail(CodeUnsafeRetry, "methods: [GET, HEAD, OPTIONS, PUT, DELETE]",
			"a POST is retried too, though the application may have acted on it")
	}
	if s.present() {
		to.came("retry", s.key)
	}
	s.later("host_selection")
	s.close()
}

// afterWork reports whether a request is retried that the application may have
// acted on.
func afterWork(r *Retry) bool {
	safe := []string{"connect-failure", "refused-stream", "reset-before-request", "envoy-ratelimited", "http3-post-connect-failure"}
	return len(r.StatusCodes) > 0 || slices.ContainsFunc(r.Conditions, func(c string) bool { return !slices.Contains(safe, c) })
}

func (d *decoder) backoff(s *section, r *Retry) {
	s.duration("base_interval", &r.BaseInterval, time.Millisecond)
	s.duration("max_interval", &r.MaxInterval, time.Millisecond)
	if s.has("base_interval", "max_interval") && r.MaxInterval != 0 && r.MaxInterval < r.BaseInterval {
		s.first("max_interval", "base_interval").fail(CodeConflict, "", "max_interval %v is less than base_interval %v", r.MaxInterval, r.BaseInterval)
	}
	if v, ok := s.get("multiplier"); ok {
		if f, ok := v.real(1<<16, ""); ok && f != 2 {
			v.fail(CodeMultiplier, "use 2, or leave the key out",
				"%v cannot be had: Envoy's back-off always doubles, with a random wait below it", f)
		}
	}
	s.close()
}

func (v value) checkCondition(word string) bool {
	words := append(httpConditions(), grpcConditions()...)
	if slices.Contains(words, word) {
		return true
	}
	if strings.Contains(word, ",") {
		v.fail(CodeRetryOn, "one item for each condition", "%q is no condition", word)
		return false
	}
	v.fail(CodeRetryOn, didYouMean(word, words), "%q is no condition that Envoy knows", word)
	return false
}

// checkMethod takes the methods of RFC 9110 and PATCH, and others that are
// not close to one of them. Methods are compared with their case.
func (v value) checkMethod(method string) bool {
	known := []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace,
	}
	if slices.Contains(known, method) {
		return true
	}
	if w := nearest(method, known); w != "" || method != strings.ToUpper(method) || !isToken(method) {
		hint := "methods are in capital letters"
		if w != "" {
			hint = didYouMean(method, known)
		}
		v.fail(CodeMatch, hint, "%q is no HTTP method", method)
		return false
	}
	return true
}

// isToken follows RFC 9110 section 5.6.2.
func isToken(s string) bool { return s != "" && onlyOf(s, "!#$%&'*+-.^_`|~") }
