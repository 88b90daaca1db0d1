package translate

import (
	"regexp"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"datapunk.dev/controlplane/policy"
)

// hostSelectionAttempts is how often a retry looks for an instance that it has
// not tried, before it takes one that it has. Each look is a random one: of two
// instances, five looks are in vain once in 60 retries, sixteen once in 100,000.
const hostSelectionAttempts = 16

// minRouteTimeout is the time that a request has where neither its own
// timeout nor its retries ask for another: Envoy's own default.
const minRouteTimeout = 15 * time.Second

// httpRetry is the retry policy of ordinary requests, nil for none. A try that
// may take as long as the whole request needs no timeout of its own.
func httpRetry(d *draft, r policy.Retry, request time.Duration) *routev3.RetryPolicy {
	perTry := r.Timeout
	if request > 0 && perTry >= request {
		perTry = 0
	}
	return retryPolicy(d, r, r.Conditions, perTry)
}

// grpcRetry is the retry policy of gRPC calls. A dead application answers 200
// there, with status UNAVAILABLE in the trailers. A try has no timeout unless
// the service sets one itself: a server stream's first message may take any time.
func grpcRetry(d *draft, r policy.Retry) *routev3.RetryPolicy {
	conditions := r.Conditions
	if !slices.Contains(conditions, "unavailable") {
		conditions = append(slices.Clone(conditions), "unavailable")
	}
	var perTry time.Duration
	if r.TimeoutOfService {
		perTry = r.Timeout
	}
	return retryPolicy(d, r, conditions, perTry)
}

func retryPolicy(d *draft, r policy.Retry, conditions []string, perTry time.Duration) *routev3.RetryPolicy {
	if len(r.StatusCodes) > 0 && !slices.Contains(conditions, "retriable-status-codes") {
		conditions = append(slices.Clone(conditions), "retriable-status-codes")
	}
	if r.Attempts == 0 || len(conditions) == 0 {
		return nil
	}
	d.checkRetryOn(conditions)
	p := &routev3.RetryPolicy{
		RetryOn:              strings.Join(conditions, ","),
		NumRetries:           u32(r.Attempts),
		RetriableStatusCodes: r.StatusCodes,
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: d.pack(&previoushostsv3.PreviousHostsPredicate{}),
			},
		}},
		HostSelectionRetryMaxAttempts: hostSelectionAttempts,
	}
	if perTry > 0 {
		p.PerTryTimeout = duration(perTry)
	}
	if r.BaseInterval > 0 {
		p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: duration(r.BaseInterval)}
		if r.MaxInterval > 0 {
			p.RetryBackOff.MaxInterval = duration(r.MaxInterval)
		}
		if r.MaxInterval > 0 && r.MaxInterval < r.BaseInterval {
			d.failf("retry: max_interval %v is less than base_interval %v", r.MaxInterval, r.BaseInterval)
		}
	}
	return p
}

// routeTimeout is the time that a request has, with all its retries.
func routeTimeout(t policy.Timeout, r policy.Retry) time.Duration {
	if t.Request != nil {
		return *t.Request
	}
	if r.Timeout == 0 {
		return minRouteTimeout
	}
	all := r.Timeout * time.Duration(r.Attempts+1)
	// The k-th back-off is at most base times 2 to the k, and at most max.
	for i, interval := uint32(0), r.BaseInterval; i < r.Attempts && interval > 0; i++ {
		if r.MaxInterval > 0 {
			interval = min(interval, r.MaxInterval)
		}
		all += interval
		interval *= 2
	}
	return max(minRouteTimeout, all)
}

// onlyMethods matches requests by their method.
func onlyMethods(d *draft, methods []string) *routev3.HeaderMatcher {
	quoted := make([]string, len(methods))
	for i, m := range methods {
		quoted[i] = regexp.QuoteMeta(m)
	}
	slices.Sort(quoted)
	m := regex(strings.Join(slices.Compact(quoted), "|"))
	d.checkRegex(m)
	return headerMatch(":method", m)
}

func headerMatch(name string, m *matcherv3.StringMatcher) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: m}}
}
