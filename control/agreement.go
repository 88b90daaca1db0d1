package control

import (
	"sync"
	"time"

	"datapunk.dev/controlplane/replica"
)

// agreedWithin is how far apart in time two replicas may serve the same: each is told
// of a change by itself, and tells the others once a second.
const agreedWithin = 10 * time.Second

// agreement is since when each of the others serves something that this replica does
// not. While the catalog changes all the time two of them hardly ever serve the same
// at one moment: what counts is whether they have done so lately.
type agreement struct {
	mu     sync.Mutex
	mine   served
	others map[string]*other
}

type other struct {
	served
	agreed time.Time // when it last was one with this one
}

// served is what a replica has served of late: each state, and when it last did.
type served map[string]time.Time

func (s served) add(state string, now time.Time) {
	for old, at := range s {
		if now.Sub(at) > agreedWithin {
			delete(s, old)
		}
	}
	s[state] = now
}

func newAgreement() *agreement {
	return &agreement{mine: make(served), others: make(map[string]*other)}
}

// stateOf is what is compared of two replicas.
func stateOf(mesh, catalog string) string { return mesh + " " + catalog }

// observe is told what this replica serves.
func (a *agreement) observe(state string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mine.add(state, now)
}

// compare returns for how long each of the others has not agreed with this one.
func (a *agreement) compare(v *replica.View, now time.Time) map[string]time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	apart := make(map[string]time.Duration)
	for _, m := range v.Others() {
		o := a.others[m.Name]
		if o == nil {
			o = &other{served: make(served), agreed: now}
			a.others[m.Name] = o
		}
		o.add(stateOf(m.Mesh, m.Catalog), now)
		for state := range o.served {
			if at, ok := a.mine[state]; ok && now.Sub(at) <= agreedWithin {
				o.agreed = now
			}
		}
		apart[m.Name] = now.Sub(o.agreed)
	}
	for name := range a.others {
		if _, there := apart[name]; !there {
			delete(a.others, name)
		}
	}
	return apart
}
