package resource

import (
	"encoding/binary"
)

// Profile is what makes one proxy's configuration differ from another's.
// Proxies with equal profiles share a [View].
type Profile struct {
	Service string
	Kind    Kind
	Address string // where inbound and metrics bind; empty: every address
	Region  string // the datacenter, where there are several
	Zone    string

	AppAddress string // where the application listens; empty: 127.0.0.1

	AppPort, MeshPort uint16 // 0: unknown, no inbound listener
	OutboundPort      uint16
	MetricsPort       uint16 // 0: that of the mesh file, if it has one
}

// Key encodes a profile so that those of one service stand together, and no two
// profiles share a key whatever a proxy says of itself.
func (p Profile) Key() string {
	key := []byte(ServiceKey(p.Service))
	key = append(key, byte(p.Kind))
	for _, s := range []string{p.Address, p.Region, p.Zone, p.AppAddress} {
		key = binary.AppendUvarint(key, uint64(len(s)))
		key = append(key, s...)
	}
	for _, port := range []uint16{p.AppPort, p.MeshPort, p.OutboundPort, p.MetricsPort} {
		key = binary.BigEndian.AppendUint16(key, port)
	}
	return string(key)
}

// ServiceKey is what the keys of a service's profiles begin with, and of no
// other's.
func ServiceKey(service string) string {
	return string(append(binary.AppendUvarint(nil, uint64(len(service))), service...))
}
