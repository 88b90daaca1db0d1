package control

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// A sidecar is an instance's if it is of the service, by whichever name the catalog
// has it, and takes connections where the instance is dialed.
func TestWhichSidecarIsAnInstances(t *testing.T) {
	at := func(service, address string) resource.Inbound {
		return resource.Inbound{Service: service, At: netip.MustParseAddrPort(address)}
	}
	instance := func(address string, meshPort uint16) *watch.Instance {
		return &watch.Instance{ID: "lake-1", Address: netip.MustParseAddr(address), Port: 8080, MeshPort: meshPort}
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSidecars()
		s.setServices(map[string]string{"lake": "data.lake", "pond": "data.lake"})
		s.moved([]resource.Inbound{at("lake", "10.0.0.1:20000"), at("pond", "10.0.0.2:20000"), at("dome", "10.0.0.3:20000")}, nil)
		for _, tt := range []struct {
			service string
			i       *watch.Instance
			want    watch.Presence
		}{
			{"data.lake", instance("10.0.0.1", 20000), watch.Connected},
			{"data.lake", instance("::ffff:10.0.0.1", 20000), watch.Connected},
			{"data.lake", instance("10.0.0.2", 20000), watch.Connected},
			{"dome", instance("10.0.0.3", 20000), watch.Connected},
			{"data.lake", instance("10.0.0.3", 20000), watch.Unseen}, // another service's
			{"data.lake", instance("10.0.0.1", 20001), watch.Unseen},
			{"data.lake", instance("10.0.0.1", 0), watch.Unseen},
		} {
			if got := s.of(tt.service, tt.i); got != tt.want {
				t.Errorf("%s at %s:%d: %v, want %v", tt.service, tt.i.Address, tt.i.MeshPort, got, tt.want)
			}
		}
		one := instance("10.0.0.1", 20000)
		s.moved(nil, []resource.Inbound{at("lake", "10.0.0.1:20000")})
		if got := s.of("data.lake", one); got != watch.Left {
			t.Errorf("after its stream ended: %v", got)
		}
		s.moved([]resource.Inbound{at("lake", "10.0.0.1:20000")}, nil)
		if got := s.of("data.lake", one); got != watch.Connected {
			t.Errorf("back: %v", got)
		}
		s.moved(nil, []resource.Inbound{at("lake", "10.0.0.1:20000")})
		time.Sleep(leftFor)
		if got := s.of("data.lake", one); got != watch.Unseen {
			t.Errorf("long after its stream ended: %v", got)
		}
		s.moved(nil, nil)
		if len(s.left) > 0 {
			t.Errorf("%d that left are remembered for ever", len(s.left))
		}
	})
}
