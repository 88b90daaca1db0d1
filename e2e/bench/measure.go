package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// result is what one kind of server took for one world.
type result struct {
	Kind  string `json:"kind"`
	World world  `json:"world"`

	SyncCPU  float64 `json:"sync_cpu_s"`  // of the server, until every stream had all
	SyncWall float64 `json:"sync_wall_s"` // the same, by the clock
	SyncMB   float64 `json:"sync_mb"`     // received by all streams
	RSS      float64 `json:"rss_mb"`      // of the server, with all streams idle
	StreamKB float64 `json:"stream_kb"`   // RSS for each stream, beyond that without any

	Changes     int     `json:"changes"`
	Subscribers int     `json:"subscribers"` // streams that have the changed service
	ChangeCPU   float64 `json:"change_cpu_s"`
	ChangeKB    float64 `json:"change_kb"`     // received by all streams
	ChangeAlloc float64 `json:"change_allocs"` // allocations of the server
	P50         float64 `json:"p50_ms"`        // over every (change, stream) pair
	P99         float64 `json:"p99_ms"`
	Last        float64 `json:"last_ms"` // the median of the last stream of each change
	ClientCPU   float64 `json:"client_cpu_s"`
}

// process is a server in a process of its own.
type process struct {
	cmd           *exec.Cmd
	xds, controls string
}

func start(ctx context.Context, kind string, w world) (*process, error) {
	spec, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, os.Args[0], "--serve", kind, "--world", string(spec))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not start: %w", kind, err), cmd.Wait())
	}
	addrs := strings.Fields(line)
	return &process{cmd: cmd, xds: addrs[0], controls: addrs[1]}, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *process) usage(gc bool) (usage, error) {
	url := "http://" + p.controls + "/usage"
	if gc {
		url += "?gc"
	}
	var u usage
	resp, err := http.Get(url) //nolint:gosec,noctx // the bench's own server, on loopback
	if err != nil {
		return u, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	return u, json.NewDecoder(resp.Body).Decode(&u)
}

func (p *process) do(what string, service, n int) error {
	resp, err := http.Post(fmt.Sprintf("http://%s/%s?service=%d&n=%d", p.controls, what, service, n), "", nil) //nolint:gosec,noctx // likewise
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", what, text)
	}
	return nil
}

// settle is how long a server is left alone before it is looked at.
const settle = 500 * time.Millisecond

// measure runs one kind of server through one world: all streams connect, and
// then one endpoint changes again and again, the next one when the last has
// arrived everywhere.
func measure(ctx context.Context, kind string, w world, changes int) (result, error) {
	r := result{Kind: kind, World: w, Changes: changes, Subscribers: w.subscribers(0)}
	p, err := start(ctx, kind, w)
	if err != nil {
		return r, err
	}
	defer p.stop()
	empty, err := p.usage(true)
	if err != nil {
		return r, err
	}

	begin, mine := time.Now(), used()
	f, err := connect(ctx, p.xds, w)
	if err != nil {
		return r, fmt.Errorf("%s: %w", kind, err)
	}
	defer f.stop()
	r.SyncWall = time.Since(begin).Seconds()
	time.Sleep(settle)
	full, err := p.usage(true)
	if err != nil {
		return r, err
	}
	r.SyncCPU, r.SyncMB = full.CPU-empty.CPU, float64(f.bytes.Load())/1e6
	time.Sleep(settle)
	idle, err := p.usage(true)
	if err != nil {
		return r, err
	}
	r.RSS = float64(idle.RSS) / 1e6
	r.StreamKB = float64(idle.RSS-empty.RSS) / 1e3 / float64(w.Streams)

	if err := r.change(p, f, changes); err != nil {
		return r, fmt.Errorf("%s: %w", kind, err)
	}
	if err := f.failed.Load(); err != nil {
		return r, fmt.Errorf("%s: a stream ended: %w", kind, *err)
	}
	r.ClientCPU = used().CPU - mine.CPU
	return r, nil
}

func (r *result) change(p *process, f *fleet, changes int) error {
	var mu sync.Mutex
	var latencies, lasts []float64
	var began time.Time
	missing, done := 0, make(chan struct{})
	current := 0
	f.observe(func(_, service, n int, at time.Time) {
		mu.Lock()
		defer mu.Unlock()
		if service != 0 || n != current || missing == 0 {
			return
		}
		latencies = append(latencies, at.Sub(began).Seconds()*1e3)
		if missing--; missing == 0 {
			lasts = append(lasts, at.Sub(began).Seconds()*1e3)
			done <- struct{}{}
		}
	})
	var cpu, bytes, allocs float64
	const warm = 2 // changes that are not counted
	for n := 1; n <= changes+warm; n++ {
		if err := p.do("prepare", 0, n); err != nil {
			return err
		}
		time.Sleep(settle / 5)
		before, err := p.usage(false)
		if err != nil {
			return err
		}
		received := f.bytes.Load()
		mu.Lock()
		current, missing, began = n, r.Subscribers, time.Now()
		mu.Unlock()
		if err := p.do("change", 0, n); err != nil {
			return err
		}
		select {
		case <-done:
		case <-time.After(time.Minute):
			return fmt.Errorf("change %d: %d of %d streams did not get it", n, missing, r.Subscribers)
		}
		time.Sleep(settle / 2) // the ACKs are part of the cost
		after, err := p.usage(false)
		if err != nil {
			return err
		}
		if n <= warm {
			mu.Lock()
			latencies, lasts = nil, nil
			mu.Unlock()
			continue
		}
		cpu += after.CPU - before.CPU
		bytes += float64(f.bytes.Load() - received)
		allocs += float64(after.Mallocs - before.Mallocs)
	}
	each := float64(changes)
	r.ChangeCPU, r.ChangeKB, r.ChangeAlloc = cpu/each, bytes/each/1e3, allocs/each
	r.P50, r.P99, r.Last = percentile(latencies, 50), percentile(latencies, 99), percentile(lasts, 50)
	return nil
}

// percentile returns the smallest value that p percent of the values do not
// exceed.
func percentile(values []float64, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}
