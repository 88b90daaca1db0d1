package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"hash/maphash"
	"strings"
)

// Checks are compared as sums of hashes: two sets of checks are the same if
// their sums are, in whatever order they came. What is hashed of a check is what
// matters to an instance: where it is, which one it is, and its status. Its
// output is not.

// instanceKey tells instances of a datacenter apart, as Consul does: by the
// node and the ID, whatever their case. It is a hash of both; without an ID it is
// the node's itself.
type instanceKey uint64

func keyOf(seed maphash.Seed, node, id string) instanceKey {
	return instanceKey(maphash.Comparable(seed, [2]string{strings.ToLower(node), strings.ToLower(id)}))
}

// checkHash is a check's part of a sum.
func checkHash(seed maphash.Seed, node, id, status string) uint64 {
	return maphash.Comparable(seed, [3]string{strings.ToLower(node), id, status})
}

// sums are of a set of checks.
type sums struct {
	failing uint64 // of those that do not pass
	all     uint64
}

func (s *sums) add(hash uint64, status string) {
	s.all += hash
	if status != passing {
		s.failing += hash
	}
}

const passing = "passing"

// seenChecks is what an answer about a service says of its checks.
type seenChecks struct {
	sums
	instances map[instanceKey]struct{}
	nodes     map[instanceKey]struct{} // they run on
}

// checksOf reads the checks of a service's entries: each entry has those of its
// node too.
func checksOf(seed maphash.Seed, entries []entry) seenChecks {
	type id struct {
		node  instanceKey
		check string
	}
	seen := seenChecks{instances: make(map[instanceKey]struct{}, len(entries)), nodes: make(map[instanceKey]struct{}, len(entries))}
	counted := make(map[id]struct{}, 2*len(entries))
	for i := range entries {
		e := &entries[i]
		node := keyOf(seed, e.Node.Node, "")
		seen.instances[keyOf(seed, e.Node.Node, e.Service.ID)] = struct{}{}
		seen.nodes[node] = struct{}{}
		for _, c := range e.Checks {
			of := id{node, c.CheckID}
			if _, twice := counted[of]; twice {
				continue
			}
			counted[of] = struct{}{}
			seen.add(checkHash(seed, e.Node.Node, c.CheckID, c.Status), c.Status)
		}
	}
	return seen
}

// checks are those of an answer of /v1/health/state/any.
type checks struct {
	index uint64
	of    map[instanceKey]uint64 // sums, by instance, or by node for its own
	named map[string][]instanceKey
}

// want is what the checks amount to for a service that has been seen with some
// instances. One of an instance that no service is known to have counts for the
// service that the check names.
func (c *checks) want(name string, seen *seenChecks, known func(instanceKey) bool) (sum uint64) {
	if len(c.of) == 0 {
		return 0
	}
	for _, set := range []map[instanceKey]struct{}{seen.instances, seen.nodes} {
		for key := range set {
			sum += c.of[key]
		}
	}
	for _, key := range c.named[strings.ToLower(name)] {
		if !known(key) {
			sum += c.of[key]
		}
	}
	return sum
}

// checkReader reads answers of /v1/health/state/any. Nearly all of one is as in
// the one before, byte for byte: only what differs is decoded.
type checkReader struct {
	seed maphash.Seed
	last map[uint64]element // by the hash of its bytes
}

// element is what one check in an answer says.
type element struct {
	key  instanceKey
	name string // of the service, in lower case; "": it is the node's
	hash uint64
}

func newCheckReader(seed maphash.Seed) *checkReader { return &checkReader{seed: seed} }

// errNotChecks is an answer that is not a list of checks.
var errNotChecks = errors.New("the answer is not the list of checks that Consul writes")

// read reads the body of an answer.
func (r *checkReader) read(body []byte, index uint64) (*checks, error) {
	now := make(map[uint64]element, len(r.last))
	c := &checks{index: index, of: make(map[instanceKey]uint64, len(r.last)), named: make(map[string][]instanceKey)}
	err := elements(body, func(raw []byte) error {
		id := maphash.Bytes(r.seed, raw)
		e, ok := r.last[id]
		if !ok {
			var v struct{ Node, CheckID, Status, ServiceID, ServiceName string }
			if err := json.Unmarshal(raw, &v); err != nil {
				return errNotChecks
			}
			e = element{keyOf(r.seed, v.Node, v.ServiceID), strings.ToLower(v.ServiceName), checkHash(r.seed, v.Node, v.CheckID, v.Status)}
		}
		now[id] = e
		if _, ok := c.of[e.key]; !ok && e.name != "" {
			c.named[e.name] = append(c.named[e.name], e.key)
		}
		c.of[e.key] += e.hash
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.last = now
	return c, nil
}

// elements calls f with each object of a JSON list of them. It looks no further
// than it needs to find where each ends: that each is JSON is seen where it is
// decoded.
func elements(list []byte, f func([]byte) error) error {
	list = bytes.TrimSpace(list)
	if len(list) < 2 || list[0] != '[' || list[len(list)-1] != ']' {
		return errNotChecks
	}
	list = list[1 : len(list)-1]
	depth, start := 0, 0
	for i := 0; i < len(list); i++ {
		switch c := list[i]; c {
		case '{', '[':
			if depth == 0 {
				start = i
			}
			depth++
		case '}', ']':
			depth--
			if depth < 0 {
				return errNotChecks
			}
			if depth > 0 {
				continue
			}
			if err := f(list[start : i+1]); err != nil {
				return err
			}
		case '"':
			end := closingQuote(list[i+1:])
			if end < 0 || depth == 0 {
				return errNotChecks
			}
			i += 1 + end
		case ',', ' ', '\n', '\t', '\r':
		default:
			if depth == 0 {
				return errNotChecks
			}
		}
	}
	if depth != 0 {
		return errNotChecks
	}
	return nil
}

// closingQuote returns where a string ends that has begun, or -1.
func closingQuote(text []byte) int {
	for from := 0; ; {
		at := bytes.IndexByte(text[from:], '"')
		if at < 0 {
			return -1
		}
		at += from
		escapes := 0
		for escapes < at-from && text[at-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return at
		}
		from = at + 1
	}
}
