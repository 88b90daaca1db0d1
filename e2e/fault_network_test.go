//go:build slow

package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
)

// TestConsulBehindABadNetwork: of every hundred packets from and to it thirty are lost,
// and then all that it answers.
func TestConsulBehindABadNetwork(t *testing.T) {
	network := harness.NetworkOfItsOwn(t)
	if network == nil {
		return
	}
	m := startConsulMesh(t)
	_, port, _ := net.SplitHostPort(m.front.addr)
	health := func(status string) {
		t.Helper()
		if err := m.agent.SetHealth("lake-2", status); err != nil {
			t.Fatal(err)
		}
	}
	f := begin(t, m.Mesh)
	network.Lose(30, port)
	for range 3 {
		f.now()
		health("critical")
		f.well("a change by a network that loses 30 of 100 packets", time.Minute, f.instances(1))
		f.now()
		health("passing")
		f.well("and back", time.Minute, f.instances(2))
	}
	network.Heal()

	f.now()
	network.CutFrom(port)
	health("critical")
	for began := time.Now(); time.Since(began) < 25*time.Second; time.Sleep(time.Second) {
		if err := f.instances(2)(); err != nil {
			t.Fatalf("without an answer of Consul: %v", err)
		}
		if code, ready, err := m.Plane.Readyz(); err != nil || code != 200 {
			t.Errorf("/readyz: %d, %v", code, err)
		} else if len(ready.Holding) > 0 && f.seen == 0 {
			f.seen = time.Since(f.began)
		}
	}
	network.Heal()
	f.well("a change that Consul could not tell for 25 s", 90*time.Second, f.instances(1))
	f.end()
}

// TestAHalfOpenConnectionIsNoticedByBothEnds: nothing passes between the Envoys and the
// control plane any more, and nobody is told.
func TestAHalfOpenConnectionIsNoticedByBothEnds(t *testing.T) {
	network := harness.NetworkOfItsOwn(t)
	if network == nil {
		return
	}
	m := startConsulMesh(t)
	_, port, _ := net.SplitHostPort(m.Plane.XDSAddress())
	f := begin(t, m.Mesh)
	network.CutTo(port)
	network.CutFrom(port)
	// An Envoy that tries again counts as connected, so its pings are looked at.
	noticed := func(s *harness.Sidecar) bool {
		for name, n := range m.Stats(s.ID) {
			if strings.HasSuffix(name, ".http2.keepalive_timeout") && n > 0 {
				return true
			}
		}
		return false
	}
	var plane, envoys time.Duration
	harness.Eventually(t, "both ends have noticed", 45*time.Second, func() error {
		n, late := xdsStreams(m.Mesh), slices.IndexFunc(m.Sidecars(), func(s *harness.Sidecar) bool { return !noticed(s) })
		if n == 0 && plane == 0 {
			plane = time.Since(f.began)
		}
		if late < 0 && envoys == 0 {
			envoys = time.Since(f.began)
		}
		if n > 0 || late >= 0 {
			return fmt.Errorf("the control plane believes in %d streams, and an Envoy in its own: %d", n, late)
		}
		return nil
	})
	t.Logf("measured: the control plane noticed after %.1f s, the last Envoy after %.1f s", plane.Seconds(), envoys.Seconds())
	healed := time.Now()
	network.Heal()
	// An Envoy waits for up to 30 s until it tries again.
	harness.Eventually(t, "all are back", 90*time.Second, func() error {
		if n := xdsStreams(m.Mesh); n < len(m.Sidecars()) {
			return fmt.Errorf("%d streams", n)
		}
		return nil
	})
	reconnected(t, m.Mesh, healed)
	f.says("the network is back", time.Since(healed))
	for typ, n := range pushes(t, m.Mesh) {
		if n != f.sent[typ] {
			t.Errorf("%d responses of %s to proxies that have it all", n-f.sent[typ], typ)
		}
	}
	f.end()
}
