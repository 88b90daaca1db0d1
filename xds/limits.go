package xds

import (
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What stands inside of a client's messages is bounded where it comes in, before
// anything is copied. A delta client that comes back names each resource with its
// version: 50,000 of them, in 5 MB, are what the bounds leave room for twice.
const (
	// maxNames and maxNameBytes bound the names that a stream has of all types,
	// and each list of names in a request.
	maxNames     = 100_000
	maxNameBytes = 8 << 20
	// maxReportedBytes bounds initial_resource_versions, names and versions.
	maxReportedBytes = 16 << 20
	// maxNodeNames and maxNodeNameBytes bound what all streams of one node have:
	// while a client comes back its last stream may still be there.
	maxNodeNames     = 2 * maxNames
	maxNodeNameBytes = 2 * maxNameBytes

	maxName    = 2048 // the longest name is a SPIFFE ID
	maxVersion = 256  // of a resource or a type, and a nonce: ours have at most 70
	maxTypeURL = 256

	maxNodeID   = 256     // as in a token
	maxCluster  = maxName // a segment of a SPIFFE ID
	maxZone     = 256
	maxMetadata = 64 << 10 // ours takes about 200
	maxAgent    = 128      // what is longer is cut

	// maxFailure is where the text of an error is cut. Envoy sends no more.
	maxFailure = 4096

	// maxUnansweredChanges bounds what is remembered of responses that a client
	// has not answered, beside their number.
	maxUnansweredChanges = 2 * maxNames
	// maxNackResources is how many names of a rejected response are kept.
	maxNackResources = 100
)

// errTooMuch is why a request over one of the bounds is refused.
var errTooMuch = errors.New("too much")

func tooMuch(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errTooMuch, fmt.Sprintf(format, args...))
}

// bounded returns a field of a request as a string, if it is not too long.
func bounded(field string, v []byte, limit int) (string, error) {
	if len(v) > limit {
		return "", tooMuch("%s of %d bytes, more than %d", field, len(v), limit)
	}
	return string(v), nil
}

// nameCount is how many names there are, and of how many bytes.
type nameCount struct{ names, bytes int }

// add counts a name of a request, and refuses what no client needs.
func (c *nameCount) add(name []byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	c.names++
	c.bytes += len(name)
	return c.within(maxNames, maxNameBytes)
}

func checkName(name []byte) error {
	switch {
	case len(name) == 0:
		return errors.New("an empty name")
	case len(name) > maxName:
		return tooMuch("a name of %d bytes, more than %d", len(name), maxName)
	}
	return nil
}

func (c nameCount) within(names, bytes int) error {
	if c.names > names {
		return tooMuch("more than %d names", names)
	}
	if c.bytes > bytes {
		return tooMuch("names of more than %d bytes", bytes)
	}
	return nil
}

// budget counts the names that the streams of each node have.
type budget struct {
	mu    sync.Mutex
	nodes map[string]nameCount
}

func newBudget() *budget { return &budget{nodes: make(map[string]nameCount)} }

// move replaces what a stream of the node has counted for, and refuses what is
// too much for the node. It counts then all the same: the stream is to leave.
func (b *budget) move(node string, from, to nameCount) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.nodes[node]
	c.names += to.names - from.names
	c.bytes += to.bytes - from.bytes
	if c == (nameCount{}) {
		delete(b.nodes, node)
		return nil
	}
	b.nodes[node] = c
	return c.within(maxNodeNames, maxNodeNameBytes)
}

// count notes how many names the stream has subscribed to, and refuses what is
// too much for it or for its node.
func (s *stream) count() error {
	var now nameCount
	for t := range s.types {
		if set := s.types[t].sub.names; set != nil {
			now.names += len(set.names)
			now.bytes += set.bytes
		}
	}
	if now == s.counted {
		return nil
	}
	last := s.counted
	s.counted = now
	err := s.server.budget.move(s.node.id, last, now)
	if e := now.within(maxNames, maxNameBytes); e != nil {
		err = e
	} else if err != nil {
		err = fmt.Errorf("with the other streams of the node %w", err)
	}
	if err != nil {
		s.server.metrics.refused.WithLabelValues("limit").Inc()
		return status.Errorf(codes.ResourceExhausted, "the subscription is %v", err)
	}
	return nil
}
