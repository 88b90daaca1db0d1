package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterchainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// filterInbound is the place of an inbound listener that is filled without it, by the
// extension of that name. What has a memory stands there, as the buckets of a rate
// limit: it outlives every edit but its own, where in a route configuration each edit
// of a policy would begin it anew.
const filterInbound = resource.ExtensionInbound

// inboundFilling is what the place is filled with. Equal fillings are one resource.
type inboundFilling struct {
	limits    policy.RateLimit
	parts     uint32 // that a limit of the service is divided into
	counted   counted
	admission policy.AdmissionControl
}

// fillingOf is how the sidecars of a service guard it.
func fillingOf(g *globals, s *policy.Service, entry *watch.Service) inboundFilling {
	f := inboundFilling{parts: 1}
	if s.RateLimit.On() {
		f.limits = s.RateLimit
	}
	if s.AdmissionControl.Enabled {
		f.admission = s.AdmissionControl
	}
	if f.limits.Per == policy.PerService {
		f.parts = takers(g, entry)
	}
	if g.limits.Counts(s.Name, f.limits) {
		f.counted = counted{service: s.Name, by: g.limits, identified: g.tls != tlsOff}
	}
	return f
}

// empty reports whether nothing stands there.
func (f inboundFilling) empty() bool {
	return !f.limits.Local() && !f.counted.on() && !f.admission.Enabled
}

// fill makes the resource, empty too: by the state of the world a client cannot be
// told that one is gone.
func (f inboundFilling) fill(c *compiler, keys []string) (*resource.Resource, error) {
	var d builder
	var filters []*corev3.TypedExtensionConfig
	var refs []resource.Ref
	if f.limits.Local() {
		filters = append(filters, &corev3.TypedExtensionConfig{Name: filterRateLimit, TypedConfig: d.pack(rateLimit(&d, c, f.limits, f.parts))})
	}
	if f.counted.on() {
		filters = append(filters, &corev3.TypedExtensionConfig{Name: filterGlobalRateLimit, TypedConfig: d.pack(globalRateLimit(&d, f.counted, f.limits))})
		refs = append(refs, resource.Cluster.Ref(f.counted.cluster()))
	}
	if f.admission.Enabled {
		filters = append(filters, &corev3.TypedExtensionConfig{Name: filterAdmission, TypedConfig: d.pack(admissionControl(f.admission))})
	}
	chain := &filterchainv3.FilterChainConfig{}
	if len(filters) > 0 {
		chain.DefaultFilterChain = &filterchainv3.FilterChain{Filters: filters}
	}
	return d.finish(resource.Extension, filterInbound, &corev3.TypedExtensionConfig{Name: filterInbound, TypedConfig: d.pack(chain)}, keys, refs)
}

// keys are what it is made of.
func (f inboundFilling) keys(s *policy.Service) []string {
	keys := s.Keys(policy.SettingRateLimit, policy.SettingAdmissionControl)
	if f.counted.on() {
		keys = append(keys, policy.KeyLimitServer)
	}
	return keys
}

// takers is how many instances requests go to: one at least, for somebody's sidecar
// asks.
func takers(g *globals, entry *watch.Service) uint32 {
	n := uint32(0)
	if entry != nil {
		for _, i := range entry.Instances {
			if _, left := dialed(g, i); left == "" && i.Health <= watch.Warning {
				n++
			}
		}
	}
	return max(n, 1)
}
