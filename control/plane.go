package control

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/journal"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
	sidecarapi "datapunk.dev/controlplane/sidecar/api"
	"datapunk.dev/controlplane/xds"
)

// Plane is the running process but for its sockets: the rooms, and what each is
// told when the mesh file changes.
type Plane struct {
	Options

	loop     *Loop
	catalogs *Catalogs

	registrations *Registrations // between catalogs and leaving
	leaving       *leaving       // between registrations and loop
	xds           *xds.Server
	replicas      *Replicas  // nil: this one is alone
	pins          *sharedPin // nil: this one is alone
	agreement     *agreement // with the other replicas
	fleet         fleetView
	started       time.Time
	draining      atomic.Bool
	svids         *sds.Manager     // nil with plaintext xDS
	roots         *rootRotation    // nil with plaintext xDS
	tokens        *token.Authority // nil with plaintext xDS
	authority     policy.CA        // that was opened
	provers       map[sidecarapi.Kind]prover

	mesh   atomic.Pointer[policy.Mesh] // in force
	warned map[warning]bool            // of the file in force, so that the log has each once; only follow uses it

	revisions *Revisions // the mesh files that were in force
	refusals  *refusals  // what proxies refused; nil with plaintext xDS

	joined, joinsRefused atomic.Uint64 // machines

	waved chan struct{} // sent to when there is something else to see of Waves

	journal *journal.Journal
	edits   sync.Mutex // one mesh file comes into force at a time; taken before mu

	mu           sync.Mutex
	pin          *pin       // nil: what is in force is the mesh file, or pinFailed holds it
	pinFailed    *failedPin // what is pinned and is not in force; nil: nothing
	rejected     error      // why the newest mesh file is not in force; nil: it is
	rejectedAt   time.Time
	hold         *policy.Hold // what the newest mesh file waits for; nil: it does not
	keptAt       string       // where the mesh file in force is kept, if it is not that on disk
	keepErr      error        // why the mesh file in force is not kept
	keepErrors   uint64
	inForce      time.Time // since when the mesh file in force is
	reloads      uint64
	takenBack    uint64 // mesh files
	reloadErrors uint64
	unauthorized uint64

	removalsAccepted, removalsRefused uint64 // by people
}

// warning is one of a mesh file, wherever its line is.
type warning struct {
	code         policy.Code
	key, message string
}

func (p *Plane) trustDomain() string {
	if p.svids == nil {
		return ""
	}
	return p.svids.TrustDomain().Name()
}

// accept says whether this process can go on with a mesh file.
func (p *Plane) accept(m *policy.Mesh) error {
	if err := accept(m, p.trustDomain(), p.Plaintext); err != nil {
		return err
	}
	if p.svids == nil {
		return nil
	}
	if err := acceptCA(m, p.authority); err != nil {
		return err
	}
	return acceptRoot(m, p.svids.Roots())
}

// adopt puts a mesh file that changed into force, unless the running process
// cannot go on with it. Then all stays as it is. Since is from when on it is to be.
func (p *Plane) adopt(m *policy.Mesh, since time.Time) error {
	p.edits.Lock()
	defer p.edits.Unlock()
	if p.behind(m) {
		return nil
	}
	if err := p.put(m, since, p.loop.SetEdit); err != nil {
		p.reject(err)
		return err
	}
	p.tookEffect(m)
	return nil
}

// put has a mesh file served from a time on, whole or not at all: by set, which gives it
// to the loop. The caller holds edits.
func (p *Plane) put(m *policy.Mesh, since time.Time, set func(*policy.Mesh, time.Time)) error {
	if err := p.follow(m); err != nil {
		return err
	}
	last := p.mesh.Swap(m)
	set(m, since)
	if text := caution(last, m); text != "" {
		p.Log.Warn(text)
	}
	return nil
}

// follow tells the rooms of the mesh file in force, and people of what is worth
// knowing of it and was not said of the last one.
func (p *Plane) follow(m *policy.Mesh) error {
	if err := p.catalogs.Follow(m); err != nil {
		return err
	}
	if err := p.registrations.Follow(m); err != nil {
		return err
	}
	if p.replicas != nil {
		if err := p.replicas.Follow(m); err != nil {
			return err
		}
	}
	if p.svids != nil {
		// policy has checked them
		if err := p.svids.SetLifetimes(m.MTLS.CertRotation, m.MTLS.CertTTL); err != nil {
			return err
		}
	}
	last := p.warned
	p.warned = make(map[warning]bool, len(m.Warnings))
	for _, w := range m.Warnings {
		this := warning{w.Code, w.Key, w.Message}
		p.warned[this] = true
		if last[this] {
			continue
		}
		p.Log.Warn(w.Message, "source", w.Source.String(), "code", w.Code, "key", w.Key, "hint", w.Hint)
	}
	return nil
}

// reject keeps the mesh file in force and says why the new one is not.
func (p *Plane) reject(err error) {
	p.mu.Lock()
	p.rejected, p.rejectedAt, p.hold = err, time.Now(), nil
	p.reloadErrors++
	p.mu.Unlock()
	revision := p.mesh.Load().Revision
	p.journal.Add(api.Event{Kind: api.MeshRefused, Message: shorten(err.Error()), Source: firstSource(err)})
	var problems policy.Problems
	if errors.As(err, &problems) {
		for _, problem := range problems {
			p.Log.Error("mesh file refused: "+problem.Message, "source", problem.Source.String(), "code", problem.Code,
				"key", problem.Key, "hint", problem.Hint, "serving_revision", revision)
		}
		return
	}
	attrs := []any{"err", err, "serving_revision", revision}
	if stack := stackOf(err); stack != "" {
		attrs = append(attrs, "stack", stack)
	}
	p.Log.Error("mesh file refused: the last good one stays", attrs...)
}

// firstSource is the place of the first thing that is wrong with a mesh file.
func firstSource(err error) string {
	var problems policy.Problems
	if errors.As(err, &problems) && len(problems) > 0 {
		return problems[0].Source.String()
	}
	return ""
}

// refused counts a client without a valid token. An Envoy tries again every few
// seconds for as long as it lives.
func (p *Plane) refused(err error) {
	p.mu.Lock()
	p.unauthorized++
	p.mu.Unlock()
	p.ClientLog.Warn("an xDS client was refused", "err", err)
}

// insteadOfEdit is the mesh file that most proxies have while the newest is tried on some, or
// was taken back; nil: they have the newest, or something is pinned.
func (p *Plane) insteadOfEdit() *policy.Mesh {
	if is := p.loop.Status(); is.Waves != nil {
		return is.Mesh
	}
	return nil
}

// serving is the mesh file that most proxies have.
func (p *Plane) serving() *policy.Mesh {
	if m := p.loop.Status().Mesh; m != nil {
		return m
	}
	return p.mesh.Load()
}

// edited is the newest mesh file that a proxy has.
func (p *Plane) edited() *policy.Mesh {
	if p.loop.Status().Waves.tried() {
		return p.mesh.Load()
	}
	return p.serving()
}

// locate returns where the mesh file says what made a resource.
func (p *Plane) locate(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return p.edited().Source(keys[0]).String()
}
