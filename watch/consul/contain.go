package consul

import (
	"fmt"
	"runtime/debug"
)

// contained turns a panic into an error, so that what Consul answered ends
// neither the process nor the watch of another service: the query that had the
// answer has failed, and asks again after a while. The log has the first one
// whole; what fails shows in the health of its query anyway.
func (s *Source) contained(do func() error) (err error) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		err = fmt.Errorf("panic: %v", r)
		if s.panicked.CompareAndSwap(false, true) {
			s.log.Error("panic in the catalog's source, the first one", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	return do()
}

// step does one event in the goroutine of Run.
func (s *Source) step(do func()) {
	err := s.contained(func() error { do(); return nil })
	if err != nil {
		s.log.Error("an event of the catalog is lost; the next answer makes it good", "err", err)
	}
}
