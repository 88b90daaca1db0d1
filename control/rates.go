package control

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// sweepRates is how many keys are remembered before it is looked which may be
// forgotten.
const sweepRates = 1024

// rates bound how often each key may do something.
type rates struct {
	burst int
	every time.Duration

	mu      sync.Mutex
	keys    map[string]*rate.Limiter
	sweepAt int
}

func newRates(burst int, every time.Duration) *rates {
	return &rates{burst: burst, every: every, keys: make(map[string]*rate.Limiter), sweepAt: sweepRates}
}

// allow takes one from what the key has left. It is false if that is nothing.
func (r *rates) allow(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.keys[key]
	if l == nil {
		if len(r.keys) >= r.sweepAt {
			r.sweep(now)
		}
		l = rate.NewLimiter(rate.Every(r.every), r.burst)
		r.keys[key] = l
	}
	return l.AllowN(now, 1)
}

// left reports whether the key has any left, and takes none.
func (r *rates) left(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.keys[key]
	return l == nil || l.TokensAt(now) >= 1
}

// sweep forgets the keys that have all that they may have.
func (r *rates) sweep(now time.Time) {
	for key, l := range r.keys {
		if l.TokensAt(now) >= float64(r.burst) {
			delete(r.keys, key)
		}
	}
	r.sweepAt = max(sweepRates, 2*len(r.keys))
}
