package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/replica"
)

// Where several replicas serve a fleet, a pin is one word for all of them, in what they
// share: whichever was told, each serves that revision, until any of them is told to
// release it. The text goes with it, for those that do not keep the revision. Both are
// signed by the key that all replicas have: who may write keys in Consul makes up neither.

const (
	// pinPurpose keeps the proof of a pin apart from all else that the key signs.
	pinPurpose = "controlplane pinned revision"
	// pinAgain is how long after a failure it is tried again.
	pinAgain = 2 * time.Second
	// pinTime bounds how long an operator waits for Consul.
	pinTime = 10 * time.Second
)

// pinBoard is where the word is, and its text: a [Replicas].
type pinBoard interface {
	WritePin(ctx context.Context, v *replica.View, next replica.Pin, text []byte) error
	PinText(ctx context.Context, revision string) ([]byte, error)
}

// pinProver proves words: a token.Authority.
type pinProver interface {
	Prove(purpose string, said []byte) ([]byte, error)
	Proves(purpose string, said, proof []byte) bool
}

// sharedPin is what this replica knows of the word.
type sharedPin struct {
	board  pinBoard
	prover pinProver // nil with plaintext xDS
	wake   func()    // has the loop look
	nudge  chan struct{}

	following sync.Mutex // one word is followed at a time; taken before edits

	mu      sync.Mutex
	view    *replica.View
	last    *replica.Pin // that was followed, or refused for good; nil: none
	settled bool         // what is served has taken the word of the start into account
	trouble string       // why what is written is not followed
}

func newSharedPin(board pinBoard, prover pinProver, wake func()) *sharedPin {
	return &sharedPin{board: board, prover: prover, wake: wake, nudge: make(chan struct{}, 1)}
}

// began is told what the start has found pinned, and serves.
func (s *sharedPin) began(is *pin) {
	if is.Epoch == 0 {
		return // for this replica alone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = &replica.Pin{Epoch: is.Epoch, Revision: is.Revision, By: is.By, Replica: is.Replica, Since: is.Since}
}

// ready reports whether a first snapshot may be made: one that is made before the word is
// known may be of a file that somebody has taken out of service.
func (s *sharedPin) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settled
}

// seen is told what the replicas share. It does not wait.
func (s *sharedPin) seen(v *replica.View) {
	s.mu.Lock()
	s.view = v
	s.mu.Unlock()
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// settle notes what became of the word that was seen.
func (s *sharedPin) settle(trouble string, last *replica.Pin) {
	s.mu.Lock()
	first := !s.settled
	s.settled, s.trouble = true, trouble
	if last != nil {
		s.last = last
	}
	s.mu.Unlock()
	if first {
		s.wake()
	}
}

// state returns what there is to follow, if this replica is behind it, or what is to be
// written again, if what is written is: Consul was restored, or somebody put an old word
// back.
func (s *sharedPin) state() (follow, again *replica.Pin, v *replica.View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v = s.view
	switch {
	case v == nil || !v.Answered():
		return nil, nil, nil
	case s.last != nil && (v.Pin == nil || v.Pin.Epoch < s.last.Epoch):
		if v.Trouble != "" {
			return nil, nil, v
		}
		return nil, s.last, v
	case v.Pin == nil || s.last != nil && v.Pin.Epoch == s.last.Epoch && v.Pin.Revision == s.last.Revision && v.Pin.Released == s.last.Released:
		return nil, nil, v
	}
	return v.Pin, nil, v
}

// nextEpoch is that of the next word. One that no replica has written has none.
func (p *Plane) nextEpoch(v *replica.View) uint64 {
	p.pins.mu.Lock()
	defer p.pins.mu.Unlock()
	epoch := uint64(0)
	if p.pins.last != nil {
		epoch = p.pins.last.Epoch
	}
	if v.Pin != nil && p.pins.prover.Proves(pinPurpose, v.Pin.Said(p.mesh.Load().Name), v.Pin.Proof) {
		epoch = max(epoch, v.Pin.Epoch)
	}
	return epoch + 1
}

// followPins serves what is pinned for all until ctx ends.
func (p *Plane) followPins(ctx context.Context) {
	for ctx.Err() == nil {
		var retry <-chan time.Time
		if !p.followPin(ctx) {
			retry = time.After(pinAgain)
		}
		select {
		case <-ctx.Done():
		case <-p.pins.nudge:
		case <-retry:
		}
	}
}

// followPin follows the word that was seen last. It is false if that is to be tried again.
func (p *Plane) followPin(ctx context.Context) bool {
	p.pins.following.Lock()
	defer p.pins.following.Unlock()
	word, again, v := p.pins.state()
	switch {
	case v == nil:
		return true
	case again != nil:
		_, err := p.sharePin(ctx, v, *again)
		p.pins.settle("", nil)
		if err != nil {
			p.ClientLog.Warn("the last word on which revision is pinned is not in Consul any more, and cannot be written again", "revision", again.Revision, "err", err)
		}
		return err == nil
	case word == nil:
		p.pins.settle("", nil)
		return true
	}
	if trouble := p.believePin(word); trouble != "" {
		if p.pins.troubleIs() != trouble {
			p.Log.Error("what Consul has as pinned for all replicas is not followed", "revision", word.Revision, "why", trouble)
		}
		p.pins.settle(trouble, nil)
		return true
	}
	return p.takePin(ctx, word)
}

func (s *sharedPin) troubleIs() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// believePin says why a word is not followed; empty: it is.
func (p *Plane) believePin(word *replica.Pin) string {
	switch {
	case p.pins.prover == nil:
		return "this replica has no key of the mesh (--xds-plaintext), and cannot know who has written it"
	case !p.pins.prover.Proves(pinPurpose, word.Said(p.mesh.Load().Name), word.Proof):
		return "no replica of this mesh has signed it"
	case !revisionOfPin.MatchString(word.Revision):
		return fmt.Sprintf("%q is no revision", word.Revision)
	}
	return ""
}

// takePin puts a word into effect here. It is false if that is to be tried again.
func (p *Plane) takePin(ctx context.Context, word *replica.Pin) bool {
	if is := p.pinIs(); is != nil && is.Epoch == 0 && word.Since.Before(is.Since) {
		p.pins.settle("", word) // another one was pinned here alone, later
		return true
	}
	if word.Released {
		p.releaseShared(word)
		p.pins.settle("", word)
		return true
	}
	is := pin{Revision: word.Revision, By: word.By, Since: word.Since, Epoch: word.Epoch, Replica: word.Replica}
	m, err := p.meshOfPin(ctx, word)
	if err == nil {
		err = p.enforcePin(is, m)
	}
	if err != nil {
		p.refusePin(is, err)
	}
	if missing := new(missingTextError); errors.As(err, &missing) {
		p.pins.settle("", nil)
		return false
	}
	p.pins.settle("", word)
	return true
}

// missingTextError says that a text is not here yet.
type missingTextError struct{ error }

func (e *missingTextError) Unwrap() error { return e.error }

// meshOfPin returns the mesh of a word, of what is kept here or else of what goes with
// the word, which is kept from then on.
func (p *Plane) meshOfPin(ctx context.Context, word *replica.Pin) (*policy.Mesh, error) {
	if m, _, err := p.revisions.Find(word.Revision, p.MeshOptions); err == nil || !errors.Is(err, errNotKept) {
		return m, err
	}
	if word.Text == "" {
		return nil, errors.New("it is not kept here, and too large to be shared: put that file on this machine, and pin it again")
	}
	packed, err := p.pins.board.PinText(ctx, word.Revision)
	if err != nil {
		return nil, &missingTextError{fmt.Errorf("it is not kept here, and cannot be had from Consul yet: %w", err)}
	}
	if sum := sha256.Sum256(packed); hex.EncodeToString(sum[:]) != word.Text {
		return nil, &missingTextError{errors.New("it is not kept here, and what Consul has of it is not what was pinned")}
	}
	files, environment, err := unpack(packed)
	if err != nil {
		return nil, err
	}
	if policy.Revision(files) != word.Revision {
		return nil, errors.New("it is not kept here, and its text is of another revision")
	}
	if err := p.revisions.keepPinned(files, environment); err != nil {
		return nil, fmt.Errorf("it cannot be kept: %w", err)
	}
	m, _, err := p.revisions.Find(word.Revision, p.MeshOptions)
	return m, err
}

// sharePin writes a word, and the text of its revision, in the place of what the view
// has. It returns the word as it is written.
func (p *Plane) sharePin(ctx context.Context, v *replica.View, word replica.Pin) (*replica.Pin, error) {
	var packed []byte
	if word.Text = ""; !word.Released {
		var err error
		if packed, err = p.revisions.pack(word.Revision); err != nil {
			return nil, err
		}
		if len(packed) <= replica.MaxText {
			sum := sha256.Sum256(packed)
			word.Text = hex.EncodeToString(sum[:])
		} else {
			packed = nil
		}
	}
	var err error
	if word.Proof, err = p.pins.prover.Prove(pinPurpose, word.Said(p.mesh.Load().Name)); err != nil {
		return nil, err
	}
	return &word, p.pins.board.WritePin(ctx, v, word, packed)
}

// say has all replicas follow a word of an operator, this one before it returns.
func (p *Plane) say(who api.Caller, revision string, released bool) (word *replica.Pin, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), pinTime)
	defer cancel()
	p.pins.following.Lock()
	defer p.pins.following.Unlock()
	p.pins.mu.Lock()
	v := p.pins.view
	p.pins.mu.Unlock()
	switch {
	case p.pins.prover == nil:
		return nil, errors.New("a pin is for all replicas, and signed: this one has no key (--xds-plaintext)")
	case v == nil || v.Trouble != "":
		why := "it has not asked Consul yet"
		if v != nil {
			why = v.Trouble
		}
		return nil, fmt.Errorf("a pin is for all replicas, and this one is not in touch with them, so nothing has changed: %s", why)
	}
	word, err = p.sharePin(ctx, v, replica.Pin{
		Epoch: p.nextEpoch(v), Revision: revision, Released: released,
		By: who.Name, Replica: p.registrations.replica, Since: time.Now().UTC(),
	})
	if err != nil {
		if errors.Is(err, replica.ErrBehind) {
			return nil, fmt.Errorf("%w: look at controlplane status, and say it again", err)
		}
		return nil, fmt.Errorf("it could not be written for all replicas (controlplane status shows what is pinned): %w", err)
	}
	p.takePin(ctx, word)
	return word, nil
}

// anew has the word followed again.
func (s *sharedPin) anew() {
	s.mu.Lock()
	s.last = nil
	s.mu.Unlock()
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// enforcePin has a revision served that is pinned for all.
func (p *Plane) enforcePin(is pin, m *policy.Mesh) error {
	p.edits.Lock()
	defer p.edits.Unlock()
	if err := p.accept(m); err != nil {
		return err
	}
	is.behind = p.behindPin()
	if err := p.put(m, time.Now(), p.loop.SetPast); err != nil {
		return err
	}
	p.tookPin(&is)
	if err := p.revisions.setPinned(&is); err != nil {
		p.Log.Error("what is pinned is not kept: a restart that cannot reach Consul serves the mesh file", "revision", is.Revision, "err", err)
	}
	return nil
}

// refusePin notes that this replica cannot serve what is pinned for all: what is in force
// stays, and edits of the file wait.
func (p *Plane) refusePin(is pin, why error) {
	p.edits.Lock()
	defer p.edits.Unlock()
	is.behind = p.behindPin()
	next := &failedPin{pin: is, why: why, holds: true}
	p.mu.Lock()
	before := p.pinFailed
	p.pin, p.pinFailed = nil, next
	p.mu.Unlock()
	if before != nil && before.String() == next.String() {
		return // it is tried again and again
	}
	p.Log.Error("what is pinned for all replicas is not served by this one: the last good mesh file stays", "revision", is.Revision,
		"by", is.By, "replica", is.Replica, "serving_revision", p.mesh.Load().Revision, "err", why)
	p.journal.Add(api.Event{Kind: api.MeshRefused, Operator: is.By, Revision: is.Revision, Message: shorten(next.String())})
}

// releaseShared serves the mesh file again, as a word for all says. Where that is bad, what
// was pinned stays, as the last good one does for every bad file.
func (p *Plane) releaseShared(word *replica.Pin) {
	p.edits.Lock()
	defer p.edits.Unlock()
	is, failed := p.pinIs(), p.pinFailure()
	if is == nil && failed == nil {
		return
	}
	next, err := p.insteadOfPin()
	if err == nil {
		err = p.release(word.By, next)
	}
	switch {
	case err == nil:
	case p.pinIs() == nil && p.pinFailure() == nil:
		p.Log.Error(err.Error())
	default:
		err = errors.Join(err, p.forgetPin(word.By, word.Revision))
		p.reject(fmt.Errorf("revision %s, which was pinned, stays, for %s has released it at %s and there is nothing to serve instead: %w", word.Revision, word.By, word.Replica, err))
	}
}
