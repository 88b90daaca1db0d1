// Package journal keeps the last events of the control plane, for those who ask what has
// happened and for those who wait for what comes. It waits for nobody: who reads slower
// than events come misses some, and is told so.
package journal

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"datapunk.dev/controlplane/admin/api"
)

// Events of proxies come in crowds, when a fleet comes back or somebody wishes it: they
// take no room from those of operators and of the mesh file.
const (
	keepOfMesh    = 500
	keepOfProxies = 2000
)

// Journal is safe for concurrent use.
type Journal struct {
	life string // of this process: cursors of another one are known by it

	mu      sync.Mutex
	last    uint64 // the number of the newest event
	mesh    ring
	proxies ring
	changed chan struct{} // closed when there is a newer event
}

// New returns an empty journal.
func New() *Journal {
	return &Journal{
		life: strconv.FormatInt(time.Now().UnixNano(), 36), changed: make(chan struct{}),
		mesh: ring{most: keepOfMesh}, proxies: ring{most: keepOfProxies},
	}
}

// ring are the newest events of one sort.
type ring struct {
	list []numbered
	most int
	gone uint64 // the number of the newest one that is not there any more
}

type numbered struct {
	n     uint64
	event api.Event
}

func (r *ring) add(e numbered) {
	if len(r.list) == r.most {
		r.gone = r.list[0].n
		r.list[0] = numbered{}
		r.list = r.list[1:]
	}
	r.list = append(r.list, e) // which moves the rest to a new array now and then
}

// after are those behind a number.
func (r *ring) after(n uint64) []numbered {
	i, _ := slices.BinarySearchFunc(r.list, n+1, func(e numbered, n uint64) int { return cmp.Compare(e.n, n) })
	return r.list[i:]
}

// Add notes an event, with its time.
func (j *Journal) Add(e api.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	e.Time = time.Now().UTC()
	to := &j.mesh
	if e.Node != "" {
		to = &j.proxies
	}
	to.add(numbered{j.last, e})
	close(j.changed)
	j.changed = make(chan struct{})
}

// Read returns up to limit events after a cursor, of all that are there if it is empty,
// each with its cursor; and what is closed when there are newer ones.
func (j *Journal) Read(cursor string, limit int) (api.Events, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	at, known := j.position(cursor)
	is := api.Events{Events: []api.Event{}, Missed: cursor != "" && (!known || at.misses(j.mesh.gone, j.proxies.gone))}
	if cursor == "" || is.Missed { // what is gone by now is missed by nobody, or was told of
		at.meshGone, at.proxiesGone = j.mesh.gone, j.proxies.gone
	}
	found := slices.Concat(j.mesh.after(at.n), j.proxies.after(at.n))
	slices.SortFunc(found, func(a, b numbered) int { return cmp.Compare(a.n, b.n) })
	for _, e := range found[:min(limit, len(found))] {
		at.n = e.n
		e.event.Cursor = j.cursor(at)
		is.Events = append(is.Events, e.event)
	}
	is.Next = j.cursor(at)
	return is, j.changed
}

// position is how far a reader is: the number of the last event that it has, and those of
// the newest ones that were gone when it began. The older of one sort may be gone while
// it still reads older ones of the other.
type position struct{ n, meshGone, proxiesGone uint64 }

// misses reports whether an event is gone that a reader should have had.
func (p position) misses(meshGone, proxiesGone uint64) bool {
	return meshGone > max(p.n, p.meshGone) || proxiesGone > max(p.n, p.proxiesGone)
}

// cursor writes a position; without what is gone where the reader is past it.
func (j *Journal) cursor(p position) string {
	text := j.life + "-" + strconv.FormatUint(p.n, 10)
	if p.n >= max(p.meshGone, p.proxiesGone) {
		return text
	}
	return fmt.Sprintf("%s-%d-%d", text, p.meshGone, p.proxiesGone)
}

// position reads a cursor; one that is none of ours is before all.
func (j *Journal) position(cursor string) (p position, known bool) {
	text, ok := strings.CutPrefix(cursor, j.life+"-")
	if !ok {
		return position{}, false
	}
	parts := strings.Split(text, "-")
	numbers := make([]uint64, 3)
	if len(parts) != 1 && len(parts) != len(numbers) {
		return position{}, false
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 64)
		if err != nil || n > j.last {
			return position{}, false
		}
		numbers[i] = n
	}
	return position{numbers[0], numbers[1], numbers[2]}, true
}
