package translate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"datapunk.dev/controlplane/policy"
)

// unlimited is as good as no limit. A limit has to be written all the same:
// Envoy's own default of 1,024 is a limit that nobody asked for.
const unlimited = 1_000_000

// circuitBreakers are the limits of one cluster, of each proxy for itself.
// Between sidecars, on HTTP/2, MaxRequests and MaxRetries are what bites.
func circuitBreakers(c *compiler, cb policy.CircuitBreakers) *clusterv3.CircuitBreakers {
	return part(c, cb, func() *clusterv3.CircuitBreakers {
		limits := &clusterv3.CircuitBreakers_Thresholds{
			MaxConnections:     u32(cb.MaxConnections),
			MaxPendingRequests: u32(cb.MaxPendingRequests),
			MaxRequests:        u32(cb.MaxRequests),
			MaxRetries:         u32(cb.MaxRetries),
			TrackRemaining:     true,
		}
		if b := cb.RetryBudget; b.Set {
			// Without a budget_interval: over one, requests that are long done let
			// an outage have more retries than the percentage says.
			limits.MaxRetries = nil
			limits.RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
				BudgetPercent: &typev3.Percent{Value: b.Percent}, MinRetryConcurrency: u32(b.MinConcurrency),
			}
		}
		return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{limits}}
	})
}

// noCircuitBreakers lifts Envoy's default limits where the mesh has none: to
// the proxy's own application, whose callers' limits already count.
func noCircuitBreakers() *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections:     u32(unlimited),
		MaxPendingRequests: u32(unlimited),
		MaxRequests:        u32(unlimited),
		MaxRetries:         u32(unlimited),
	}}}
}
