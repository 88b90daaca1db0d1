package xds

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
)

// maxMetadata bounds the metadata of a node, in bytes: ours takes about 200.
const maxMetadata = 64 << 10

// node is what the server keeps of envoy.config.core.v3.Node.
type node struct {
	id, cluster   string
	agent         string // user_agent_name
	version       string // the user agent's
	zone          string // of the locality
	metadata      *structpb.Struct
	metadataBytes []byte
}

// parseNode reads the fields that the server uses. The metadata stays encoded
// until it is asked for: an Envoy that sends its node with every request sends
// the same one.
func parseNode(b []byte) (*node, error) {
	n := &node{}
	err := eachBytes(b, func(number protowire.Number, v []byte) error {
		switch number {
		case 1:
			n.id = string(v)
		case 2:
			n.cluster = string(v)
		case 3:
			if len(v) > maxMetadata {
				return fmt.Errorf("metadata of %d bytes, more than %d", len(v), maxMetadata)
			}
			n.metadataBytes = append([]byte(nil), v...)
		case 4:
			return eachBytes(v, func(number protowire.Number, v []byte) error {
				if number == 2 {
					n.zone = string(v)
				}
				return nil
			})
		case 6:
			n.agent = string(v)
		case 7:
			n.version = string(v)
		case 8:
			n.version = buildVersion(v)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	return n, nil
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

// grpcAgents begin the user agent of the xDS clients inside gRPC: "gRPC Go".
const grpcAgents = "gRPC "

// profile returns what the configuration of the proxy depends on. Metadata
// that is missing or makes no sense leaves its field empty: the view says what
// it had to leave out.
func (n *node) profile() (resource.Profile, error) {
	if n.metadataBytes != nil && n.metadata == nil {
		n.metadata = &structpb.Struct{}
		if err := proto.Unmarshal(n.metadataBytes, n.metadata); err != nil {
			return resource.Profile{}, fmt.Errorf("node metadata: %w", err)
		}
		n.metadataBytes = nil
	}
	p := resource.Profile{
		Service:      n.cluster,
		Address:      n.text("address"),
		Zone:         n.text("zone"),
		AppPort:      n.port("app_port"),
		MeshPort:     n.port("mesh_port"),
		OutboundPort: n.port("outbound_port"),
		MetricsPort:  n.port("metrics_port"),
	}
	if strings.HasPrefix(n.agent, grpcAgents) {
		p.Kind = resource.Proxyless
	}
	if _, err := netip.ParseAddr(p.Address); err != nil {
		p.Address = ""
	}
	if p.Zone == "" {
		p.Zone = n.zone
	}
	return p, nil
}

func (n *node) text(key string) string {
	return n.metadata.GetFields()[key].GetStringValue()
}

// port reads a port that is written as a number or as a string.
func (n *node) port(key string) uint16 {
	v := n.metadata.GetFields()[key]
	if s := v.GetStringValue(); s != "" {
		p, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return 0
		}
		return uint16(p)
	}
	f := v.GetNumberValue()
	if f < 0 || f > math.MaxUint16 || f != math.Trunc(f) {
		return 0
	}
	return uint16(f)
}
