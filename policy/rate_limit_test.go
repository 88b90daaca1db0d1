package policy_test

import (
	"reflect"
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
)

// A limit is laid over that of all, key by key; but for the burst, which belongs to the
// number beside it.
func TestRateLimits(t *testing.T) {
	m := load(t, `
mesh:
  name: m
  policies:
    rate_limit:
      default: {requests: 1000, burst: 2000, callers: {"*": {requests: 50}, forge: {requests: 5}}}
      custom:
        lake: {requests: 200, per: service}
        stream: {interval: 2s}
  services:
    lake: {rate_limit: {mode: shadow, callers: {forge: {requests: 7, burst: 9, interval: 1m}}}}
    quiet: {rate_limit: {mode: off}}
    db: {protocol: tcp}
`)
	second := func(n, burst uint32) policy.Bucket {
		return policy.Bucket{Requests: n, Burst: burst, Interval: time.Second}
	}
	others := policy.CallerLimit{Caller: policy.EachOther, Bucket: second(50, 50)}
	forge := policy.CallerLimit{Caller: "forge", Bucket: second(5, 5)}
	slow := policy.CallerLimit{Caller: "forge", Bucket: policy.Bucket{Requests: 7, Burst: 9, Interval: time.Minute}}
	for name, want := range map[string]policy.RateLimit{
		"any":    {Mode: policy.Enforce, Per: policy.PerProxy, Status: 429, All: second(1000, 2000), Callers: []policy.CallerLimit{others, forge}},
		"lake":   {Mode: policy.Shadow, Per: policy.PerService, Status: 429, All: second(200, 200), Callers: []policy.CallerLimit{others, slow}},
		"stream": {Mode: policy.Enforce, Per: policy.PerProxy, Status: 429, All: policy.Bucket{Requests: 1000, Burst: 2000, Interval: 2 * time.Second}, Callers: []policy.CallerLimit{others, forge}},
		"db":     {},
	} {
		if got := m.Service(name).RateLimit; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if m.Service("quiet").RateLimit.On() || m.Service("db").RateLimit.On() || !m.Service("any").RateLimit.On() {
		t.Error("who is off is on, or the other way round")
	}
	if keys := m.Service("lake").Keys(policy.SettingRateLimit); !reflect.DeepEqual(keys, []string{"services.lake.rate_limit", "policies.rate_limit.custom.lake", "policies.rate_limit.default"}) {
		t.Errorf("it comes from %q", keys)
	}
}
