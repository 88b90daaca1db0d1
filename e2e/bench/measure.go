package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// result is what one kind of server took for one world.
type result struct {
	Title string `json:"title"`
	Kind  string `json:"kind"`
	World world  `json:"world"`

	SyncCPU  float64 `json:"sync_cpu_s"`  // of the server, until every stream had all
	SyncWall float64 `json:"sync_wall_s"` // the same, by the clock
	SyncMB   float64 `json:"sync_mb"`     // received by all streams
	RSS      float64 `json:"rss_mb"`      // of the server, with all streams idle
	StreamKB float64 `json:"stream_kb"`   // RSS for each stream, beyond that without any

	Changes     int     `json:"changes"`
	Subscribers float64 `json:"subscribers"` // streams that have the changed service, on average
	ChangeCPU   float64 `json:"change_cpu_s"`
	ChangeKB    float64 `json:"change_kb"`     // received by all streams
	ChangeAlloc float64 `json:"change_allocs"` // allocations of the server
	P50         float64 `json:"p50_ms"`        // over every (change, stream) pair
	P99         float64 `json:"p99_ms"`
	Last        float64 `json:"last_ms"`      // the median of the last stream of each change
	LastACK     float64 `json:"last_ack_ms"`  // the median, until the last stream has sent its ACK
	WorstACK    float64 `json:"worst_ack_ms"` // the same, of the slowest change
	ClientCPU   float64 `json:"client_cpu_s"` // of the streams, in the whole run
	Others      float64 `json:"other_cores"`  // that something else used during the changes
	BesideCPU   float64 `json:"consul_cpu_s"` // of the Consul that feeds the server, a change

	// Of a world with an agent:
	P99ACK      float64 `json:"p99_ack_ms"`
	Connections int     `json:"connections"`
	TooMany     uint64  `json:"too_many"`     // answers 429
	Idle        float64 `json:"idle_percent"` // of a core, with nothing to do
	BesideIdle  float64 `json:"consul_idle_percent"`
}

// settle is how long a server is left alone before it is looked at.
const settle = 500 * time.Millisecond

// measurement is one kind of server in one world.
type measurement struct {
	title    string
	kind     string
	world    world
	changes  int
	profiles string // a directory for CPU profiles; empty: none
	idle     time.Duration
}

// do runs it: all streams connect, and then one endpoint changes, of one
// service after the other, each when the last has arrived everywhere.
func (m measurement) do(ctx context.Context) (result, error) {
	w := m.world
	s, err := startSubject(ctx, m.kind, &w)
	if err != nil {
		return result{}, fmt.Errorf("%s: %w", m.kind, err)
	}
	defer s.stop()
	r := result{Title: m.title, Kind: m.kind, World: w, Changes: m.changes}
	if err := r.run(ctx, m, s, w); err != nil {
		return r, fmt.Errorf("%s: %w", m.kind, err)
	}
	return r, nil
}

func (r *result) run(ctx context.Context, m measurement, s *subject, w world) error {
	empty, err := s.usage(returned)
	if err != nil {
		return err
	}
	stopProfile, err := profileOf(s, m.profiles, m.title+", first sync")
	if err != nil {
		return err
	}
	begin, mine := time.Now(), used()
	f, err := connect(ctx, s, w)
	if err != nil {
		return err
	}
	defer f.stop()
	r.SyncWall = time.Since(begin).Seconds()
	time.Sleep(settle)
	full, err := s.usage(collected)
	if err != nil {
		return err
	}
	r.SyncCPU, r.SyncMB = full.CPU-empty.CPU, float64(f.bytes.Load())/1e6
	if err := stopProfile(); err != nil {
		return err
	}
	time.Sleep(settle)
	idle, err := s.usage(collected)
	if err != nil {
		return err
	}
	r.RSS = float64(idle.RSS) / 1e6
	r.StreamKB = float64(idle.RSS-empty.RSS) / 1e3 / float64(w.Streams)

	if stopProfile, err = profileOf(s, m.profiles, m.title+", changes"); err != nil {
		return err
	}
	if err := r.change(ctx, s, f, m.changes); err != nil {
		return err
	}
	if err := stopProfile(); err != nil {
		return err
	}
	if err := r.rest(s, m.idle); err != nil {
		return err
	}
	if err := f.failed.Load(); err != nil {
		return fmt.Errorf("a stream ended: %w", *err)
	}
	r.ClientCPU = used().CPU - mine.CPU
	return nil
}

// profileOf profiles a server until stop is called.
func profileOf(s *subject, dir, title string) (stop func() error, err error) {
	if dir == "" || s.profile == nil {
		return func() error { return nil }, nil
	}
	file, err := filepath.Abs(filepath.Join(dir, title+" "+s.kind+".pprof"))
	if err != nil {
		return nil, err
	}
	return func() error { return s.profile("") }, s.profile(file)
}

// pending is a change on its way.
type pending struct {
	mu             sync.Mutex
	service, place int
	began          time.Time
	missing        int // streams
	latencies      []float64
	last, acked    time.Time
	done           chan struct{}
}

func (p *pending) begin(service, place, subscribers int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.service, p.place, p.missing = service, place, subscribers
	p.last, p.acked = time.Time{}, time.Time{}
	p.began = time.Now()
}

func (p *pending) arrived(a arrival) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.missing == 0 || a.service != p.service || a.place != p.place {
		return
	}
	p.latencies = append(p.latencies, ms(a.at.Sub(p.began)))
	if a.at.After(p.last) {
		p.last = a.at
	}
	if a.acked.After(p.acked) {
		p.acked = a.acked
	}
	if p.missing--; p.missing == 0 {
		p.done <- struct{}{}
	}
}

// change makes the changes and adds up what they cost.
func (r *result) change(ctx context.Context, s *subject, f *fleet, changes int) error {
	now := &pending{done: make(chan struct{}, 1)}
	f.observe(now.arrived)
	var cpu, bytes, allocs, beside float64
	var lasts, acks []float64
	const warm = 2 // changes that are not counted
	subscribers := 0
	others := s.others()
	for i := range changes + warm {
		service, n := r.World.changes(i), i/r.World.Services+1
		if err := s.prepare(service, n); err != nil {
			return err
		}
		time.Sleep(settle / 5)
		before, besideBefore, err := s.usages()
		if err != nil {
			return err
		}
		received, streams := f.bytes.Load(), r.World.subscribers(service)
		if streams == 0 {
			continue // no stream has it
		}
		place := n
		if r.World.Change == "check" {
			place = 0 // it stays where it is
		}
		now.begin(service, place, streams)
		if err := s.change(service, n); err != nil {
			return err
		}
		select {
		case <-now.done:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Minute):
			return fmt.Errorf("change %d: %d of %d streams did not get it", i, now.missing, streams)
		}
		time.Sleep(settle / 2) // the ACKs are part of the cost
		after, besideAfter, err := s.usages()
		if err != nil {
			return err
		}
		if i < warm {
			now.latencies = nil
			continue
		}
		cpu += after.CPU - before.CPU
		beside += besideAfter.CPU - besideBefore.CPU
		bytes += float64(f.bytes.Load() - received)
		allocs += float64(after.Mallocs - before.Mallocs)
		subscribers += streams
		lasts, acks = append(lasts, ms(now.last.Sub(now.began))), append(acks, ms(now.acked.Sub(now.began)))
	}
	r.Others = others.cores()
	each := float64(len(lasts))
	r.ChangeCPU, r.ChangeKB, r.ChangeAlloc, r.BesideCPU = cpu/each, bytes/each/1e3, allocs/each, beside/each
	r.Subscribers = float64(subscribers) / each
	r.P50, r.P99, r.Last = percentile(now.latencies, 50), percentile(now.latencies, 99), percentile(lasts, 50)
	r.LastACK, r.P99ACK, r.WorstACK = percentile(acks, 50), percentile(acks, 99), percentile(acks, 100)
	return nil
}

// rest is what a server and the Consul beside it take when nothing changes, and
// what they have taken of each other.
func (r *result) rest(s *subject, idle time.Duration) error {
	if idle == 0 || s.beside == nil {
		return nil
	}
	before, besideBefore, err := s.usages()
	if err != nil {
		return err
	}
	time.Sleep(idle)
	after, besideAfter, err := s.usages()
	if err != nil {
		return err
	}
	r.Idle = (after.CPU - before.CPU) / idle.Seconds() * 100
	r.BesideIdle = (besideAfter.CPU - besideBefore.CPU) / idle.Seconds() * 100
	r.TooMany = after.TooMany
	s.beside.client.CloseIdleConnections() // they are not the server's
	r.Connections, err = connectionsTo(s.beside.HTTP)
	return err
}

// usages are those of the server and of the Consul beside it.
func (s *subject) usages() (server, beside usage, err error) {
	if server, err = s.usage(nothing); err == nil && s.beside != nil {
		beside, err = s.beside.usage(nothing)
	}
	return server, beside, err
}
