package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/memory"
)

// firstMesh returns the mesh file to start with: the one that is pinned, or
// that of firstOfFile.
func (p *Plane) firstMesh() (*policy.Mesh, error) {
	if m := p.firstPinned(); m != nil {
		return m, nil
	}
	return p.firstOfFile()
}

// firstOfFile returns the mesh file to start with where none is pinned: that on
// disk, or the last one that was in force, where the one on disk is bad, or is
// an edit that would have to wait if it came while the control plane runs. The
// watcher then finds it, and judges it again.
func (p *Plane) firstOfFile() (*policy.Mesh, error) {
	disk, err := policy.Load(p.Files, p.MeshOptions)
	last, path := p.last()
	if last == nil {
		return disk, err
	}
	if err == nil {
		err = p.acceptFirst(disk, last)
	}
	if err == nil {
		h := policy.Judge(last, disk, p.deselectsOfKept(last, disk)...)
		if h == nil && (!goesInWaves(last, disk) || p.revisions.Meant(disk.Revision)) {
			return disk, nil
		}
		if h == nil {
			p.Log.Info("starting with the last mesh file that was in force: that on disk goes to the proxies in waves, once they are here", "kept", path,
				"revision", last.Revision, "to_come", disk.Revision)
			p.keptAt = path
			return last, nil
		}
		if meant := p.revisions.Meant(disk.Revision); meant || h.Beginning == "" && rested(p.Files) && !goesInWaves(last, disk) {
			p.Log.Warn("the mesh file has changed since the last one that was in force: "+h.String(),
				"revision", h.Revision, "last_revision", last.Revision, "meant", meant)
			return disk, nil
		}
		p.hold = h
		p.Log.Warn("starting with the last mesh file that was in force: that on disk waits", "kept", path,
			"revision", last.Revision, "held_revision", h.Revision, "why", h.String())
	} else {
		p.rejected, p.rejectedAt = err, time.Now()
		p.Log.Error("starting with the last mesh file that was in force: that on disk is bad", "kept", path,
			"revision", last.Revision, "err", err)
	}
	p.keptAt = path
	return last, nil
}

// deselectsOfKept is deselects before there is a catalog: by the one of the disk.
func (p *Plane) deselectsOfKept(last, next *policy.Mesh) []string {
	if p.Plaintext || targetOf(p.Catalog, next).file != "" || watch.Selection(last.Discovery.Consul.Select).Equal(watch.Selection(next.Discovery.Consul.Select)) {
		return nil
	}
	kept, err := memory.New(p.DataDir, next.Name).Load()
	if err != nil {
		p.Log.Error(err.Error()) // it is set aside: [Catalogs.Remember] finds nothing
	}
	if kept == nil {
		return nil
	}
	return deselected(last, next, kept.Catalog)
}

// last returns the last mesh file that was in force and where it is kept; nil: none is.
func (p *Plane) last() (m *policy.Mesh, path string) {
	m, path, unusable := p.revisions.Last(p.MeshOptions)
	for _, why := range unusable {
		p.Log.Error("a kept mesh file is not used", "err", why)
	}
	return m, path
}

// acceptFirst is [Plane.accept] before the data directory is open, by the last mesh file
// that was in force.
func (p *Plane) acceptFirst(m, last *policy.Mesh) error {
	if err := accept(m, last.MTLS.TrustDomain, p.Plaintext); err != nil || p.Plaintext {
		return err
	}
	if m.MTLS.CA != last.MTLS.CA {
		if err := sds.CheckFiles(p.DataDir, filesOf(m.MTLS.CA)); err != nil {
			return fmt.Errorf("%s: security.mtls.ca: %w", m.Source("security.mtls.ca"), err)
		}
	}
	roots, err := sds.ReadRoots(p.DataDir)
	if err != nil {
		return err
	}
	return acceptRoot(m, roots)
}

// followFirst tells the rooms of the mesh file to start with, and returns it,
// or another one where this process cannot go on with that one, for a
// certificate for Consul is not there, say: that of firstOfFile if it was
// pinned, the last one that was in force if it was not.
func (p *Plane) followFirst(mesh *policy.Mesh) (*policy.Mesh, error) {
	err := p.accept(mesh)
	if err == nil {
		err = p.follow(mesh)
	}
	if is := p.pinIs(); err != nil && is != nil {
		p.failPin(is, err)
		if mesh, err = p.firstOfFile(); err != nil {
			return nil, err
		}
		p.mesh.Store(mesh)
		return p.followFirst(mesh)
	}
	if err == nil {
		if p.keptAt == "" && p.pinIs() == nil {
			p.keep(mesh)
		}
		return mesh, nil
	}
	last, path, _ := p.revisions.Last(p.MeshOptions)
	if p.keptAt != "" || last == nil || last.Revision == mesh.Revision || p.accept(last) != nil {
		return nil, err
	}
	p.Log.Error("starting with the last mesh file that was in force: that on disk is bad", "kept", path, "revision", last.Revision, "err", err)
	p.rejected, p.rejectedAt, p.keptAt = err, time.Now(), path
	p.mesh.Store(last)
	return last, p.follow(last)
}

// rested reports whether the files were left alone for as long as an edit has
// to that opens or removes much. A file that was renamed into place keeps its
// time of writing, so its inode's counts too.
func rested(files []string) bool {
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		last := info.ModTime()
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			if changed := time.Unix(stat.Ctim.Unix()); changed.After(last) {
				last = changed
			}
		}
		if age := time.Since(last); age >= 0 && age < policy.Rest {
			return false
		}
	}
	return true
}

// wait keeps the mesh file in force though a newer one loads, and says why; nil
// is said when the newer one is gone. It is said again when somebody asks, and
// of each state of a file that is still being written only once for a reason.
func (p *Plane) wait(h *policy.Hold) {
	p.mu.Lock()
	before := p.hold
	p.hold, p.rejected = h, nil
	p.mu.Unlock()
	serving := p.mesh.Load().Revision
	switch {
	case h == nil:
		p.Log.Info("the mesh file that waited is gone: the files are as they are in force", "serving_revision", serving)
	case before != nil && before != h && before.String() == h.String():
	default:
		p.journal.Add(api.Event{Kind: api.MeshHeld, Revision: h.Revision, Message: shorten(h.String())})
		p.Log.Warn("the mesh file waits: "+h.String(), "revision", h.Revision, "serving_revision", serving, "until", h.Ends())
	}
}

// tookEffect is called when the newest mesh file has come into force.
func (p *Plane) tookEffect(m *policy.Mesh) {
	p.mu.Lock()
	held := p.hold
	p.hold, p.rejected, p.keptAt = nil, nil, ""
	p.mu.Unlock()
	p.cameIntoForce(m, held)
}

// cameIntoForce is called when a mesh file has come into force, or begins to, bit by bit.
// held is what the newest one waited for.
func (p *Plane) cameIntoForce(m *policy.Mesh, held *policy.Hold) {
	if held != nil && held.Revision == m.Revision {
		p.Log.Warn("the mesh file that waited is in force: "+held.String(), "revision", m.Revision, "meant", p.revisions.Meant(m.Revision))
	}
	if !m.Edits.Waves {
		p.hasCome(m)
		return
	}
	// cameByWaves goes on when all have it.
	if goesInWaves(p.serving(), m) && !p.revisions.Meant(m.Revision) {
		p.Log.Info("the mesh file changed, and goes to the proxies in waves", "revision", m.Revision)
	}
}

// hasCome is called when all proxies are served a mesh file, and keeps it for the next start.
func (p *Plane) hasCome(m *policy.Mesh) {
	p.mu.Lock()
	p.inForce = time.Now()
	p.reloads++
	p.mu.Unlock()
	p.journal.Add(api.Event{Kind: api.MeshInForce, Revision: m.Revision, Message: "the mesh file changed"})
	p.Log.Info("the mesh file changed", "revision", m.Revision)
	p.keep(m)
}

// followMesh is told when what most proxies have of mesh files has changed, and says what
// becomes of edits that go to them in waves. first is the file that the process began with.
func (p *Plane) followMesh(ctx context.Context, first *policy.Mesh) {
	last, back, tried := first, (*Waves)(nil), ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.waved:
		}
		is := p.loop.Status()
		if w := is.Waves; w != nil && w.Why != "" && w != back {
			back = w
			p.mu.Lock()
			p.takenBack++
			p.mu.Unlock()
			p.journal.Add(api.Event{Kind: api.MeshTakenBack, Revision: w.Revision, Service: w.Service, Source: w.Source, Message: shorten(w.Why)})
		}
		if w := is.Waves; w.tried() && w.Revision != tried {
			tried = w.Revision
			p.journal.Add(api.Event{Kind: api.MeshTried, Revision: tried, Message: fmt.Sprintf("it goes to %d proxies in waves", w.Of)})
		}
		if is.Mesh == nil || is.Mesh == last {
			continue
		}
		before := last
		last = is.Mesh
		p.xds.ChecksChanged()
		if last.Revision != before.Revision {
			p.cameByWaves(last)
		}
	}
}

// cameByWaves is called when all proxies are served another mesh file. One that is pinned, or
// that did not go to them in waves, came into force when it came.
func (p *Plane) cameByWaves(m *policy.Mesh) {
	p.edits.Lock()
	defer p.edits.Unlock()
	newest := p.mesh.Load()
	if m.Edits.Waves && p.pinIs() == nil && (m == newest || newest.Edits.Waves) {
		p.hasCome(m)
	}
}

// keep keeps the mesh file that is in force for the next start.
func (p *Plane) keep(m *policy.Mesh) {
	err := p.revisions.Keep(m, p.MeshOptions.Environment)
	if err == nil {
		err = p.revisions.Used(m.Revision)
	}
	p.mu.Lock()
	p.keepErr = err
	if err != nil {
		p.keepErrors++
	}
	p.mu.Unlock()
	if err != nil {
		p.Log.Error("the mesh file in force is not kept: a restart could not go back to it", "revision", m.Revision, "err", err)
	}
}

// stackOf is where a panic came from that an error tells of.
func stackOf(err error) string {
	var panicked *policy.PanicError
	if errors.As(err, &panicked) {
		return string(panicked.Stack)
	}
	return ""
}
