package replica

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"datapunk.dev/controlplane/consul"
)

const (
	// beat is how often a replica looks whether it has something else to say, and
	// whether somebody leads.
	beat = time.Second
	// renewal is how often the session is renewed, which costs no write.
	renewal = 3 * time.Second
	// releaseTime bounds how long the end of the process waits for Consul.
	releaseTime = 2 * time.Second
	// again is how long after a failure it is tried again.
	again = 2 * time.Second
)

// ErrNotLeading says that another replica leads, or that what was written was
// based on what is there no more: nothing was written.
var ErrNotLeading = errors.New("this replica does not lead, or is behind")

// Replica is one of the control planes of a mesh, among the others. It is safe for
// concurrent use.
type Replica struct {
	kv    kv
	self  string
	log   *slog.Logger
	local func() Member // what this one is now
	seen  func(*View)   // is told of each new view, one at a time

	poke chan struct{}

	telling sync.Mutex // holds while seen is called

	mu      sync.Mutex
	session string // empty: there is none
	renewed time.Time
	said    []byte // what this one has last written of itself
	pairs   []pair
	read    bool   // the keys, once
	unread  string // why they could not be read last
	unheld  string // why there is no session
	view    *View
}

// New returns a replica with a name that no other ever has. Local returns what it
// says of itself, and seen is told of what it knows of all.
func New(client *consul.Client, mesh, self string, log *slog.Logger, local func() Member, seen func(*View)) *Replica {
	return &Replica{
		kv: kv{client, mesh}, self: self, log: log, local: local, seen: seen, poke: make(chan struct{}, 1),
		unread: notAsked, view: &View{Self: self, Trouble: notAsked},
	}
}

// View returns what the replica knows of all.
func (r *Replica) View() *View {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view
}

// Changed says that the replica has something else to say of itself. It does not
// wait.
func (r *Replica) Changed() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Run keeps the replica among the others until ctx ends. Its session stays until
// [Replica.Release].
func (r *Replica) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { r.watch(ctx) })
	for ctx.Err() == nil {
		err := r.live(ctx)
		if ctx.Err() != nil {
			return
		}
		session := r.alone(err)
		if session != "" { // if it lives it holds this replica's key against the next one
			_ = r.kv.destroy(ctx, session)
		}
		sleep(ctx, again)
	}
}

// alone notes that this replica has no session any more, and why, and returns the one
// that it had.
func (r *Replica) alone(err error) (session string) {
	r.update(func() {
		session = r.session
		r.session, r.said = "", nil
		r.unheard(err)
	})
	return session
}

// unheard notes why the others do not hear of this replica; nil: they do. It is called
// with mu held.
func (r *Replica) unheard(err error) {
	switch {
	case err == nil:
		r.unheld = ""
	case r.unheld != err.Error():
		r.log.Warn("this replica is alone: the others do not hear of it", "err", err)
		r.unheld = err.Error()
	}
}

// Release gives the session up: the others know at once that this one is gone, and
// one of them leads.
func (r *Replica) Release() {
	r.mu.Lock()
	session := r.session
	r.session = ""
	r.mu.Unlock()
	if session == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	_ = r.kv.destroy(ctx, session)
}

// WriteStages writes how far the fleet is, in the place of what the view has. It is
// [ErrNotLeading] if this replica does not lead any more.
func (r *Replica) WriteStages(ctx context.Context, v *View, next Stages) error {
	r.mu.Lock()
	session := r.session
	r.mu.Unlock()
	if session == "" || !v.Leads {
		return ErrNotLeading
	}
	index := uint64(0)
	if v.Stages != nil {
		index = v.Stages.index
	}
	next.By, next.Since = r.self, time.Now().UTC()
	err := r.kv.lead(ctx, session, r.kv.stages(), next, index)
	if isConflict(err) {
		return ErrNotLeading
	}
	return err
}

// live has a session until it is gone, or nobody can know any more that it is not.
func (r *Replica) live(ctx context.Context) error {
	session, err := r.kv.open(ctx, r.self)
	if err != nil {
		return err
	}
	renewed := time.Now()
	r.update(func() { r.session, r.renewed, r.said, r.unheld = session, renewed, nil, "" })
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		switch err := r.tell(ctx, session); {
		case refused(err):
			r.update(func() { r.unheard(err) })
			sleep(ctx, again) // Consul may go on refusing it for long
		case err != nil:
			return err
		case r.troubled():
			r.update(func() { r.unheard(nil) })
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-r.poke:
			sleep(ctx, beat/10) // what comes at once is said at once
		}
		if time.Since(renewed) < renewal {
			continue
		}
		switch err := r.kv.renew(ctx, session); {
		case err == nil:
			renewed = time.Now()
			r.update(func() { r.renewed = renewed })
		case isGone(err):
			return fmt.Errorf("the session of this replica is gone: %w", err)
		case time.Since(renewed) >= sessionTTL:
			return fmt.Errorf("the session of this replica could not be renewed: %w", err)
		}
	}
}

// tell writes what is to be written. A request that nothing answers is made again: the
// renewals say when that has been too long.
func (r *Replica) tell(ctx context.Context, session string) error {
	m := r.local()
	m.Name = r.self
	err := r.say(ctx, session, &m)
	if err == nil {
		err = r.stand(ctx, session, m.Draining)
	}
	if errors.Is(err, errUnanswered) {
		return nil
	}
	return err
}

// errUnanswered is a write of which nobody knows what became.
var errUnanswered = errors.New("no answer")

// refused reports whether Consul has answered that it does not write this: a token
// that may not, a value that is too large, no leader.
func refused(err error) bool {
	var status *consul.StatusError
	return errors.As(err, &status) && !isGone(err)
}

func (r *Replica) troubled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unheld != ""
}

// say writes what this replica is, if that has changed.
func (r *Replica) say(ctx context.Context, session string, m *Member) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	r.mu.Lock()
	same := bytes.Equal(body, r.said)
	r.mu.Unlock()
	if same {
		return nil
	}
	ok, err := r.kv.acquire(ctx, r.kv.member(r.self), session, json.RawMessage(body))
	switch {
	case err != nil && !isGone(err) && !refused(err):
		return errUnanswered
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("somebody else has the key %s", r.kv.member(r.self))
	}
	r.mu.Lock()
	r.said = body
	r.mu.Unlock()
	return nil
}

// stand takes the leader's lock if nobody has it, and gives it back when this replica
// is about to end. To try is a write, so what was read is looked at first.
func (r *Replica) stand(ctx context.Context, session string, draining bool) error {
	r.mu.Lock()
	known, holder := r.read && r.unread == "", ""
	for _, p := range r.pairs {
		if p.Key == r.kv.leader() {
			holder = p.Session
		}
	}
	r.mu.Unlock()
	var err error
	switch {
	case !known:
	case draining && holder == session:
		err = r.kv.release(ctx, r.kv.leader(), session)
	case !draining && holder == "":
		_, err = r.kv.acquire(ctx, r.kv.leader(), session, map[string]string{"replica": r.self}) // whoever has it is read
	}
	if err != nil && !isGone(err) && !refused(err) {
		return errUnanswered
	}
	return err
}

// watch reads the keys whenever they change.
func (r *Replica) watch(ctx context.Context) {
	var index uint64
	for ctx.Err() == nil {
		pairs, next, err := r.kv.read(ctx, index)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, consul.ErrMoved) {
			index = 0 // of another server, which is asked anew
			continue
		}
		index = next
		r.update(func() {
			if err != nil {
				if r.unread != err.Error() {
					r.log.Warn("what the replicas share cannot be read: what was last read holds, and nothing new begins", "err", err)
				}
				r.unread = err.Error()
				return
			}
			if r.read && r.unread != "" {
				r.log.Info("what the replicas share can be read again")
			}
			r.pairs, r.read, r.unread = pairs, true, ""
		})
		switch {
		case err != nil:
			sleep(ctx, again)
		case next == 0:
			sleep(ctx, beat)
		}
	}
}

// update makes a change, and tells of the view that comes of it.
func (r *Replica) update(change func()) {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	before := r.view
	change()
	r.view = r.look(before)
	v := r.view
	r.mu.Unlock()
	if v.Leader != before.Leader && v.Leader != "" {
		r.log.Info("a replica leads", "replica", v.Leader, "this_one", v.Leads)
	}
	r.seen(v)
}

// look makes a view of what was read.
func (r *Replica) look(before *View) *View {
	v := &View{Self: r.self, Trouble: cmp.Or(r.unread, r.unheld)}
	if r.unread != "" { // the rest is as it was
		v.Leader, v.Members, v.Stages, v.Pin = before.Leader, before.Members, before.Stages, before.Pin
		return v
	}
	for _, p := range r.pairs {
		name, member := strings.CutPrefix(p.Key, r.kv.prefix()+"members/")
		switch {
		case p.Key == r.kv.leader() && p.Session != "":
			var leader struct{ Replica string }
			_ = json.Unmarshal(p.Value, &leader)
			v.Leader = leader.Replica
			v.Leads = p.Session == r.session && time.Since(r.renewed) < sessionTTL
		case p.Key == r.kv.stages():
			var s Stages
			if err := json.Unmarshal(p.Value, &s); err == nil {
				s.index = p.ModifyIndex
				v.Stages = &s
			}
		case p.Key == r.kv.pin():
			v.Pin = new(Pin)
			if err := json.Unmarshal(p.Value, v.Pin); err != nil {
				*v.Pin = Pin{} // which has no proof
			}
			v.Pin.index = p.ModifyIndex
		case member && p.Session != "":
			var m Member
			if json.Unmarshal(p.Value, &m) == nil && m.Name == name {
				v.Members = append(v.Members, m)
			}
		}
	}
	slices.SortFunc(v.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return v
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
