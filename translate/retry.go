package translate

import (
	"regexp"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
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
