package xds

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// protocol is one of the two variants of xDS.
type protocol uint8

const (
	delta protocol = iota // incremental
	sotw                  // state of the world
)

func (p protocol) String() string {
	if p == sotw {
		return "sotw"
	}
	return "delta"
}

// request is what the server reads of a DiscoveryRequest or a
// DeltaDiscoveryRequest. Everything else is skipped: a node's list of
// extensions alone is 60 KB.
type request struct {
	protocol  protocol
	sets      *nameSets // where lists of names are known from; may be nil
	malformed error     // why it can not be read: the rest means nothing

	node    *node
	typeURL string
	nonce   string
	failure string // message of error_detail
	nack    bool   // error_detail is set

	names       []string // resource_names, resource_names_subscribe; without "*"
	set         *nameSet // the names, if some stream has asked for the same
	all         bool     // "*" is one of the names
	unsubscribe []string
	initial     map[string]string // initial_resource_versions: name to version
	version     string            // version_info, SotW only
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
	delta: {
		1: fieldNode, 2: fieldTypeURL, 3: fieldNames, 4: fieldUnsubscribe, 5: fieldInitial, 6: fieldNonce, 7: fieldError,
	},
	sotw: {
		1: fieldVersion, 2: fieldNode, 3: fieldNames, 4: fieldTypeURL, 5: fieldNonce, 6: fieldError,
	},
}

func (r *request) unmarshal(b []byte) error {
	var unsubscribe [][]byte
	var key nameKey
	var names, gone, reported nameCount
	fields := &requestFields[r.protocol]
	err := eachBytes(b, func(number protowire.Number, v []byte) (err error) {
		if int(number) >= len(fields) {
			return nil
		}
		switch fields[number] {
		case fieldVersion:
			r.version, err = bounded("version_info", v, maxVersion)
		case fieldTypeURL:
			r.typeURL, err = bounded("type_url", v, maxTypeURL)
		case fieldNonce:
			r.nonce, err = bounded("response_nonce", v, maxVersion)
		case fieldNames:
			if string(v) == wildcard {
				r.all = true
				return nil
			}
			if err := names.add(v); err != nil {
				return err
			}
			if r.sets != nil {
				r.sets.hash(&key, v)
			} else {
				key.count++
			}
		case fieldUnsubscribe:
			if string(v) == wildcard {
				unsubscribe = append(unsubscribe, v)
				return nil
			}
			if err := gone.add(v); err != nil {
				return err
			}
			unsubscribe = append(unsubscribe, v)
		case fieldNode:
			if r.node != nil {
				return errors.New("a second node")
			}
			r.node, err = parseNode(v)
		case fieldError:
			r.nack = true
			return eachBytes(v, func(number protowire.Number, v []byte) error {
				if number == 2 && r.failure == "" {
					r.failure = strings.ToValidUTF8(string(v[:min(len(v), maxFailure)]), "")
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
	r.unsubscribe = toStrings(unsubscribe)
	if err := r.readVersions(b, reported.names); err != nil {
		return err
	}
	return r.readNames(b, key)
}

// countVersion counts an entry of initial_resource_versions.
func countVersion(b []byte, count *nameCount) error {
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
	count.names++
	count.bytes += len(name) + len(version)
	return count.within(maxNames, maxReportedBytes)
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
func (r *request) readVersions(b []byte, entries int) error {
	if entries == 0 {
		return nil
	}
	r.initial = make(map[string]string, entries)
	fields := &requestFields[r.protocol]
	return eachBytes(b, func(number protowire.Number, v []byte) error {
		if int(number) >= len(fields) || fields[number] != fieldInitial {
			return nil
		}
		name, version, err := readVersion(v)
		r.initial[string(name)] = string(version)
		return err
	})
}

// readNames reads the names of the message. A SotW client repeats them with
// every ACK, so a list that is known costs no strings.
func (r *request) readNames(b []byte, key nameKey) error {
	if key.count == 0 {
		return nil
	}
	if r.sets != nil {
		if r.set = r.sets.known(key); r.set != nil {
			r.names = r.set.names
			return nil
		}
	}
	names := make([][]byte, 0, key.count)
	fields := &requestFields[r.protocol]
	err := eachBytes(b, func(number protowire.Number, v []byte) error {
		if int(number) < len(fields) && fields[number] == fieldNames && string(v) != wildcard {
			names = append(names, v)
		}
		return nil
	})
	r.names = toStrings(names)
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
