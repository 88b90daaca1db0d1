package policy

import (
	"net/http"
	"slices"
	"strings"

	"datapunk.dev/controlplane/spelling"
)

// defaultMaxInterval is how many base intervals a back-off grows to where the
// file does not say: Envoy's own number.
const defaultMaxInterval = 10

// maxAttempts bounds retries. Each may take as long as the first try.
const maxAttempts = 100

// maxRetriedBody bounds the memory that one request may hold in case it is tried
// again.
const maxRetriedBody = 64 << 20

// retryConditions are Envoy's words for retry_on: those of HTTP, and then those
// of gRPC. Envoy ignores any other, and compares case.
func retryConditions() []string {
	return append([]string{
		"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited",
		"retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
	}, grpcRetryConditions()...)
}

func grpcRetryConditions() []string {
	return []string{"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}
}

// IsGRPCRetryCondition reports whether a word of retry_on is of a status of gRPC.
func IsGRPCRetryCondition(word string) bool { return slices.Contains(grpcRetryConditions(), word) }

// IsRetryCondition reports whether Envoy knows a word of retry_on.
func IsRetryCondition(word string) bool { return slices.Contains(retryConditions(), word) }

func (d *decoder) retry(s *mapping, to *Service) {
	r := &to.Retry
	retryKeys.read(s, r)
	backoff := s.section("backoff")
	backoffKeys.read(backoff, r)
	if backoff.has("base_interval", "max_interval") && r.MaxInterval != 0 && r.MaxInterval < r.BaseInterval {
		backoff.first("max_interval", "base_interval").fail(CodeConflict, "", "max_interval %v is less than base_interval %v", r.MaxInterval, r.BaseInterval)
	}
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
	if backoff.got("retry_after") && r.RetryAfter > 0 && len(r.StatusCodes) == 0 && !slices.Contains(r.Conditions, "5xx") &&
		!slices.ContainsFunc([]string{"envoy-ratelimited", "retriable-4xx", "gateway-error"}, func(c string) bool { return slices.Contains(r.Conditions, c) }) {
		backoff.first("retry_after").fail(CodeNoEffect, "status_codes: [429, 503]", "has no effect: no answer is retried that could ask for it")
	}
	if s.present() {
		to.came(SettingRetry, s.key)
	}
}

// checkHedging looks whether a second try can begin beside the first.
func (d *decoder) checkHedging(v *mapping, r *Route) {
	if !r.Hedging || r.Answers() {
		return
	}
	switch {
	case r.Retry.Timeout == 0 || r.Retry.Attempts == 0:
		v.first("hedging").fail(CodeMissing, "retry: {attempts: 1, timeout: 200ms}", "wants retry.attempts, and retry.timeout, after which the next try begins")
	case len(r.Retry.Methods) == 0 && !r.onlyMethods("GET", "HEAD", "OPTIONS"):
		v.first("hedging").fail(CodeUnsafeRetry, "retry: {methods: [GET, HEAD]}", "a slow POST is sent a second time, though the application may be at work on the first")
	}
}

// onlyMethods reports whether the route is of requests with these methods alone.
func (r *Route) onlyMethods(methods ...string) bool {
	return len(r.Match) > 0 && !slices.ContainsFunc(r.Match, func(m RouteMatch) bool {
		return len(m.Methods) == 0 || slices.ContainsFunc(m.Methods, func(one string) bool { return !slices.Contains(methods, one) })
	})
}

// afterWork reports whether a request is retried that the application may have
// acted on.
func afterWork(r *Retry) bool {
	safe := []string{"connect-failure", "refused-stream", "reset-before-request", "envoy-ratelimited", "http3-post-connect-failure"}
	return len(r.StatusCodes) > 0 || slices.ContainsFunc(r.Conditions, func(c string) bool { return !slices.Contains(safe, c) })
}

// multiplier is the kind of a key that Envoy has no field for.
func multiplier() kind[Retry] {
	return kind[Retry]{shape{form: formReal, least: 2, most: 2, code: CodeMultiplier}, func(v value, _ *Retry) bool {
		f, ok := v.real(1<<16, "")
		if ok && f != 2 {
			v.fail(CodeMultiplier, "use 2, or leave the key out",
				"%v cannot be had: Envoy's back-off always doubles, with a random wait below it", f)
			return false
		}
		return ok
	}}
}

func (v value) checkCondition(word string) bool {
	if IsRetryCondition(word) {
		return true
	}
	if strings.Contains(word, ",") {
		v.fail(CodeRetryOn, "one item for each condition", "%q is no condition", word)
		return false
	}
	v.fail(CodeRetryOn, spelling.DidYouMean(word, retryConditions()), "%q is no condition that Envoy knows", word)
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
	if w := spelling.Nearest(method, slices.Values(known)); w != "" || method != strings.ToUpper(method) || !isToken(method) {
		hint := "methods are in capital letters"
		if w != "" {
			hint = spelling.DidYouMean(method, known)
		}
		v.fail(CodeMatch, hint, "%q is no HTTP method", method)
		return false
	}
	return true
}

// isToken follows RFC 9110 section 5.6.2.
func isToken(s string) bool { return s != "" && onlyOf(s, "!#$%&'*+-.^_`|~") }
