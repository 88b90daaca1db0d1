package atomicfile

import (
	"context"
	"sync"
	"time"
)

// pause is the shortest time between two writes of a [Keeper]: what changes all the
// time must not wear a disk.
const pause = 10 * time.Second

// Keeper writes a file whose content changes often: once in ten seconds at most, and
// at its end. A disk that is slow, full or gone stops nobody but it.
type Keeper struct {
	path   string
	encode func(end bool) (data []byte, written func(), err error)
	kick   chan struct{}
	write  func(path string, data []byte) error

	mu     sync.Mutex
	err    error  // of the last write
	errors uint64 // since the start
}

// NewKeeper returns the keeper of a file. What it is to have, encode returns: nil if
// there is nothing to write; it is told of its last call, and calls written when the
// file has the data.
func NewKeeper(path string, encode func(end bool) (data []byte, written func(), err error)) *Keeper {
	return &Keeper{
		path: path, encode: encode, kick: make(chan struct{}, 1),
		write: func(path string, data []byte) error { return Write(path, data, 0o600) },
	}
}

// WriteWith has the keeper write by another function: a disk of a test may be full.
// It is called before [Keeper.Run].
func (k *Keeper) WriteWith(write func(path string, data []byte) error) { k.write = write }

// Changed says that encode may have something to write. It does not wait.
func (k *Keeper) Changed() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// Failures returns how many writes have failed since the start, and why the file is
// not as it should be.
func (k *Keeper) Failures() (count uint64, last error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.errors, k.err
}

// Run writes until ctx ends, and then once more.
func (k *Keeper) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			k.save(true)
			return
		case <-k.kick:
			k.save(false)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (k *Keeper) save(end bool) {
	data, written, err := k.encode(end)
	if err == nil && data == nil {
		return
	}
	if err == nil {
		err = k.write(k.path, data)
	}
	k.mu.Lock()
	k.err = err
	if err != nil {
		k.errors++
	}
	k.mu.Unlock()
	if err == nil {
		written()
		return
	}
	k.Changed() // it is tried again
}
