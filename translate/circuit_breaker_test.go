package translate

import "testing"

// Envoy takes the number of retries where there is no budget; a budget of nothing is one.
func TestARetryBudgetOfNothingAllowsNoRetries(t *testing.T) {
	limits := func(breakers string) (number, budget bool) {
		s := parse(t, "mesh: {name: t, circuit_breakers: {default: "+breakers+"}}").Service("any")
		made := circuitBreakers(newCompiler(nil), s.CircuitBreakers).GetThresholds()[0]
		return made.MaxRetries != nil, made.RetryBudget != nil
	}
	if number, budget := limits("{retry_budget: {percent: 0, min_concurrency: 0}}"); number || !budget {
		t.Errorf("max_retries: %t, a budget: %t", number, budget)
	}
	if number, budget := limits("{}"); !number || budget {
		t.Errorf("of none, max_retries: %t, a budget: %t", number, budget)
	}
}
