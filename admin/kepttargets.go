package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/atomicfile"
)

const (
	targetsFile = "targets.yaml"
	// maxTargetsFile bounds what is read of it: a target has four labels at most.
	maxTargetsFile = 64 << 20
	// keepTargetsEvery is how often the file is written while no target comes or goes,
	// for the sake of when each was seen.
	keepTargetsEvery = time.Minute
)

// keptTargets is the file of what Prometheus was told: after a restart a proxy that has
// not come back is still a target that does not answer.
type keptTargets struct {
	file   atomicfile.Sealed
	keeper *atomicfile.Keeper

	mu    sync.Mutex
	asked time.Time // to be written
}

// Keep has the targets kept in a directory, and takes those that are there. A file that
// cannot be believed is set aside, and named in the error; the targets are kept anyway.
// It is called before the first request.
func (t *Targets) Keep(dir, mesh string) error {
	k := &keptTargets{file: atomicfile.Sealed{
		Path:  filepath.Join(dir, targetsFile),
		Title: "# What Prometheus was told to scrape, kept by the control plane: ", Format: 1, Mesh: mesh, MaxSize: maxTargetsFile,
	}}
	k.keeper = atomicfile.NewKeeper(k.file.Path, func(bool) ([]byte, func(), error) {
		body, err := t.encode()
		if err != nil || body == nil {
			return nil, nil, err
		}
		data, err := k.file.Seal(body, time.Now())
		return data, func() {}, err
	})
	t.kept = k
	return k.file.Load(func(body []byte, _ time.Time) error { return t.decode(body) })
}

// Run writes the file until ctx ends, and then once more.
func (t *Targets) Run(ctx context.Context) {
	if t.kept != nil {
		t.kept.keeper.Run(ctx)
	}
}

// Collector returns the metric of the writes of the file.
func (t *Targets) Collector() prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "controlplane_targets_keep_errors_total", Help: "Writes of the scrape targets to the data directory that failed.",
	}, func() float64 {
		if t.kept == nil {
			return 0
		}
		n, _ := t.kept.keeper.Failures()
		return float64(n)
	})
}

// listed is told that the targets were listed.
func (k *keptTargets) listed(changed bool, now time.Time) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if changed || now.Sub(k.asked) >= keepTargetsEvery {
		k.asked = now
		k.keeper.Changed()
	}
}

// encode writes a line for each target; nothing if nobody has asked for them.
func (t *Targets) encode() ([]byte, error) {
	t.mu.Lock()
	all := slices.SortedFunc(maps.Values(t.seen), func(a, b target) int { return cmp.Compare(a.Node, b.Node) })
	t.mu.Unlock()
	if len(all) == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	for i, one := range all {
		line, err := json.Marshal(one)
		if err != nil {
			return nil, err
		}
		b.WriteString([]string{"[", ",\n"}[min(i, 1)])
		b.Write(line)
	}
	b.WriteString("]\n")
	return b.Bytes(), nil
}

func (t *Targets) decode(body []byte) error {
	var all []target
	if err := json.Unmarshal(body, &all); err != nil {
		return err
	}
	if len(all) > maxTargets {
		return fmt.Errorf("it has %d targets", len(all))
	}
	for _, one := range all {
		if one.Node == "" || one.Address == "" {
			return fmt.Errorf("a target has no node or no address")
		}
		t.seen[one.Node] = one
	}
	return nil
}
