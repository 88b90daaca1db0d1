package wire

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"datapunk.dev/controlplane/resource"
)

// Node is what the server keeps of envoy.config.core.v3.Node.
type Node struct {
	ID, Cluster string
	Agent       string // user_agent_name
	Version     string // the user agent's
	region      string // of the locality, as the zone
	zone        string
	metadata    nodeMetadata
	instance    *Instance // nil: it says nothing of that
}

// nodeMetadata is what the server reads of a node's metadata, as text: a number is
// written as a whole number.
type nodeMetadata struct {
	address, appAddress, zone, roots             string
	appPort, meshPort, outboundPort, metricsPort string
}

// of returns where the value of a key goes, nil for one that nobody reads.
func (m *nodeMetadata) of(key string) *string {
	switch key {
	case "address":
		return &m.address
	case "app_address":
		return &m.appAddress
	case "zone":
		return &m.zone
	case "app_port":
		return &m.appPort
	case "mesh_port":
		return &m.meshPort
	case "outbound_port":
		return &m.outboundPort
	case "metrics_port":
		return &m.metricsPort
	case "roots":
		return &m.roots
	}
	return nil
}

// parseNode reads the fields that the server uses, and nothing of the rest: an
// Envoy may send its node with every request.
func parseNode(b []byte) (*Node, error) {
	n := &Node{}
	err := eachBytes(b, func(number protowire.Number, v []byte) (err error) {
		switch number {
		case 1:
			n.ID, err = bounded("node.id", v, maxNodeID)
		case 2:
			n.Cluster, err = bounded("node.cluster", v, maxCluster)
		case 3:
			if len(v) > maxMetadata {
				return tooMuch("metadata of %d bytes, more than %d", len(v), maxMetadata)
			}
			return eachBytes(v, func(number protowire.Number, v []byte) error {
				if number != 1 {
					return nil
				}
				return n.read(v)
			})
		case 4:
			return eachBytes(v, func(number protowire.Number, v []byte) (err error) {
				switch number {
				case 1:
					n.region, err = bounded("node.locality.region", v, maxZone)
				case 2:
					n.zone, err = bounded("node.locality.zone", v, maxZone)
				}
				return err
			})
		case 6:
			n.Agent = cut(v)
		case 7:
			n.Version = cut(v)
		case 8:
			n.Version = buildVersion(v)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	return n, nil
}

// cut returns text that is for people only.
func cut(v []byte) string { return strings.ToValidUTF8(string(v[:min(len(v), maxAgent)]), "") }

// read reads one entry of the fields of the metadata, a google.protobuf.Struct.
func (n *Node) read(entry []byte) error {
	var key, value []byte
	if err := eachBytes(entry, func(number protowire.Number, v []byte) error {
		switch number {
		case 1:
			key = v
		case 2:
			value = v
		}
		return nil
	}); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	if field := n.metadata.of(string(key)); field != nil {
		return readScalar(value, field)
	}
	return n.readInstance(string(key), value)
}

// readScalar reads a google.protobuf.Value. Only strings and numbers mean something.
func readScalar(value []byte, field *string) error { return readBounded(value, field, maxZone) }

// readBounded is readScalar for texts of another length.
func readBounded(value []byte, field *string, limit int) error {
	*field = ""
	for len(value) > 0 {
		number, typ, n := protowire.ConsumeTag(value)
		if n < 0 {
			return fmt.Errorf("metadata: %w", protowire.ParseError(n))
		}
		value = value[n:]
		switch {
		case number == 2 && typ == protowire.Fixed64Type:
			var bits uint64
			if bits, n = protowire.ConsumeFixed64(value); n >= 0 {
				*field = wholeNumber(math.Float64frombits(bits))
			}
		case number == 3 && typ == protowire.BytesType:
			var text []byte
			if text, n = protowire.ConsumeBytes(value); n >= 0 {
				var err error
				if *field, err = bounded("metadata: a value", text, limit); err != nil {
					return err
				}
			}
		default:
			n = protowire.ConsumeFieldValue(number, typ, value)
		}
		if n < 0 {
			return fmt.Errorf("metadata: %w", protowire.ParseError(n))
		}
		value = value[n:]
	}
	return nil
}

// wholeNumber writes a port that came as a number; empty: it is none.
func wholeNumber(f float64) string {
	if f < 0 || f > math.MaxUint16 || f != math.Trunc(f) {
		return ""
	}
	return strconv.Itoa(int(f))
}

// buildVersion reads the semantic version of an
// envoy.config.core.v3.BuildVersion: "1.40.0".
func buildVersion(b []byte) string {
	var parts [4]uint64
	_ = eachBytes(b, func(number protowire.Number, v []byte) error {
		for number == 1 && len(v) > 0 {
			field, typ, n := protowire.ConsumeTag(v)
			if n < 0 || typ != protowire.VarintType {
				break
			}
			value, m := protowire.ConsumeVarint(v[n:])
			if m < 0 {
				break
			}
			if int(field) < len(parts) {
				parts[field] = value
			}
			v = v[n+m:]
		}
		return nil
	})
	return fmt.Sprintf("%d.%d.%d", parts[1], parts[2], parts[3])
}

// Roots are those that its bootstrap pins, in short, as it says; nil: it does not say.
func (n *Node) Roots() []string {
	if n.metadata.roots == "" {
		return nil
	}
	return strings.Split(n.metadata.roots, ",")
}

// Profile returns what the configuration of the proxy depends on. Metadata
// that is missing or makes no sense leaves its field empty: the view says what
// it had to leave out.
func (n *Node) Profile() resource.Profile {
	m := &n.metadata
	p := resource.Profile{
		Service:      n.Cluster,
		Kind:         resource.KindOf(n.Agent),
		Address:      m.address,
		Region:       n.region,
		Zone:         m.zone,
		AppPort:      port(m.appPort),
		MeshPort:     port(m.meshPort),
		OutboundPort: port(m.outboundPort),
		MetricsPort:  port(m.metricsPort),
	}
	if _, err := netip.ParseAddr(p.Address); err != nil {
		p.Address = ""
	}
	if at, err := netip.ParseAddr(m.appAddress); err == nil && !at.IsUnspecified() && at.Zone() == "" {
		p.AppAddress = at.Unmap().String()
	}
	if p.Zone == "" {
		p.Zone = n.zone
	}
	return p
}

// port reads a port that is written as a number or as a string.
func port(s string) uint16 {
	p, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(p)
}
