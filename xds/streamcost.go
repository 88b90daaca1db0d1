package xds

import (
	"runtime"
	"time"

	"golang.org/x/time/rate"
)

const (
	// costWindow is over how long the cost of streams is measured, if at least
	// costStreams begin in it; more is no storm.
	costWindow  = 250 * time.Millisecond
	costStreams = 20
	// beginningShare is what of all cores streams that begin may take: the rest is
	// for the fleet that is there, and for what changes meanwhile.
	beginningShare = 0.8
	// leastRate is let in a second, whatever it costs.
	leastRate = 100
)

// streamCost sets how many streams may begin a second by what those before them cost:
// the handshake, the token, the certificate, the first responses. It differs by a
// hundred times between a small mesh and a large one.
type streamCost struct {
	limiter *rate.Limiter
	most    rate.Limit
	used    func() time.Duration // CPU of this process; nil: not measured

	since time.Time
	cpu   time.Duration
	begun int
	each  time.Duration // what one costs, smoothed; 0: not known
}

// began is told of each stream that begins.
func (c *streamCost) began() {
	if c.used == nil {
		return
	}
	c.begun++
	now := time.Now()
	window := now.Sub(c.since)
	if window < costWindow {
		return
	}
	cpu := c.used()
	switch {
	case window > 10*costWindow: // the first after a while: what was used was for others
		c.each = 0
		c.limiter.SetLimit(c.most)
	case c.begun >= costStreams:
		each := (cpu - c.cpu) / time.Duration(c.begun)
		if c.each > 0 {
			each = (3*c.each + each) / 4
		}
		if c.each = each; each > 0 {
			cores := float64(runtime.GOMAXPROCS(0))
			c.limiter.SetLimit(min(max(rate.Limit(beginningShare*cores/each.Seconds()), leastRate), c.most))
		}
	}
	c.since, c.cpu, c.begun = now, cpu, 0
}
