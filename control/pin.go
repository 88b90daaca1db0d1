package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/replica"
)

// pinnedFile says, in the data directory, which revision is served until it is released.
const pinnedFile = "pinned.json"

// pin is a revision that is served whatever the file says, over a restart too.
type pin struct {
	Revision string    `json:"revision"`
	By       string    `json:"by"`
	Since    time.Time `json:"since"`
	// Epoch and Replica are those of the word for all replicas; 0: it is for this one alone.
	Epoch   uint64 `json:"epoch,omitempty"`
	Replica string `json:"replica,omitempty"`

	behind *policy.Mesh // what would be in force; nil: the file is not known, or bad
}

// forWhom says in words where it is served.
func (p *pin) forWhom() string {
	if p.Epoch == 0 {
		return "for this replica alone"
	}
	return "for all replicas, at " + p.Replica
}

// Pinned returns the pin of the data directory; nil: nothing is pinned.
func (r *Revisions) pinned() (*pin, error) {
	if r.dir == "" {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(r.dir, pinnedFile))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil // whoever opens the directory says what is wrong with it
	}
	if err == nil {
		err = checkOurs(r.dir)
	}
	var p pin
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err == nil && !revisionOfPin.MatchString(p.Revision) {
		err = fmt.Errorf("%q is no revision", p.Revision)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pinnedFile, err)
	}
	return &p, nil
}

func (r *Revisions) setPinned(p *pin) error {
	if r.dir == "" {
		return errors.New("there is no data directory")
	}
	path := filepath.Join(r.dir, pinnedFile)
	if p == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncDir(r.dir)
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}

// failedPin is a pin that is not in force.
type failedPin struct {
	pin       // the zero value if it is not known
	why error // it is not
	// holds is whether the mesh file stays that was in force when it came, and edits wait
	// behind it as behind one in force. False: it is since the start, and they do not.
	holds bool
}

func (f *failedPin) String() string {
	if f.Revision == "" {
		return "what is pinned is not known: " + f.why.Error()
	}
	return fmt.Sprintf("revision %s, which %s has pinned %s at %s, cannot be served: %v", f.Revision, f.By, f.forWhom(), f.Since.Format(time.RFC3339), f.why)
}

// firstPinned returns the mesh that is pinned, nil if none is or it cannot be served.
func (p *Plane) firstPinned() *policy.Mesh {
	pinned, err := p.revisions.pinned()
	if err != nil {
		p.failPin(&pin{}, err)
	}
	if pinned == nil {
		return nil
	}
	m, path, err := p.revisions.Find(pinned.Revision, p.MeshOptions)
	if err == nil {
		last, _ := p.last()
		if last == nil {
			last = m
		}
		err = p.acceptFirst(m, last)
	}
	if err == nil {
		_, err = expectedRoot(p.ExpectRoot, m)
	}
	if err != nil {
		p.failPin(pinned, err)
		return nil
	}
	p.Log.Warn("starting with the revision that is pinned", "revision", pinned.Revision, "by", pinned.By, "since", pinned.Since, "kept", path)
	p.pin = pinned
	return m
}

// failPin has the mesh file served at the start, and says why what is pinned is not.
func (p *Plane) failPin(is *pin, why error) {
	failed := &failedPin{pin: *is, why: why}
	p.mu.Lock()
	p.pin, p.pinFailed = nil, failed
	p.mu.Unlock()
	p.Log.Error("what is pinned is not served: the mesh file is", "revision", is.Revision, "by", is.By, "err", why)
}

// Pin has a kept revision served until it is released, whatever the file says meanwhile: by
// all replicas, where there are several. It returns what comes of it, in a sentence.
func (p *Plane) Pin(who api.Caller, revision string) (said string, err error) {
	m, _, err := p.revisions.Find(revision, p.MeshOptions)
	if err != nil {
		return "", err
	}
	if p.replicas == nil {
		return "revision " + revision + " is served until it is released", p.pinHere(who, m)
	}
	if err := p.accept(m); err != nil {
		return "", err
	}
	word, err := p.say(who, revision, false)
	if err != nil {
		return "", err
	}
	if failed := p.pinFailure(); failed != nil && failed.Epoch == word.Epoch {
		return "", fmt.Errorf("it is pinned for all replicas, and this one cannot serve it: %w", failed.why)
	}
	said = "revision " + revision + " is served by all replicas until it is released"
	if word.Text == "" {
		said += fmt.Sprintf("; only those serve it that keep it, for with over %d KB, compressed, it is too large to be shared", replica.MaxText>>10)
	}
	return said, nil
}

// pinHere pins a revision for this replica alone.
func (p *Plane) pinHere(who api.Caller, m *policy.Mesh) error {
	p.edits.Lock()
	defer p.edits.Unlock()
	if err := p.accept(m); err != nil {
		return err
	}
	next := &pin{Revision: m.Revision, By: who.Name, Since: time.Now().UTC(), behind: p.behindPin()}
	if err := p.revisions.setPinned(next); err != nil {
		return fmt.Errorf("it would not outlive a restart: %w", err)
	}
	if err := p.put(m, time.Now(), p.loop.SetPast); err != nil {
		return errors.Join(err, p.revisions.setPinned(p.pinIs()))
	}
	p.tookPin(next)
	return nil
}

// tookPin is called when a pin has come into force.
func (p *Plane) tookPin(is *pin) {
	p.setPin(is)
	p.Log.Warn("a revision of the mesh file is pinned: it is served until it is released", "revision", is.Revision, "by", is.By, "where", is.forWhom())
	p.journal.Add(api.Event{Kind: api.MeshPinned, Operator: is.By, Revision: is.Revision, Message: "revision " + is.Revision + " is served until it is released, " + is.forWhom()})
}

// behindPin is what would be in force if nothing were pinned; nil: the file is not known,
// or bad.
func (p *Plane) behindPin() *policy.Mesh {
	if is := p.pinIs(); is != nil {
		return is.behind
	}
	if failed := p.pinFailure(); failed != nil && failed.holds {
		return failed.behind
	}
	return p.mesh.Load()
}

// ReleasePin has the mesh file served again, and not the revision that is pinned: by all
// replicas, if it is pinned for all.
func (p *Plane) ReleasePin(who api.Caller, revision string) error {
	shared, err := p.releaseHere(who, revision)
	if err != nil || !shared {
		return err
	}
	_, err = p.say(who, revision, true)
	return err
}

// releaseHere releases what is pinned for this replica alone. What is shared is pinned for
// all, and nothing has changed: there is something to serve instead.
func (p *Plane) releaseHere(who api.Caller, revision string) (shared bool, err error) {
	p.edits.Lock()
	defer p.edits.Unlock()
	is := p.pinIs()
	if failed := p.pinFailure(); is == nil && failed != nil {
		is = &failed.pin
	}
	if is == nil || is.Revision != revision {
		return false, errors.New("revision " + revision + " is not pinned")
	}
	next, err := p.insteadOfPin()
	switch {
	case err != nil:
		return false, fmt.Errorf("there is nothing to serve instead: %w", err)
	case p.replicas == nil:
		return false, p.release(who.Name, next)
	case is.Epoch == 0:
		defer p.pins.anew() // something older may be pinned for all
		return false, p.release(who.Name, next)
	}
	return true, nil
}

// insteadOfPin returns what to serve when what is pinned is released; nil: what is served.
func (p *Plane) insteadOfPin() (*policy.Mesh, error) {
	is := p.pinIs()
	if is == nil {
		failed := p.pinFailure()
		if failed == nil || !failed.holds || failed.behind == p.mesh.Load() {
			return nil, nil
		}
		is = &failed.pin
	}
	next := is.behind
	if next == nil { // as it was at the start, and as it stands
		var err error
		if next, err = policy.Load(p.Files, p.MeshOptions); err != nil {
			return nil, err
		}
	}
	return next, p.accept(next)
}

// release serves what insteadOfPin has returned. The caller holds edits.
func (p *Plane) release(who string, next *policy.Mesh) error {
	revision, fresh := "", false
	if is := p.pinIs(); is != nil {
		revision, fresh = is.Revision, is.behind == nil
	} else if failed := p.pinFailure(); failed != nil {
		revision, fresh = failed.Revision, failed.behind == nil
	}
	if next != nil {
		set := p.loop.SetEdit
		if _, err := p.revisions.find(next.Revision); err == nil {
			set = p.loop.SetPast // it was in force
		}
		if err := p.put(next, time.Now(), set); err != nil {
			return err
		}
		p.setPin(nil)
		if fresh {
			p.tookEffect(next)
		} else {
			p.cameIntoForce(next, nil) // what is said of the file is of a newer one: see behind
		}
	}
	return p.forgetPin(who, revision)
}

// forgetPin says that a pin is released, and has the next start know nothing of it.
func (p *Plane) forgetPin(who, revision string) error {
	p.setPin(nil)
	serving := p.mesh.Load().Revision
	p.Log.Warn("the revision that was pinned is released", "revision", revision, "by", who, "serving_revision", serving)
	p.journal.Add(api.Event{Kind: api.MeshReleased, Operator: who, Revision: serving, Message: "revision " + revision + " is released"})
	if err := p.revisions.setPinned(nil); err != nil {
		return fmt.Errorf("it is released, and will be pinned again by a restart: %w", err)
	}
	return nil
}

func (p *Plane) pinIs() *pin {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pin
}

func (p *Plane) pinFailure() *failedPin {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pinFailed
}

func (p *Plane) setPin(next *pin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pin, p.pinFailed = next, nil
}

// behind notes a mesh file that comes while another revision is pinned, and reports
// whether one is: what was said of those before it is over.
func (p *Plane) behind(m *policy.Mesh) bool {
	p.mu.Lock()
	var is pin
	switch {
	case p.pin != nil:
		next := *p.pin
		next.behind = m
		p.pin, is = &next, next
	case p.pinFailed != nil && p.pinFailed.holds:
		next := *p.pinFailed
		next.behind = m
		p.pinFailed, is = &next, next.pin
	default:
		p.mu.Unlock()
		return false
	}
	p.hold, p.rejected, p.keptAt = nil, nil, ""
	p.mu.Unlock()
	p.Log.Warn("the mesh file changed, and is not in force: another revision is pinned", "revision", m.Revision, "pinned", is.Revision, "by", is.By)
	p.journal.Add(api.Event{Kind: api.MeshHeld, Revision: m.Revision, Message: "revision " + is.Revision + " is pinned"})
	return true
}

// pinned is the pin as operators see it; nil: nothing is pinned.
func (p *Plane) pinned() *api.Pin {
	shown := &api.Pin{}
	is := p.pinIs()
	if is == nil {
		failed := p.pinFailure()
		if failed == nil || failed.Revision == "" {
			return nil
		}
		is, shown.Failed = &failed.pin, failed.why.Error()
	}
	shown.Revision, shown.By, shown.Since, shown.Replica = is.Revision, is.By, is.Since, is.Replica
	if is.behind != nil {
		shown.Behind = is.behind.Revision
	}
	return shown
}
