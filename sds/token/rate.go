package token

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A node renews its token once in half its life, which in tests is seconds, and
// again after a failure: a burst for restarts, then one a second. Each costs a
// signature and the check of one, 0.1 ms.
const (
	renewalBurst    = 8
	renewalInterval = time.Second
	// sweepNodes is how many nodes are remembered before it is looked which may
	// be forgotten.
	sweepNodes = 1024
)

// renewalRates bounds the renewals of each node.
type renewalRates struct {
	mu      sync.Mutex
	nodes   map[string]*rate.Limiter
	sweepAt int
}

func newRenewalRates() *renewalRates {
	return &renewalRates{nodes: make(map[string]*rate.Limiter), sweepAt: sweepNodes}
}

// allow reports whether a node may renew its token now.
func (r *renewalRates) allow(node string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.nodes[node]
	if l == nil {
		if len(r.nodes) >= r.sweepAt {
			r.sweep(now)
		}
		l = rate.NewLimiter(rate.Every(renewalInterval), renewalBurst)
		r.nodes[node] = l
	}
	return l.AllowN(now, 1)
}

// sweep forgets the nodes that have their whole burst again.
func (r *renewalRates) sweep(now time.Time) {
	for node, l := range r.nodes {
		if l.TokensAt(now) >= renewalBurst {
			delete(r.nodes, node)
		}
	}
	r.sweepAt = max(sweepNodes, 2*len(r.nodes))
}
