package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	healthservice "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// AppCheck is what an Envoy is told by HDS: to check its own application, and
// nothing else. It is nil where an Envoy cannot, or is not to.
func AppCheck(s *policy.Service, p resource.Profile) proto.Message {
	c := s.AppCheck
	if c == nil || c.GRPC || p.AppPort == 0 || p.Kind != resource.Sidecar {
		return nil
	}
	check := &corev3.HealthCheck{
		Timeout:  duration(c.Timeout),
		Interval: duration(c.Interval),
		// The cluster that HDS makes of it never has traffic.
		NoTrafficInterval:  duration(c.Interval),
		UnhealthyThreshold: u32(c.UnhealthyThreshold),
		HealthyThreshold:   u32(c.HealthyThreshold),
	}
	if c.TCP {
		check.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
	} else {
		codec := typev3.CodecClientType_HTTP1
		if s.Protocol == policy.HTTP2 || s.Protocol == policy.GRPC {
			codec = typev3.CodecClientType_HTTP2
		}
		check.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: &corev3.HealthCheck_HttpHealthCheck{
			Host: s.Name, Path: c.Path, CodecClientType: codec,
			// 429 comes with its status, and is a warning. The end is not included.
			ExpectedStatuses: []*typev3.Int64Range{{Start: 200, End: 300}, {Start: 429, End: 430}},
			// Without this one bad answer counts at once, whatever the threshold says.
			RetriableStatuses: []*typev3.Int64Range{{Start: 100, End: 200}, {Start: 300, End: 429}, {Start: 430, End: 600}},
		}}
	}
	where := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: appAddress(p), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(p.AppPort)},
	}}}
	return &healthservice.HealthCheckSpecifier{
		Interval: duration(c.ReportInterval()),
		ClusterHealthChecks: []*healthservice.ClusterHealthCheck{{
			ClusterName:  resource.ClusterLocalApp,
			HealthChecks: []*corev3.HealthCheck{check},
			LocalityEndpoints: []*healthservice.LocalityEndpoints{{
				Endpoints: []*endpointv3.Endpoint{{Address: where}},
			}},
		}},
	}
}
