package resource

import "net/netip"

// Inbound is where a connected proxy says that it takes the mesh's connections
// for its service.
type Inbound struct {
	Service string
	At      netip.AddrPort
}

// InboundOf returns it for a proxy with the profile, whose connection comes from
// the address. It is false if the two do not say enough.
func InboundOf(p Profile, from netip.Addr) (at Inbound, ok bool) {
	if p.Kind != Sidecar || p.AppPort == 0 || p.MeshPort == 0 {
		return Inbound{}, false
	}
	addr, err := netip.ParseAddr(p.Address)
	if err != nil || addr.IsUnspecified() { // it binds every address of its host
		if addr = from; !addr.IsValid() {
			return Inbound{}, false
		}
	}
	return Inbound{p.Service, netip.AddrPortFrom(addr.Unmap().WithZone(""), p.MeshPort)}, true
}
