package xds

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/resource"
)

// Where sidecars take connections is told when the first stream of one comes, and
// when the last has ended: of two that say the same, and of one that comes back.
func TestWhereSidecarsTakeConnectionsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		s := testServer(func(o *Options) {
			o.OnInbound = func(came, left []resource.Inbound) {
				for _, at := range came {
					told = append(told, "+"+at.Service+" "+at.At.String())
				}
				for _, at := range left {
					told = append(told, "-"+at.Service+" "+at.At.String())
				}
			}
		})
		expect := func(when string, want ...string) {
			t.Helper()
			time.Sleep(fleetInterval)
			synctest.Wait()
			if len(told) != len(want) || len(want) > 0 && told[0] != want[0] {
				t.Errorf("%s: told %q, want %q", when, told, want)
			}
			told = nil
		}
		publish(s)
		open := func(meta map[string]any) deltaClient {
			c := openDelta(t, s)
			c.node.Metadata = metadataOf(t, meta)
			c.subscribe(cds)
			return c
		}
		sidecar := map[string]any{"app_port": 8080, "mesh_port": 20000, "address": "10.0.0.1"}
		first := open(sidecar)
		expect("the first stream", "+nexus 10.0.0.1:20000")
		second := open(sidecar) // the same node.id: it came back before its old stream was seen to end
		_ = first.end()
		expect("it came back")
		second.close()
		expect("the last stream", "-nexus 10.0.0.1:20000")
		c := open(map[string]any{"app_port": 8080, "address": "10.0.0.1"})
		expect("one that takes no connections")
		c.close()
		expect("nor does it leave")
	})
}

// One that binds every address of its machine is where its connection comes from.
func TestWhereASidecarTakesConnections(t *testing.T) {
	from := netip.MustParseAddr("10.0.0.9")
	for _, tt := range []struct {
		address string
		from    netip.Addr
		want    string // empty: not known
	}{
		{"10.0.0.1", from, "10.0.0.1:20000"},
		{"::ffff:10.0.0.1", from, "10.0.0.1:20000"},
		{"", from, "10.0.0.9:20000"},
		{"0.0.0.0", from, "10.0.0.9:20000"},
		{"::", from, "10.0.0.9:20000"},
		{"", netip.Addr{}, ""}, // a Unix socket
	} {
		at, ok := resource.InboundOf(resource.Profile{Service: "lake", Address: tt.address, AppPort: 80, MeshPort: 20000}, tt.from)
		got := at.At.String()
		if !ok {
			got = ""
		}
		if got != tt.want {
			t.Errorf("address %q: %q, want %q", tt.address, got, tt.want)
		}
	}
}
