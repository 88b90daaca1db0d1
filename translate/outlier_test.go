package translate

import (
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
)

// TestEjectionJitterIsBounded: Envoy adds up to the jitter to each ejection.
func TestEjectionJitterIsBounded(t *testing.T) {
	for base, want := range map[time.Duration]time.Duration{
		500 * time.Millisecond: 500 * time.Millisecond,
		10 * time.Second:       10 * time.Second,
		30 * time.Second:       10 * time.Second,
	} {
		o := outlierDetection(&builder{}, newCompiler(nil), policy.OutlierDetection{BaseEjectionTime: base, MaxEjectionTime: 5 * time.Minute})
		if got := o.GetMaxEjectionTimeJitter().AsDuration(); got != want {
			t.Errorf("ejections of %s: up to %s more, want %s", base, got, want)
		}
	}
}
