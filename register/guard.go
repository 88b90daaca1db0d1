package register

import (
	"fmt"
	"time"
)

// A replica whose network is gone finds every proxy dead. So a removal is only
// believed at once where the proxy's own host has said that nobody listens, or
// where it is one of few; what is silent, and much at a time, stays.

const (
	guardService = 0.5  // of a service's instances
	guardMesh    = 0.15 // of all
	guardWindow  = time.Minute
	// guardLeast is how many must have gone before their share of all means anything.
	guardLeast = 3
	// guardTime is after how long so many that are silent are believed to be dead, by
	// a replica that is in touch with more than those.
	guardTime = 5 * time.Minute
)

// guard remembers what was removed lately.
type guard struct {
	log  []removal
	last *census // nil: none was made
}

type removal struct {
	at      time.Time
	node    string
	service string
}

func (g *guard) removed(r *record, now time.Time) {
	g.expire(now)
	g.log = append(g.log, removal{now, r.node, r.want.service})
}

func (g *guard) expire(now time.Time) {
	for len(g.log) > 0 && now.Sub(g.log[0].at) >= guardWindow {
		g.log = g.log[1:]
	}
}

// census is who is there and who is not, at one time.
type census struct {
	at                time.Time
	gone, all         int
	goneOf, allOf     map[string]int // by service
	inTouch, isSilent int
}

// censusFor is how long one holds: a thousand may have to be judged at once, and
// all that are lost are counted from the first.
const censusFor = 200 * time.Millisecond

func (m *machine) census(now time.Time) *census {
	if m.guard.last != nil && now.Sub(m.guard.last.at) < censusFor {
		return m.guard.last
	}
	m.guard.expire(now)
	c := &census{at: now, goneOf: make(map[string]int), allOf: make(map[string]int)}
	m.guard.last = c
	there := make(map[string]string, len(m.stored)) // node to service
	for node, have := range m.stored {
		if have.index > 0 {
			there[node] = have.service
		}
	}
	gone := make(map[string]string)
	for _, was := range m.guard.log {
		gone[was.node], there[was.node] = was.service, was.service
	}
	for _, r := range m.records {
		switch {
		case r.connected:
			c.inTouch++
		case r.state == Lost && !r.leaving && r.refusals < lostDials:
			gone[r.node] = r.want.service
			c.isSilent++
		}
	}
	for _, service := range there {
		c.all++
		c.allOf[service]++
	}
	for _, service := range gone {
		c.gone++
		c.goneOf[service]++
	}
	return c
}

// suspicion says why it is not believed yet that a proxy is dead whose port does not
// answer; empty: it is.
func (m *machine) suspicion(r *record, now time.Time) string {
	if r.refusals >= lostDials {
		return ""
	}
	c, service := m.census(now), r.want.service
	var why string
	switch {
	case c.goneOf[service] >= 2 && float64(c.goneOf[service]) > guardService*float64(c.allOf[service]):
		why = fmt.Sprintf("its removal is held: %d of the %d instances of %s do not answer", c.goneOf[service], c.allOf[service], service)
	case c.gone >= guardLeast && float64(c.gone) > guardMesh*float64(c.all):
		why = fmt.Sprintf("its removal is held: %d of %d instances of the mesh do not answer", c.gone, c.all)
	default:
		return ""
	}
	if !r.heldAt.IsZero() && now.Sub(r.heldAt) >= guardTime && c.inTouch > c.isSilent {
		return ""
	}
	return why
}
