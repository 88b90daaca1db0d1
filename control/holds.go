package control

import (
	"fmt"
	"time"
)

// holdReason is why something is served as it was last and not as it is now: the label
// of a metric, so there are these and no others.
type holdReason string

const (
	heldCatalog       holdReason = "catalog"         // its source cannot be read, or not believed
	heldRecalled      holdReason = "recalled"        // its source has said nothing since the start
	heldRemovals      holdReason = "removals"        // of instances, that are doubted
	heldMeshRejected  holdReason = "mesh_rejected"   // the newest mesh file has errors
	heldMeshHeld      holdReason = "mesh_held"       // it opens or removes much, or may be half written
	heldMeshKept      holdReason = "mesh_kept"       // that on disk was bad at the start
	heldMeshPinned    holdReason = "mesh_pinned"     // an operator has pinned another revision
	heldMeshWaves     holdReason = "mesh_waves"      // only some proxies have the newest mesh file yet
	heldMeshTakenBack holdReason = "mesh_taken_back" // a proxy that had it first refused it, or is gone
	heldSnapshot      holdReason = "snapshot"        // an input panics
	heldBudget        holdReason = "budget"          // what is made of an input has grown too much
	heldResources     holdReason = "resources"       // that fail a check of ours
	heldQuarantine    holdReason = "quarantine"      // contents that several proxies refused
	heldKeeping       holdReason = "keeping"         // what is kept for a restart is not the newest
	heldRoots         holdReason = "roots"           // those of the data directory cannot be followed
	heldRegistrations holdReason = "registrations"   // they cannot be written, or not believed to be gone
	heldReplicas      holdReason = "replicas"        // what they share, since they are not in touch
)

var holdReasons = [...]holdReason{
	heldCatalog, heldRecalled, heldRemovals, heldMeshRejected, heldMeshHeld, heldMeshKept, heldMeshPinned, heldMeshWaves, heldMeshTakenBack,
	heldSnapshot, heldBudget, heldResources, heldQuarantine, heldKeeping, heldRoots, heldRegistrations, heldReplicas,
}

// hold is something that is served as it was last.
type hold struct {
	reason holdReason
	text   string // for people
}

// holds are what /readyz and a metric have of what is served as it was last. Before the
// first snapshot nothing is served, and nothing of its input is held.
func (p *Plane) holds() (holds []hold, problems []string) {
	add := func(reason holdReason, format string, args ...any) {
		holds = append(holds, hold{reason, fmt.Sprintf(format, args...)})
	}
	source, loop := p.catalogs.Status(), p.loop.Status()
	for _, removal := range source.Held {
		add(heldRemovals, "%s", removal)
	}
	if loop.Snapshot != nil {
		if loop.Failure != nil {
			add(heldSnapshot, "%s", loop.Failure)
		}
		if w := loop.Waves; w != nil && w.Why != "" {
			add(heldMeshTakenBack, "%s", w)
		} else if w != nil {
			add(heldMeshWaves, "%s", w)
		}
		if loop.Excess != nil {
			add(heldBudget, "%s", loop.Excess)
		}
		reason := heldCatalog
		if p.catalogs.Recalled() > 0 {
			reason = heldRecalled
		}
		for _, waiting := range source.Waiting {
			add(reason, "the last good catalog: %s", waiting)
		}
		if n := len(loop.Snapshot.Held); n > 0 {
			first := loop.Snapshot.Held[0]
			add(heldResources, "%d resources that fail a check, as they were last; the first: %s (%s)", n, first.Name, shorten(first.Cause))
		}
	}
	if why := p.catalogs.NotKept(); why != "" {
		add(heldKeeping, "the catalog in force is not kept for a restart: %s", why)
	}
	if _, err := p.refusals.failures(); err != nil {
		add(heldKeeping, "what proxies refused is not kept for a restart: %v", err)
	}
	for _, q := range p.xds.Quarantines() {
		add(heldQuarantine, "the last acknowledged %s (%s), for %d proxies refused the new one: %s", q.Name, q.Source, p.Quorum, shorten(q.Message))
	}
	holds = append(holds, p.meshHolds()...)
	held, trouble := p.rootsReport()
	for _, what := range held {
		add(heldRoots, "%s", what)
	}
	problems = append(problems, trouble...)
	held, trouble = p.registrations.report()
	for _, what := range held {
		add(heldRegistrations, "%s", what)
	}
	problems = append(problems, trouble...)
	held, trouble = p.replicaReport()
	for _, what := range held {
		add(heldReplicas, "%s", what)
	}
	return holds, append(problems, trouble...)
}

// meshHolds says where the mesh file in force is not the newest.
func (p *Plane) meshHolds() (holds []hold) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pin != nil {
		holds = append(holds, hold{heldMeshPinned, fmt.Sprintf("revision %s of the mesh file, which %s has pinned %s at %s, until controlplane history release",
			p.pin.Revision, p.pin.By, p.pin.forWhom(), p.pin.Since.Format(time.RFC3339))})
	}
	switch {
	case p.pinFailed == nil:
	case p.pinFailed.holds:
		holds = append(holds, hold{heldMeshPinned, "the last good mesh file, until controlplane history release: " + p.pinFailed.String()})
	default:
		holds = append(holds, hold{heldMeshPinned, "the mesh file, though another is pinned, since the start: " + p.pinFailed.String()})
	}
	if p.keptAt != "" {
		holds = append(holds, hold{heldMeshKept, "the mesh file kept in " + p.keptAt + ", since the start"})
	}
	if p.rejected != nil {
		holds = append(holds, hold{heldMeshRejected, "the last good mesh file: " + p.rejected.Error()})
	}
	if p.hold != nil {
		holds = append(holds, hold{heldMeshHeld, fmt.Sprintf("the last mesh file, not revision %s: %s: %s", p.hold.Revision, p.hold, p.hold.Ends())})
	}
	if p.keepErr != nil {
		holds = append(holds, hold{heldKeeping, "the mesh file in force is not kept for a restart: " + p.keepErr.Error()})
	}
	return holds
}
