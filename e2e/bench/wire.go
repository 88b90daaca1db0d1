package main

import "google.golang.org/protobuf/encoding/protowire"

// The streams read messages field by field: to decode each whole would cost
// more than the servers under test take to make it.

// fields calls f with each field of an encoded message: b is what a field with
// a length holds, n what a varint says. What is malformed ends it.
func fields(m []byte, f func(number protowire.Number, b []byte, n uint64)) {
	for len(m) > 0 {
		number, typ, size := protowire.ConsumeTag(m)
		if size < 0 {
			return
		}
		m = m[size:]
		var b []byte
		var n uint64
		switch typ {
		case protowire.BytesType:
			b, size = protowire.ConsumeBytes(m)
		case protowire.VarintType:
			n, size = protowire.ConsumeVarint(m)
		default:
			size = protowire.ConsumeFieldValue(number, typ, m)
		}
		if size < 0 {
			return
		}
		f(number, b, n)
		m = m[size:]
	}
}

// field returns the last field with the number that has a length.
func field(m []byte, number protowire.Number) (value []byte) {
	fields(m, func(num protowire.Number, b []byte, _ uint64) {
		if num == number && b != nil {
			value = b
		}
	})
	return value
}

// place is how often the first instance of a ClusterLoadAssignment has moved:
// the highest port says so. It is -1 without any instance.
func place(assignment []byte) int {
	highest := -1
	fields(assignment, func(num protowire.Number, locality []byte, _ uint64) {
		if num != 2 { // endpoints
			return
		}
		fields(locality, func(num protowire.Number, endpoint []byte, _ uint64) {
			if num != 2 { // lb_endpoints
				return
			}
			address := field(field(field(endpoint, 1), 1), 1) // endpoint, address, socket_address
			fields(address, func(num protowire.Number, _ []byte, n uint64) {
				if num == 3 { // port_value
					highest = max(highest, int(n)-firstPort)
				}
			})
		})
	})
	return highest
}
