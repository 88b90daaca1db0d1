package translate

import (
	"regexp"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// hostSelectionAttempts is how often a retry looks for an instance that it has
// not tried, before it takes one that it has. Each look draws two at random and takes
// the less busy: of two instances, where that which was not tried is the busier, three
// looks of four are in vain. Sixteen in a row are once in 100 retries (seen under load),
// 48 once in a million.
const hostSelectionAttempts = 48

// retryPolicy is what Envoy is told of a retry, nil for none.
func retryPolicy(d *builder, r *retry) *routev3.RetryPolicy {
	if r == nil {
		return nil
	}
	d.checkRetryOn(r.on)
	d.checkRetryOn(r.answers)
	p := &routev3.RetryPolicy{
		RetryOn:              strings.Join(r.on, ","),
		NumRetries:           u32(r.attempts),
		RetriableStatusCodes: r.statuses,
	}
	if !r.anyHost {
		p.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "previous_hosts", // Envoy goes by the type
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: d.pack(&previoushostsv3.PreviousHostsPredicate{}),
			},
		}}
		p.HostSelectionRetryMaxAttempts = hostSelectionAttempts
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
	if r.retryAfter > 0 {
		p.RateLimitedRetryBackOff = &routev3.RetryPolicy_RateLimitedRetryBackOff{
			ResetHeaders: []*routev3.RetryPolicy_ResetHeader{{Name: "retry-after", Format: routev3.RetryPolicy_SECONDS}},
			MaxInterval:  duration(r.retryAfter),
		}
	}
	return p
}

// retryAnswers adds conditions to those of a policy, by a header that Envoy's router
// reads and takes out. So that policies which differ in them alone are one, for all
// routes of a host. What an application says in it has been taken out before.
func retryAnswers(r *retry) []*corev3.HeaderValueOption {
	if r == nil || len(r.answers) == 0 {
		return nil
	}
	return []*corev3.HeaderValueOption{headerOption("x-envoy-retry-on", strings.Join(r.answers, ","), corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)}
}

// bodyShorterThan matches requests that say how long their body is.
func bodyShorterThan(size uint64) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: contentLength, HeaderMatchSpecifier: &routev3.HeaderMatcher_RangeMatch{
		RangeMatch: &typev3.Int64Range{End: int64(size)}, //nolint:gosec // at most 64 MiB
	}}
}

const contentLength = "content-length"

// methodsOf matches requests by their method, and of those that do not say how large
// their body is the ones that may have one.
func methodsOf(d *builder, m match) (all []*routev3.HeaderMatcher) {
	switch {
	case !m.unsized && len(m.methods) > 0:
		all = append(all, onlyMethods(d, m.methods))
	case m.unsized && len(m.methods) > 0:
		all = append(all, onlyMethods(d, withBody(m.methods)))
	case m.unsized:
		without := onlyMethods(d, bodyless)
		without.InvertMatch = true
		all = append(all, without)
	}
	if m.unsized {
		all = append(all, absent(contentLength))
	}
	return all
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
	if len(methods) == 1 {
		return headerMatch(":method", exact(methods[0]))
	}
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
