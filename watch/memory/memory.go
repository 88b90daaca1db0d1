// Package memory keeps the last good catalog on disk, so that a control plane that
// starts while its Consul is away, or has lost what it knew, serves what was there.
// It owns the file and when it is written. It does not know where catalogs come
// from, nor when a kept one is to be believed.
package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/watch"
)

const (
	// name is the file's in the data directory.
	name = "catalog.yaml"
	// pause is the shortest time between two writes: what changes with each check
	// must not wear a disk.
	pause = 10 * time.Second
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
	Mesh    string    // mesh.name of then
}

// Memory keeps the catalogs of one mesh in a directory.
type Memory struct {
	dir, mesh string
	kick      chan struct{}
	// write is how the file is written: a disk of a test may be full.
	write func(path string, data []byte) error

	mu     sync.Mutex
	last   *watch.Catalog // to be kept; nil: nothing yet
	known  time.Time
	err    error  // of the last write
	errors uint64 // since the start
}

// New returns the memory of a mesh in an existing directory.
func New(dir, mesh string) *Memory {
	return &Memory{dir: dir, mesh: mesh, kick: make(chan struct{}, 1), write: func(path string, data []byte) error { return atomicfile.Write(path, data, 0o600) }}
}

// Path is where the catalog is kept.
func (m *Memory) Path() string { return filepath.Join(m.dir, name) }

// Load returns what is kept; nil if nothing is. What cannot be believed is set
// aside, for people to look at, and named in the error.
func (m *Memory) Load() (*Kept, error) {
	kept, err := m.load()
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	}
	aside := m.Path() + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z")
	err = fmt.Errorf("the kept catalog %s is not used: %w", m.Path(), err)
	if moved := os.Rename(m.Path(), aside); moved != nil {
		return nil, fmt.Errorf("%w (and it cannot be set aside: %w)", err, moved)
	}
	return nil, fmt.Errorf("%w; it lies in %s now", err, aside)
}

func (m *Memory) load() (*Kept, error) {
	info, err := os.Lstat(m.Path())
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no file")
	case info.Size() > maxSize:
		return nil, fmt.Errorf("it has %d bytes", info.Size())
	}
	data, err := os.ReadFile(m.Path())
	if err != nil {
		return nil, err
	}
	kept, err := decode(name, data)
	if err != nil {
		return nil, err
	}
	if kept.Mesh != m.mesh {
		return nil, fmt.Errorf("it is of the mesh %q, and this is %q", kept.Mesh, m.mesh)
	}
	return kept, nil
}

// Keep has a catalog kept that its source vouches for now. It does not wait.
func (m *Memory) Keep(c *watch.Catalog, known time.Time) {
	m.mu.Lock()
	m.last, m.known = c, known
	m.mu.Unlock()
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// Failures returns how many writes have failed since the start, and why what is in
// force is not on disk.
func (m *Memory) Failures() (count uint64, last error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.errors, m.err
}

// Run writes what is to be kept until ctx ends, and then once more. A disk that is
// slow or gone stops nobody but this.
func (m *Memory) Run(ctx context.Context) {
	var done *watch.Catalog
	var at time.Time // what the file says of when it was known
	save := func() {
		m.mu.Lock()
		c, known := m.last, m.known
		m.mu.Unlock()
		if c == nil || c == done && known.Sub(at) < confirm {
			return
		}
		data, err := encode(c, m.mesh, known)
		if err == nil {
			err = m.write(m.Path(), data)
		}
		m.mu.Lock()
		m.err = err
		if err != nil {
			m.errors++
		}
		m.mu.Unlock()
		if err == nil {
			done, at = c, known
			return
		}
		select { // it is tried again
		case m.kick <- struct{}{}:
		default:
		}
	}
	for {
		select {
		case <-ctx.Done():
			at = time.Time{} // the last word is when it ended
			save()
			return
		case <-m.kick:
			save()
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
