package xds

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"

	"datapunk.dev/controlplane/xds/wire"
)

// What a client may have the server remember is bounded. The bounds of one message
// are in package wire.
const (
	// maxNodeNames and maxNodeNameBytes bound the names of all streams of one node:
	// while a client comes back its last stream may still be there.
	maxNodeNames     = 2 * wire.MaxNames
	maxNodeNameBytes = 2 * wire.MaxNameBytes

	// maxUnansweredChanges bounds what is remembered of responses that a client
	// has not answered, beside their number.
	maxUnansweredChanges = 2 * wire.MaxNames
	// maxNackResources is how many names of a rejected response are kept.
	maxNackResources = 100
)

// budget counts the names that the streams of each node have.
type budget struct {
	mu    sync.Mutex
	nodes map[string]wire.Count
}

func newBudget() *budget { return &budget{nodes: make(map[string]wire.Count)} }

// move replaces what a stream of the node has counted for, and refuses what is
// too much for the node. It counts then all the same: the stream is to leave.
func (b *budget) move(node string, from, to wire.Count) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.nodes[node]
	c.Names += to.Names - from.Names
	c.Bytes += to.Bytes - from.Bytes
	if c == (wire.Count{}) {
		delete(b.nodes, node)
		return nil
	}
	b.nodes[node] = c
	return c.Within(maxNodeNames, maxNodeNameBytes)
}

// count notes how many names the stream has subscribed to, and refuses what is
// too much for it or for its node.
func (s *stream) count() error {
	var now wire.Count
	for t := range s.types {
		if set := s.types[t].sub.names; set != nil {
			now.Names += len(set.Names)
			now.Bytes += set.Bytes
		}
	}
	if now == s.counted {
		return nil
	}
	last := s.counted
	s.counted = now
	err := s.server.budget.move(s.node.ID, last, now)
	if e := now.Within(wire.MaxNames, wire.MaxNameBytes); e != nil {
		err = e
	} else if err != nil {
		err = fmt.Errorf("%w, with the other streams of the node", err)
	}
	if err != nil {
		return s.server.refuse("limit", codes.ResourceExhausted, "the subscription is %v", err)
	}
	return nil
}
