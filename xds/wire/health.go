package wire

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// HealthStatus is envoy.config.core.v3.HealthStatus.
type HealthStatus uint64

// Those of them that an Envoy reports of a check.
const (
	HealthUnknown   HealthStatus = 0
	HealthHealthy   HealthStatus = 1
	HealthUnhealthy HealthStatus = 2
	HealthTimeout   HealthStatus = 4
)

// maxHealthMessage bounds a message of an HDS stream: a node has 61 KB, a report of
// one endpoint less than 200 bytes.
const maxHealthMessage = 256 << 10

// HealthMessage is what the server reads of a
// HealthCheckRequestOrEndpointHealthResponse. It asks for one endpoint to be checked,
// so the first that is reported is the one.
type HealthMessage struct {
	Malformed error // why it can not be read: the rest means nothing

	Node       *Node // of a request; nil: it is a report
	Reported   bool  // there is an endpoint in it
	Status     HealthStatus
	HTTPStatus int // of the last answer; 0: none, or not told
}

func (m *HealthMessage) unmarshal(b []byte) error {
	if len(b) > maxHealthMessage {
		return tooMuch("a message of %d bytes, more than %d", len(b), maxHealthMessage)
	}
	return eachBytes(b, func(number protowire.Number, v []byte) error {
		switch number {
		case 1: // health_check_request
			return eachBytes(v, func(number protowire.Number, v []byte) (err error) {
				if number == 1 {
					m.Node, err = parseNode(v)
				}
				return err
			})
		case 2: // endpoint_health_response
			return m.readReport(v)
		}
		return nil
	})
}

// readReport finds the first endpoint, by cluster and locality.
func (m *HealthMessage) readReport(v []byte) error {
	return eachBytes(v, func(number protowire.Number, cluster []byte) error {
		if number != 2 { // cluster_endpoints_health
			return nil
		}
		return eachBytes(cluster, func(number protowire.Number, locality []byte) error {
			if number != 2 { // locality_endpoints_health
				return nil
			}
			return eachBytes(locality, func(number protowire.Number, endpoint []byte) error {
				if number != 2 || m.Reported { // endpoints_health
					return nil
				}
				return m.readEndpoint(endpoint)
			})
		})
	})
}

func (m *HealthMessage) readEndpoint(b []byte) error {
	m.Reported = true
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case number == 2 && typ == protowire.VarintType:
			var status uint64
			if status, n = protowire.ConsumeVarint(b); n >= 0 {
				m.Status = HealthStatus(status)
			}
		case number == 3 && typ == protowire.BytesType:
			var metadata []byte
			if metadata, n = protowire.ConsumeBytes(b); n >= 0 {
				if err := eachBytes(metadata, m.readMetadata); err != nil {
					return fmt.Errorf("health_metadata: %w", err)
				}
			}
		default:
			n = protowire.ConsumeFieldValue(number, typ, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil
}

// readMetadata reads an entry of a google.protobuf.Struct.
func (m *HealthMessage) readMetadata(number protowire.Number, entry []byte) error {
	if number != 1 {
		return nil
	}
	var key, text string
	if err := eachBytes(entry, func(number protowire.Number, v []byte) (err error) {
		switch number {
		case 1:
			key, err = bounded("a key", v, maxMetaKey)
		case 2:
			err = readScalar(v, &text)
		}
		return err
	}); err != nil {
		return err
	}
	if key == "http_status_code" {
		m.HTTPStatus, _ = strconv.Atoi(text)
	}
	return nil
}
