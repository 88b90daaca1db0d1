package listen

import (
	"errors"
	"os"
	"sync"
	"syscall"
)

// spares are descriptors that are held for when the process has no other, so that people
// can still look at it.
type spares struct {
	want int

	mu    sync.Mutex
	files []*os.File
}

// fill takes as many as are wanted, or there are.
func (s *spares) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.files) < s.want {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		s.files = append(s.files, f)
	}
}

// release gives one back. It is false if there is none.
func (s *spares) release() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.files)
	if n == 0 {
		return false
	}
	_ = s.files[n-1].Close()
	s.files = s.files[:n-1]
	return true
}

// close gives back all.
func (s *spares) close() {
	s.mu.Lock()
	s.want = 0
	s.mu.Unlock()
	for s.release() {
	}
}

// outOfDescriptors reports whether the process, or the machine, has no more.
func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
