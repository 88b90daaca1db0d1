package translate

import (
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"datapunk.dev/controlplane/policy"
)

// What ValidateAll cannot know, and Envoy refuses or swallows, is checked
// where it is made; the checks that several places need are here.

// checkRegex refuses an expression that Envoy would, and with it the listener
// or route that has it.
func (d *builder) checkRegex(m *matcherv3.StringMatcher) {
	if r := m.GetSafeRegex(); r != nil {
		if err := policy.CheckRegex(r.Regex); err != nil {
			d.errs = append(d.errs, err)
		}
	}
}

// checkRetryOn refuses words that Envoy would ignore with a warning.
func (d *builder) checkRetryOn(conditions []string) {
	for _, c := range conditions {
		if !policy.IsRetryCondition(c) {
			d.failf("retry: unknown condition %q", c)
		}
	}
}
