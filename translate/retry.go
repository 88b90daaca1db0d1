package translate

import (
	"regexp"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// hostSelectionAttempts is how often a retry looks for an instance that it has
// not tried, before it takes one that it has. Each look is a random one: of two
// instances, five looks are in vain once in 60 retries, sixteen once in 100,000.
const hostSelectionAttempts = 16

// retryPolicy is what Envoy is told of a retry, nil for none.
func retryPolicy(d *builder, r *retry) *routev3.RetryPolicy {
	if r == nil {
		return nil
	}
	d.checkRetryOn(r.on)
	p := &routev3.RetryPolicy{
		RetryOn:              strings.Join(r.on, ","),
		NumRetries:           u32(r.attempts),
		RetriableStatusCodes: r.statuses,
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: d.pack(&previoushostsv3.PreviousHostsPredicate{}),
			},
		}},
		HostSelectionRetryMaxAttempts: hostSelectionAttempts,
	}
	if r.tooLarge > 0 {
		// One of them is enough.
		p.RetriableRequestHeaders = []*routev3.HeaderMatcher{bodyShorterThan(r.tooLarge), absent(contentLength)}
	}
	if r.perTry > 0 {
		p.PerTryTimeout = duration(r.perTry)
	}
	if r.baseInterval > 0 {
		p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: duration(r.baseInterval)}
		if r.maxInterval > 0 {
			p.RetryBackOff.MaxInterval = duration(r.maxInterval)
		}
		if r.maxInterval > 0 && r.maxInterval < r.baseInterval {
			d.failf("retry: max_interval %v is less than base_interval %v", r.maxInterval, r.baseInterval)
		}
	}
	return p
}

// bodyShorterThan matches requests that say how long their body is.
func bodyShorterThan(size uint64) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: contentLength, HeaderMatchSpecifier: &routev3.HeaderMatcher_RangeMatch{
		RangeMatch: &typev3.Int64Range{End: int64(size)}, //nolint:gosec // at most 64 MiB
	}}
}

const contentLength = "content-length"

// unsized matches requests that may have a body and do not say how large.
func unsized(d *builder) []*routev3.HeaderMatcher {
	bodyless := onlyMethods(d, []string{"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})
	bodyless.InvertMatch = true
	return []*routev3.HeaderMatcher{absent(contentLength), bodyless}
}

// retryToApplication is what a sidecar tries again of its own application: what
// certainly never reached it and, of requests that by RFC 9110 section 9.2.1 ask
// for no action, what it did not answer. Most of that are requests that met a
// connection which the application was closing. The caller's own retries go to
// another instance, and count against this one.
func retryToApplication(on string, only ...*routev3.HeaderMatcher) *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:                 on,
		NumRetries:              u32(2),
		RetryBackOff:            &routev3.RetryPolicy_RetryBackOff{BaseInterval: duration(time.Millisecond), MaxInterval: duration(10 * time.Millisecond)},
		RetriableRequestHeaders: only,
	}
}

// onlyMethods matches requests by their method.
func onlyMethods(d *builder, methods []string) *routev3.HeaderMatcher {
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
