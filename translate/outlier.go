package translate

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"datapunk.dev/controlplane/policy"
)

// maxEjectionJitter spreads the return of instances that were ejected together.
// It is added to each ejection, so it is never more than the shortest one: a
// second that an operator asked for stays seconds.
const maxEjectionJitter = 10 * time.Second

// outlierDetection ejects an instance that answers badly. A number of zero
// switches that detector off, which Envoy writes as enforcing it on 0 %.
func outlierDetection(d *builder, c *compiler, o policy.OutlierDetection) *clusterv3.OutlierDetection {
	if o.MaxEjectionTime < o.BaseEjectionTime {
		d.failf("outlier_detection: max_ejection_time %v is less than base_ejection_time %v", o.MaxEjectionTime, o.BaseEjectionTime)
	}
	return part(c, o, func() *clusterv3.OutlierDetection {
		od := &clusterv3.OutlierDetection{
			Interval:              duration(o.Interval),
			BaseEjectionTime:      duration(o.BaseEjectionTime),
			MaxEjectionTime:       duration(o.MaxEjectionTime),
			MaxEjectionTimeJitter: duration(min(maxEjectionJitter, o.BaseEjectionTime)),
			MaxEjectionPercent:    u32(o.MaxEjectionPercent),
			// Else every passing health check brings the instance back
			// into rotation, still broken.
			SuccessfulActiveHealthCheckUnejectHost: boolean(false),
		}
		od.Consecutive_5Xx, od.EnforcingConsecutive_5Xx = detector(o.Consecutive5xx)
		od.ConsecutiveGatewayFailure, od.EnforcingConsecutiveGatewayFailure = detector(o.ConsecutiveGatewayFailure)
		return od
	})
}

// detector returns the number and the percentage at which it is enforced.
func detector(consecutive uint32) (n, enforcing *wrappedUint32) {
	if consecutive == 0 {
		return nil, u32(0)
	}
	return u32(consecutive), u32(100)
}
