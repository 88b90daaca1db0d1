// Package memory keeps the last good catalog on disk, so that a control plane that
// starts while its Consul is away, or has lost what it knew, serves what was there.
// It owns the file and when it is written. It does not know where catalogs come
// from, nor when a kept one is to be believed.
package memory

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

const (
	// name is the file's in the data directory.
	name = "catalog.yaml"
	// formatVersion is raised when a control plane of before could not read the file.
	formatVersion = 1
	// confirm is how often a catalog that does not change is written again, for the
	// sake of when it was known to be so.
	confirm = 10 * time.Minute
	// maxSize bounds what is read: 20,000 services of ten instances are 50 MB.
	maxSize = 256 << 20
)

// Kept is a catalog of the disk.
type Kept struct {
	Catalog *watch.Catalog
	Known   time.Time // when its source last said so
}

// Memory keeps the catalogs of one mesh in a directory.
type Memory struct {
	file   atomicfile.Sealed
	keeper *atomicfile.Keeper

	mu    sync.Mutex
	last  *watch.Catalog // to be kept; nil: nothing yet
	known time.Time
	done  *watch.Catalog // what the file has
	at    time.Time      // what it says of when that was known
}

// New returns the memory of a mesh in an existing directory.
func New(dir, mesh string) *Memory {
	m := &Memory{file: atomicfile.Sealed{
		Path: filepath.Join(dir, name), Title: "# The last good catalog, kept by the control plane: ", Format: formatVersion, Mesh: mesh, MaxSize: maxSize,
	}}
	m.keeper = atomicfile.NewKeeper(m.file.Path, m.encode)
	return m
}

// Path is where the catalog is kept.
func (m *Memory) Path() string { return m.file.Path }

// Load returns what is kept; nil if nothing is. What cannot be believed is set
// aside, for people to look at, and named in the error.
func (m *Memory) Load() (kept *Kept, err error) {
	err = m.file.Load(func(body []byte, known time.Time) error {
		services, err := file.Parse(name, body)
		if err != nil {
			return err
		}
		kept = &Kept{Catalog: watch.NewCatalog().Update(services, nil), Known: known}
		return nil
	})
	return kept, err
}

// Keep has a catalog kept that its source vouches for now. It does not wait.
func (m *Memory) Keep(c *watch.Catalog, known time.Time) {
	m.mu.Lock()
	m.last, m.known = c, known
	m.mu.Unlock()
	m.keeper.Changed()
}

// Failures returns how many writes have failed since the start, and why what is in
// force is not on disk.
func (m *Memory) Failures() (count uint64, last error) { return m.keeper.Failures() }

// Run writes what is to be kept until ctx ends, and then once more.
func (m *Memory) Run(ctx context.Context) { m.keeper.Run(ctx) }

// encode returns the file if it is to be written. The last word is when it ended.
func (m *Memory) encode(end bool) (data []byte, written func(), err error) {
	m.mu.Lock()
	c, known, same := m.last, m.known, m.last == m.done && m.known.Sub(m.at) < confirm
	m.mu.Unlock()
	if c == nil || same && !end {
		return nil, nil, nil
	}
	body, err := encode(c)
	if err == nil {
		data, err = m.file.Seal(body, known)
	}
	return data, func() {
		m.mu.Lock()
		m.done, m.at = c, known
		m.mu.Unlock()
	}, err
}
