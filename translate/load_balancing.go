package translate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonlbv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"datapunk.dev/controlplane/policy"
)

type lbKey struct {
	policy      string
	prefersZone bool
	start       policy.SlowStart
}

// loadBalancing is the policy by which a proxy picks an instance. Least
// request compares two instances: more of them would herd onto the idlest one.
func loadBalancing(d *builder, c *compiler, key lbKey) *clusterv3.LoadBalancingPolicy {
	var policy message
	name := key.policy
	switch name {
	case "least_request", "":
		name, policy = "least_request", &leastrequestv3.LeastRequest{ChoiceCount: u32(2), LocalityLbConfig: localZone(key.prefersZone), SlowStartConfig: slowStart(key.start)}
	case "round_robin":
		policy = &roundrobinv3.RoundRobin{LocalityLbConfig: localZone(key.prefersZone), SlowStartConfig: slowStart(key.start)}
	case "random":
		policy = &randomv3.Random{LocalityLbConfig: localZone(key.prefersZone)}
	case "ring_hash":
		policy = &ringhashv3.RingHash{}
	case "maglev":
		policy = &maglevv3.Maglev{}
	default:
		d.failf("load_balancing: unknown policy %q", name)
		return nil
	}
	return part(c, key, func() *clusterv3.LoadBalancingPolicy { return balancingPolicy(d, name, policy) })
}

// localZone has an Envoy call its own zone alone while that has a healthy instance,
// whatever share of the others' load that is: it looks for its zone in the local cluster
// of its bootstrap. Without the minimum of 1, clusters of fewer than six instances would
// have no preference.
func localZone(prefers bool) *commonlbv3.LocalityLbConfig {
	if !prefers {
		return nil
	}
	return &commonlbv3.LocalityLbConfig{LocalityConfigSpecifier: &commonlbv3.LocalityLbConfig_ZoneAwareLbConfig_{
		ZoneAwareLbConfig: &commonlbv3.LocalityLbConfig_ZoneAwareLbConfig{
			MinClusterSize: &wrapperspb.UInt64Value{Value: 1},
			ForceLocalZone: &commonlbv3.LocalityLbConfig_ZoneAwareLbConfig_ForceLocalZone{MinSize: u32(1)},
		},
	}}
}

// slowStart has a new instance take its share bit by bit; nil for at once.
func slowStart(s policy.SlowStart) *commonlbv3.SlowStartConfig {
	if s.Window == 0 {
		return nil
	}
	return &commonlbv3.SlowStartConfig{SlowStartWindow: duration(s.Window), MinWeightPercent: &typev3.Percent{Value: s.MinWeightPercent}}
}

func balancingPolicy(d *builder, name string, config message) *clusterv3.LoadBalancingPolicy {
	return &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
		TypedExtensionConfig: &corev3.TypedExtensionConfig{
			Name:        "envoy.load_balancing_policies." + name,
			TypedConfig: d.pack(config),
		},
	}}}
}

// commonLoadBalancing holds for every policy. Percent is the share of healthy
// instances below which a proxy uses all of them, on the ground that it is its
// view which is broken. Those that somebody closed are not among them: see
// targetsOf.
func commonLoadBalancing(percent float64) *clusterv3.Cluster_CommonLbConfig {
	return &clusterv3.Cluster_CommonLbConfig{
		HealthyPanicThreshold: &typev3.Percent{Value: percent},
		// Envoy's own is 1 s: a change of health within a second of the last
		// one waits. A new instance then gets nothing for a second after it
		// passed its first check, and a failed one goes on to be called.
		UpdateMergeWindow: duration(0),
	}
}

// hashPolicy is what ring_hash and maglev hash. A cookie that the caller does
// not have yet is made for it, for the session.
func hashPolicy(d *builder, hash []policy.HashPolicy) []*routev3.RouteAction_HashPolicy {
	var hashed []*routev3.RouteAction_HashPolicy
	for _, h := range hash {
		p := &routev3.RouteAction_HashPolicy{}
		switch {
		case h.Header != "":
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: h.Header}}
		case h.Cookie != "":
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: &routev3.RouteAction_HashPolicy_Cookie{
				Name: h.Cookie, Ttl: &durationpb.Duration{}, Path: "/",
			}}
		case h.SourceIP:
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
				ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
			}
		default:
			d.failf("load_balancing: a hash_policy without a field")
			continue
		}
		hashed = append(hashed, p)
	}
	return hashed
}
