package control

import (
	"context"
	"math"
	"time"

	"datapunk.dev/controlplane/replica"
)

const (
	// shareSlack is how much more than its share a replica of a large fleet may have: that
	// streams come and go must not have others moved.
	shareSlack = 1.1
	// spreadEvery is how often a replica looks at its share, and one in movedShare of
	// its streams how many it moves at a time: all of an excess in about a minute, and
	// never so many that the others notice.
	spreadEvery = time.Second
	movedShare  = 60

	// drainStep is the time between two steps of a drain, and drainTime that of all of
	// them. A large fleet takes longer: another replica lets 1,000 streams a second
	// begin, and half of that is left for those that come anyway.
	drainStep    = 200 * time.Millisecond
	drainTime    = 4 * time.Second
	maxDrainTime = 20 * time.Second
	drainRate    = 500
)

// serving are the members that take streams.
func serving(v *replica.View) (all []replica.Member) {
	for _, m := range v.Members {
		if m.Catalog != "" && !m.Draining {
			all = append(all, m)
		}
	}
	return all
}

// excess is how many streams a replica has more than its share.
func excess(v *replica.View, mine int) int {
	if v.Trouble != "" {
		return 0 // what the others have is not known
	}
	all, total, here := serving(v), mine, false
	for _, m := range all {
		if m.Name == v.Self {
			here = true
			continue
		}
		total += m.Streams
	}
	if !here || len(all) < 2 {
		return 0
	}
	share := float64(total) / float64(len(all))
	return max(0, mine-int(max(math.Ceil(share), math.Floor(share*shareSlack))))
}

// spread sends proxies away while this replica has more than its share.
func (p *Plane) spread(ctx context.Context) {
	tick := time.NewTicker(spreadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		v, mine := p.replicas.View(), p.xds.Envoys()
		if v == nil || p.loop.Status().Waves.tried() { // a proxy that went would count as one that died of an edit
			continue
		}
		if n := min(excess(v, mine), max(1, mine/movedShare)); n > 0 {
			if moved := p.xds.Move(n); moved > 0 {
				p.ClientLog.Info("proxies are sent to other replicas, which have fewer", "streams", moved, "of", mine)
			}
		}
	}
}

// Drain ends the streams, so that the Envoys look for another control plane: step by
// step if there is one, so that it need not take all of them at once. It returns when
// they have been told.
func (p *Plane) Drain() {
	p.draining.Store(true)
	others := 0
	if p.replicas != nil {
		p.replicas.Changed()
		if v := p.replicas.View(); v != nil && v.Trouble == "" {
			for _, m := range serving(v) {
				if m.Name != v.Self {
					others++
				}
			}
		}
	}
	if others == 0 {
		p.xds.Drain()
		return
	}
	steps := drainSteps(p.xds.Envoys(), others)
	p.Log.Info("the proxies go to other replicas, step by step", "streams", p.xds.Envoys(), "replicas", others, "over", time.Duration(steps)*drainStep)
	p.xds.Close()
	tick := time.NewTicker(drainStep)
	defer tick.Stop()
	for ; steps > 1; steps-- {
		p.xds.End((p.xds.Envoys() + steps - 1) / steps)
		<-tick.C
	}
	p.xds.Drain() // what has not ended, and what is no Envoy's
}

// drainSteps is in how many steps so many streams go to so many replicas.
func drainSteps(streams, others int) int {
	needed := time.Duration(streams) * time.Second / time.Duration(drainRate*others)
	return max(1, min(streams, int(min(max(needed, drainTime), maxDrainTime)/drainStep)))
}
