package control

import (
	"strings"
)

// Readiness is whether the control plane serves configuration.
type Readiness struct {
	Ready   bool
	Waiting []string // what it waits for, while not ready
	Holding []string // where it serves the last good state instead of the newest
	// Problems are what keeps proxies from being served, though all is well here.
	Problems []string
	// Leader is whether this replica does what must happen once.
	Leader bool
}

// Readiness is not ready until the first snapshot: before that every answer to an
// Envoy would be a deletion. What is held afterwards does not make it false.
func (p *Plane) Readiness() Readiness {
	loop := p.loop.Status()
	r := Readiness{Ready: loop.Snapshot != nil, Leader: p.leads()}
	if why := p.catalogs.TooOld(); why != "" && r.Ready {
		r.Ready, r.Waiting = false, []string{why}
	}
	if !r.Ready {
		r.Waiting = append(r.Waiting, p.catalogs.Status().Waiting...)
		if loop.Failure != nil {
			r.Waiting = append(r.Waiting, "the first snapshot: "+loop.Failure.Cause)
		}
		if len(r.Waiting) == 0 {
			r.Waiting = []string{"the first snapshot"}
		}
	}
	holds, problems := p.holds()
	for _, h := range holds {
		if r.Ready || h.reason != heldCatalog && h.reason != heldRecalled { // else it is waited for
			r.Holding = append(r.Holding, h.text)
		}
	}
	r.Problems = problems
	for _, c := range p.xds.Contests() {
		r.Problems = append(r.Problems, c.String())
	}
	return r
}

// maxReason is how much of a proxy's message /readyz has; the log has the rest.
const maxReason = 200

func shorten(message string) string {
	if len(message) <= maxReason {
		return message
	}
	return strings.ToValidUTF8(message[:maxReason], "") + " ..."
}
