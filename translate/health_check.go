package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"datapunk.dev/controlplane/policy"
)

// healthCheckJitter, in percent of the interval, keeps the checks of a fleet
// from falling on the same moment.
const healthCheckJitter = 10

// healthChecks are the active checks of each proxy, if the file asks for any.
func healthChecks(d *builder, h policy.HealthChecks, mode httpMode) []*corev3.HealthCheck {
	if h.Timeout > h.Interval {
		d.failf("health_checks: timeout %v is more than interval %v", h.Timeout, h.Interval)
	}
	if h.UnhealthyThreshold == 0 || h.HealthyThreshold == 0 {
		d.failf("health_checks: a threshold of 0")
	}
	check := &corev3.HealthCheck{
		Timeout:               duration(h.Timeout),
		Interval:              duration(h.Interval),
		IntervalJitterPercent: healthCheckJitter,
		// Envoy checks a cluster without traffic once a minute unless told.
		NoTrafficInterval:  duration(h.Interval),
		UnhealthyThreshold: u32(h.UnhealthyThreshold),
		HealthyThreshold:   u32(h.HealthyThreshold),
	}
	switch h.Protocol {
	case "http":
		codec := typev3.CodecClientType_HTTP1
		if mode == http2 {
			codec = typev3.CodecClientType_HTTP2
		}
		check.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: &corev3.HealthCheck_HttpHealthCheck{
			Path:            h.Path,
			CodecClientType: codec,
			// Without this one answer of 5xx ejects at once, whatever
			// the threshold says. The end is not included.
			RetriableStatuses: []*typev3.Int64Range{{Start: 500, End: 600}},
		}}
	case "grpc":
		if mode == notHTTP {
			d.failf("health_checks: protocol grpc needs a service that speaks HTTP/2")
		}
		check.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{}}
	case "tcp", "":
		check.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
	default:
		d.failf("health_checks: unknown protocol %q", h.Protocol)
	}
	return []*corev3.HealthCheck{check}
}
