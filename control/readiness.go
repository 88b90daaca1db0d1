package control

import (
	"fmt"
	"strings"
)

// Readiness is whether the control plane serves configuration.
type Readiness struct {
	Ready   bool
	Waiting []string // what it waits for, while not ready
	Holding []string // where it serves the last good state instead of the newest
	// Problems are what keeps proxies from being served, though all is well here.
	Problems []string
}

// Readiness is not ready until the first snapshot: before that every answer to an
// Envoy would be a deletion. What is held afterwards does not make it false.
func (p *Plane) Readiness() Readiness {
	status := p.catalogs.Status()
	loop := p.loop.Status()
	r := Readiness{Ready: loop.Snapshot != nil, Holding: status.Held}
	if loop.Failure != nil && r.Ready {
		r.Holding = append(r.Holding, loop.Failure.String())
	}
	if why := p.catalogs.TooOld(); why != "" && r.Ready {
		r.Ready, r.Waiting = false, []string{why}
	}
	if why := p.catalogs.NotKept(); why != "" {
		r.Holding = append(r.Holding, "the catalog in force is not kept for a restart: "+why)
	}
	if !r.Ready {
		r.Waiting = append(r.Waiting, status.Waiting...)
		if loop.Failure != nil {
			r.Waiting = append(r.Waiting, "the first snapshot: "+loop.Failure.Cause)
		}
		if len(r.Waiting) == 0 {
			r.Waiting = []string{"the first snapshot"}
		}
	} else if len(status.Waiting) > 0 {
		for _, w := range status.Waiting {
			r.Holding = append(r.Holding, "the last good catalog: "+w)
		}
	}
	for _, q := range p.xds.Quarantines() {
		r.Holding = append(r.Holding, fmt.Sprintf("the last acknowledged %s (%s), for %d proxies refused the new one: %s",
			q.Name, q.Source, p.Quorum, shorten(q.Message)))
	}
	r.Holding = append(r.Holding, p.meshHolding()...)
	holding, problems := p.registrations.report()
	r.Holding, r.Problems = append(r.Holding, holding...), append(r.Problems, problems...)
	for _, c := range p.xds.Contests() {
		r.Problems = append(r.Problems, c.String())
	}
	return r
}

// meshHolding says where the mesh file in force is not the newest.
func (p *Plane) meshHolding() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var holding []string
	if p.keptAt != "" {
		holding = append(holding, "the mesh file kept in "+p.keptAt+", since the start")
	}
	if p.rejected != nil {
		holding = append(holding, "the last good mesh file: "+p.rejected.Error())
	}
	if p.hold != nil {
		holding = append(holding, fmt.Sprintf("the last mesh file, not revision %s: %s: %s", p.hold.Revision, p.hold, p.hold.Ends()))
	}
	if p.keepErr != nil {
		holding = append(holding, "the mesh file in force is not kept for a restart: "+p.keepErr.Error())
	}
	return holding
}

// maxReason is how much of a proxy's message /readyz has; the log has the rest.
const maxReason = 200

func shorten(message string) string {
	if len(message) <= maxReason {
		return message
	}
	return strings.ToValidUTF8(message[:maxReason], "") + " ..."
}
