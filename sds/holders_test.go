package sds

import (
	"testing"
	"testing/synctest"
	"time"
)

// An operator has the certificates of some renewed, and no other's; what was never asked
// for is not issued for it.
func TestCertificatesAreRotatedWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		one, other, idle := f.lease(t), f.lease(t), f.lease(t)
		one.HeldBy("web-1")
		other.HeldBy("web-2")
		idle.HeldBy("web-1")
		first, second := version(t, one), version(t, other)
		if n := f.Rotate(func(node, spiffeID string) bool { return node == "web-1" && spiffeID == one.SPIFFEID() }); n != 1 {
			t.Errorf("%d are renewed", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if version(t, one) == first || version(t, other) != second || idle.Info().Serial != "" {
			t.Error("the wrong ones were renewed")
		}
		if n := f.changes.Load(); n != 1 {
			t.Errorf("%d proxies were told", n)
		}
		serials := make(map[string]string)
		for _, h := range f.Holders() {
			serials[h.Node+h.Serial] = h.SPIFFEID
		}
		if len(f.Holders()) != 3 || serials["web-2"+other.Info().Serial] != other.SPIFFEID() {
			t.Errorf("the holders are %v", f.Holders())
		}
	})
}
