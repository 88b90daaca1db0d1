package translate

import (
	"testing"
	"time"

	healthservice "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// An Envoy is told to check one endpoint: its own application.
func TestWhatAnEnvoyIsToldToCheck(t *testing.T) {
	lake := resource.Profile{Kind: resource.Sidecar, Service: "lake", AppPort: 8080}
	check := func(c *policy.AppCheck, protocol policy.Protocol) *healthservice.HealthCheckSpecifier {
		t.Helper()
		c.Interval, c.Timeout, c.UnhealthyThreshold, c.HealthyThreshold = 6*time.Second, 2*time.Second, 3, 1
		m, ok := AppCheck(&policy.Service{Name: "lake", Protocol: protocol, AppCheck: c}, lake).(*healthservice.HealthCheckSpecifier)
		if !ok {
			t.Fatal("it is told nothing")
		}
		if err := m.ValidateAll(); err != nil {
			t.Error(err)
		}
		endpoints := m.GetClusterHealthChecks()[0].GetLocalityEndpoints()[0].GetEndpoints()
		at := endpoints[0].GetAddress().GetSocketAddress()
		if len(m.GetClusterHealthChecks()) != 1 || len(endpoints) != 1 || at.GetAddress() != "127.0.0.1" || at.GetPortValue() != 8080 || m.GetInterval().AsDuration() != 3*time.Second {
			t.Errorf("%v", m)
		}
		h := m.GetClusterHealthChecks()[0].GetHealthChecks()[0]
		if h.GetInterval().AsDuration() != 6*time.Second || h.GetNoTrafficInterval().AsDuration() != 6*time.Second || h.GetTimeout().AsDuration() != 2*time.Second ||
			h.GetUnhealthyThreshold().GetValue() != 3 || h.GetHealthyThreshold().GetValue() != 1 {
			t.Errorf("%v", h)
		}
		return m
	}
	for protocol, codec := range map[policy.Protocol]typev3.CodecClientType{
		policy.HTTP: typev3.CodecClientType_HTTP1, policy.HTTP2: typev3.CodecClientType_HTTP2, policy.GRPC: typev3.CodecClientType_HTTP2,
	} {
		h := check(&policy.AppCheck{Path: "/health"}, protocol).GetClusterHealthChecks()[0].GetHealthChecks()[0].GetHttpHealthCheck()
		if h.GetPath() != "/health" || h.GetCodecClientType() != codec {
			t.Errorf("%s: %v", protocol, h)
		}
	}
	if h := check(&policy.AppCheck{TCP: true}, policy.TCP).GetClusterHealthChecks()[0].GetHealthChecks()[0]; h.GetTcpHealthCheck() == nil {
		t.Errorf("%v", h)
	}
	for what, p := range map[string]resource.Profile{
		"takes no calls": {Kind: resource.Sidecar, Service: "lake"},
		"is no Envoy":    {Kind: resource.Proxyless, Service: "lake", AppPort: 8080},
	} {
		if m := AppCheck(&policy.Service{AppCheck: &policy.AppCheck{TCP: true}}, p); m != nil {
			t.Errorf("one that %s is told %v", what, m)
		}
	}
	for what, c := range map[string]*policy.AppCheck{"nothing": nil, "what Envoy cannot": {GRPC: true}} {
		if m := AppCheck(&policy.Service{AppCheck: c}, lake); m != nil {
			t.Errorf("%s: %v", what, m)
		}
	}
}
