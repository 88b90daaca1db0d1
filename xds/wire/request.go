package wire

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Protocol is one of the two variants of xDS.
type Protocol uint8

// The variants.
const (
	Delta Protocol = iota // incremental
	SotW                  // state of the world
)

// String returns the name that people see.
func (p Protocol) String() string {
	if p == SotW {
		return "sotw"
	}
	return "delta"
}

// Wildcard is the name that means every resource.
const Wildcard = "*"

// NewRequest returns a request to be decoded by a [Codec]. Lists of names that are
// in sets are taken from there; nil: none is.
func NewRequest(p Protocol, sets *NameSets) *Request { return &Request{protocol: p, sets: sets} }

// Request is what the server reads of a DiscoveryRequest or a
// DeltaDiscoveryRequest. Everything else is skipped: a node's list of
// extensions alone is 60 KB.
type Request struct {
	protocol Protocol
	sets     *NameSets // where lists of names are known from; may be nil

	Malformed error // why it can not be read: the rest means nothing

	Node    *Node
	TypeURL string
	Nonce   string
	Failure string // message of error_detail
	Nack    bool   // error_detail is set

	Names       []string // resource_names, resource_names_subscribe; without "*"
	Set         *NameSet // the names, if some stream has asked for the same
	All         bool     // "*" is one of the names
	Unsubscribe []string
	Initial     map[string]string // initial_resource_versions: name to version
	Version     string            // version_info, SotW only
}

// The fields of the two messages, by number.
const (
	fieldSkip = iota
	fieldVersion
	fieldNode
	fieldTypeURL
	fieldNames
	fieldUnsubscribe
	fieldInitial
	fieldNonce
	fieldError
)

var requestFields = [2][10]int{
	Delta: {
		1: fieldNode, 2: fieldTypeURL, 3: fieldNames, 4: fieldUnsubscribe, 5: fieldInitial, 6: fieldNonce, 7: fieldError,
	},
	SotW: {
		1: fieldVersion, 2: fieldNode, 3: fieldNames, 4: fieldTypeURL, 5: fieldNonce, 6: fieldError,
	},
}

// field returns what a field of the request's protocol is.
func (r *Request) field(n protowire.Number) int {
	if of := &requestFields[r.protocol]; int(n) < len(of) {
		return of[n]
	}
	return fieldSkip
}

func (r *Request) unmarshal(b []byte) error {
	var unsubscribe [][]byte
	var key NameKey
	var names, gone, reported Count
	err := eachBytes(b, func(number protowire.Number, v []byte) (err error) {
		switch r.field(number) {
		case fieldVersion:
			r.Version, err = bounded("version_info", v, maxVersion)
		case fieldTypeURL:
			r.TypeURL, err = bounded("type_url", v, maxTypeURL)
		case fieldNonce:
			r.Nonce, err = bounded("response_nonce", v, maxVersion)
		case fieldNames:
			if string(v) == Wildcard {
				r.All = true
				return nil
			}
			if err := names.add(v); err != nil {
				return err
			}
			if r.sets != nil {
				r.sets.hash(&key, v)
			} else {
				key.Count++
			}
		case fieldUnsubscribe:
			if string(v) == Wildcard {
				unsubscribe = append(unsubscribe, v)
				return nil
			}
			if err := gone.add(v); err != nil {
				return err
			}
			unsubscribe = append(unsubscribe, v)
		case fieldNode:
			if r.Node != nil {
				return errors.New("a second node")
			}
			r.Node, err = parseNode(v)
		case fieldError:
			r.Nack = true
			return eachBytes(v, func(number protowire.Number, v []byte) error {
				if number == 2 && r.Failure == "" {
					r.Failure = strings.ToValidUTF8(string(v[:min(len(v), maxFailure)]), "")
				}
				return nil
			})
		case fieldInitial:
			return countVersion(v, &reported)
		}
		return err
	})
	if err != nil {
		return err
	}
	r.Unsubscribe = toStrings(unsubscribe)
	if err := r.readVersions(b, reported.Names); err != nil {
		return err
	}
	return r.readNames(b, key)
}

// countVersion counts an entry of initial_resource_versions.
func countVersion(b []byte, count *Count) error {
	name, version, err := readVersion(b)
	if err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	if len(version) > maxVersion {
		return tooMuch("a version of %d bytes, more than %d", len(version), maxVersion)
	}
	count.Names++
	count.Bytes += len(name) + len(version)
	return count.Within(MaxNames, maxReportedBytes)
}

func readVersion(b []byte) (name, version []byte, err error) {
	err = eachBytes(b, func(number protowire.Number, v []byte) error {
		switch number {
		case 1:
			name = v
		case 2:
			version = v
		}
		return nil
	})
	return name, version, err
}

// readVersions reads initial_resource_versions, of so many entries.
func (r *Request) readVersions(b []byte, entries int) error {
	if entries == 0 {
		return nil
	}
	r.Initial = make(map[string]string, entries)
	return eachBytes(b, func(number protowire.Number, v []byte) error {
		if r.field(number) != fieldInitial {
			return nil
		}
		name, version, err := readVersion(v)
		r.Initial[string(name)] = string(version)
		return err
	})
}

// readNames reads the names of the message. A SotW client repeats them with
// every ACK, so a list that is known costs no strings.
func (r *Request) readNames(b []byte, key NameKey) error {
	if key.Count == 0 {
		return nil
	}
	if r.sets != nil {
		if r.Set = r.sets.known(key); r.Set != nil {
			r.Names = r.Set.Names
			return nil
		}
	}
	names := make([][]byte, 0, key.Count)
	err := eachBytes(b, func(number protowire.Number, v []byte) error {
		if r.field(number) == fieldNames && string(v) != Wildcard {
			names = append(names, v)
		}
		return nil
	})
	r.Names = toStrings(names)
	return err
}

// toStrings copies the names out of the buffer of the transport, into one
// string that all of them share.
func toStrings(names [][]byte) []string {
	if len(names) == 0 {
		return nil
	}
	size := 0
	for _, n := range names {
		size += len(n)
	}
	var all strings.Builder
	all.Grow(size)
	for _, n := range names {
		all.Write(n)
	}
	rest := all.String()
	out := make([]string, len(names))
	for i, n := range names {
		out[i], rest = rest[:len(n)], rest[len(n):]
	}
	return out
}

// eachBytes calls f with each length-delimited field of an encoded message and
// skips the others. The bytes are valid during the call only.
func eachBytes(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := f(number, v); err != nil {
			return fmt.Errorf("field %d: %w", number, err)
		}
	}
	return nil
}
