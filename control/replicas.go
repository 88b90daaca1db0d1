package control

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/replica"
)

// Leadership is how it is known which replica leads.
type Leadership string

// The ways to know it.
const (
	// LeaderSelf is for a control plane that is alone: it leads.
	LeaderSelf Leadership = "self"
	// LeaderNone is for one of several beside a catalog in a file, where they do not find
	// each other: another one is started with LeaderSelf.
	LeaderNone Leadership = "none"
	// LeaderConsul is for several: they elect one by a lock in Consul.
	LeaderConsul Leadership = "consul"
)

// leadEvery is how often the leader looks whether there is a step to take, beside
// when something has changed.
const leadEvery = time.Second

var errNoConsul = errors.New("--leader consul: the catalog comes from a file, and replicas find each other in Consul")

// Replicas keeps this control plane among the others of its mesh, at the Consul that
// the mesh file names.
type Replicas struct {
	log       *slog.Logger
	override  string // as that of Catalogs
	name      string
	lookupEnv func(string) (string, bool)
	local     func() replica.Member
	seen      func(*replica.View)
	stages    *sharedStages

	started chan struct{}
	nudge   chan struct{} // the leader is to look

	mu      sync.Mutex
	current *replication // nil before the first mesh file
}

// replication is a replica at one Consul.
type replication struct {
	*replica.Replica
	work   *worker
	target target
	mesh   string
}

func newReplicas(log *slog.Logger, override, name string, local func() replica.Member, seen func(*replica.View), wake func()) *Replicas {
	r := &Replicas{
		log: log, override: override, name: name, lookupEnv: os.LookupEnv, local: local, seen: seen,
		started: make(chan struct{}, 1), nudge: make(chan struct{}, 1),
	}
	r.stages = &sharedStages{log: log, write: r.writeStages, wake: wake, said: r.Changed}
	return r
}

// running is the replica that runs now, or nil.
func (r *Replicas) running() *replication {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// View is what this replica knows of all; nil before the first mesh file.
func (r *Replicas) View() *replica.View {
	if current := r.running(); current != nil {
		return current.View()
	}
	return nil
}

// Changed says that there is something else to tell the others. It does not wait.
func (r *Replicas) Changed() {
	if current := r.running(); current != nil {
		current.Changed()
	}
}

func (r *Replicas) writeStages(ctx context.Context, v *replica.View, next replica.Stages) error {
	current := r.running()
	if current == nil {
		return replica.ErrNotLeading
	}
	return current.WriteStages(ctx, v, next)
}

// WritePin writes a word of an operator for all, as [replica.Replica.WritePin].
func (r *Replicas) WritePin(ctx context.Context, v *replica.View, next replica.Pin, text []byte) error {
	current := r.running()
	if current == nil {
		return replica.ErrBehind
	}
	return current.WritePin(ctx, v, next, text)
}

// PinText is what goes with it, as [replica.Replica.Text].
func (r *Replicas) PinText(ctx context.Context, revision string) ([]byte, error) {
	current := r.running()
	if current == nil {
		return nil, errors.New("this replica has not begun")
	}
	return current.Text(ctx, revision)
}

// Follow finds the others where m says. An error says that it cannot work whatever
// Consul does; then nothing has changed.
func (r *Replicas) Follow(m *policy.Mesh) error {
	t := targetOf(r.override, m)
	if t.file != "" {
		return errNoConsul
	}
	if current := r.running(); current != nil && current.target == t && current.mesh == m.Name {
		return nil
	}
	// Files are read for it, and streams wait for the lock.
	client, err := t.consul.client(r.lookupEnv, consulConnections)
	if err != nil {
		return err
	}
	next := &replication{target: t, mesh: m.Name}
	next.work = newWorker(func(ctx context.Context) { next.Run(ctx) }, func() {
		next.Release()
		client.Close()
	})
	next.Replica = replica.New(client, m.Name, r.name, r.log, r.local, func(v *replica.View) {
		if next.work.ctx.Err() == nil {
			r.take(v)
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil {
		r.current.work.end()
	}
	r.current = next
	select {
	case r.started <- struct{}{}:
	default: // Run is to look anyway
	}
	return nil
}

// take takes what is known of all.
func (r *Replicas) take(v *replica.View) {
	r.stages.seen(v)
	r.seen(v)
	select {
	case r.nudge <- struct{}{}:
	default:
	}
}

// Run runs what the mesh file asks for until ctx ends.
func (r *Replicas) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	look := time.NewTicker(leadEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			r.stages.lead(ctx)
			continue
		case <-r.nudge:
			r.stages.lead(ctx)
			continue
		case <-r.started:
		}
		r.mu.Lock()
		if r.current != nil {
			r.current.work.begin(ctx, &running)
		}
		r.mu.Unlock()
	}
}

// Release tells the others that this one is gone: the last that it does.
func (r *Replicas) Release() {
	r.mu.Lock()
	current := r.current
	r.current = nil
	r.mu.Unlock()
	if current != nil {
		current.work.finish()
	}
}
