package token

import (
	"fmt"
	"testing"
	"time"
)

// A node has enough renewals to restart a few times, and takes none from others.
// Who rests is forgotten.
func TestANodeRenewsSoOften(t *testing.T) {
	r, now := newRenewalRates(), time.Unix(0, 0)
	for i := range 12 {
		if got, want := r.allow("web-1", now), i < 8; got != want {
			t.Errorf("renewal %d at once: %v", i, got)
		}
	}
	if !r.allow("web-2", now) {
		t.Error("the renewals of one node count for another")
	}
	now = now.Add(time.Second)
	if !r.allow("web-1", now) || r.allow("web-1", now) {
		t.Error("want one more each second")
	}
	for i := range 5 * sweepNodes {
		r.allow(fmt.Sprint("node-", i), now.Add(time.Duration(i)*time.Second))
	}
	if n := len(r.nodes); n > sweepNodes {
		t.Errorf("%d nodes are remembered", n)
	}
}
