package translate

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
)

func TestABucketIsDivided(t *testing.T) {
	for _, test := range []struct{ burst, parts, want uint32 }{
		{10, 1, 10},
		{10, 3, 4},
		{1, 5, 1},
		{math.MaxUint32, 1, math.MaxUint32},
		{math.MaxUint32, 2, 1 << 31},
	} {
		b := tokenBucket(policy.Bucket{Requests: 7, Burst: test.burst, Interval: time.Second}, test.parts)
		if b.GetMaxTokens() != test.want || b.GetTokensPerFill().GetValue() != 7 || b.GetFillInterval().AsDuration() != time.Duration(test.parts)*time.Second {
			t.Errorf("%d in %d parts: %v, want %d", test.burst, test.parts, b, test.want)
		}
	}
}

// A limit of a service is divided among those that are called, not all that there are.
func TestALimitIsDividedAmongThoseThatAreCalled(t *testing.T) {
	instance := func(id string, meshPort uint16) *watch.Instance {
		return &watch.Instance{ID: id, Address: netip.MustParseAddr("10.0.0.1"), Port: 80, MeshPort: meshPort, Weight: 1}
	}
	idle, off, sick := instance("idle", 15006), instance("off", 15006), instance("sick", 15006)
	idle.Weight, off.Health, sick.Health = 0, watch.Maintenance, watch.Critical
	entry := &watch.Service{Name: "web", Instances: []*watch.Instance{instance("a", 15006), instance("b", 15007), instance("plain", 0), idle, off, sick}}
	for mode, want := range map[tlsMode]uint32{tlsStrict: 2, tlsPermissive: 3, tlsOff: 3} {
		if got := takers(&globals{dial: mode}, entry); got != want {
			t.Errorf("mTLS %v: in %d parts, want %d", mode, got, want)
		}
	}
	if got := takers(&globals{}, nil); got != 1 {
		t.Errorf("of nobody: in %d parts", got)
	}
}
