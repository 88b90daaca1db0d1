// Package file is a catalog in a YAML file, for a mesh without Consul: a
// service's name, and a list of its instances. The file is read again when it
// changes; one with a mistake changes nothing and says where, and one that
// removes much, or is a beginning of the last, has to wait.
package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"datapunk.dev/controlplane/follow"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/yamlfile"
)

// maxSize bounds a file, in bytes: 20,000 services of ten instances have 50 MB.
const maxSize = 64 << 20

// Source reads a file catalog and follows its changes.
type Source struct {
	path    string
	log     *slog.Logger
	publish func(*watch.Catalog)
	meant   func(data []byte) bool

	catalog  *watch.Catalog // in force
	data     []byte         // what was read last, good or not
	info     fs.FileInfo    // of it
	unread   string         // why it could not be read last; empty: it was
	good     []byte         // what was taken last
	goodInfo fs.FileInfo    // of it
	held     *hold          // of data; nil: it does not wait

	mu       sync.Mutex
	status   watch.Status
	removals []watch.Removal // of what is held
	heldData []byte          // the file that it is of
}

// New returns a source that hands each new catalog to publish. It asks meant
// whether somebody has said of a file that it is meant, whatever it removes;
// nil: nobody ever does.
func New(path string, log *slog.Logger, meant func(data []byte) bool, publish func(*watch.Catalog)) *Source {
	if meant == nil {
		meant = func([]byte) bool { return false }
	}
	return &Source{
		path: path, log: log.With("catalog", path), publish: publish, meant: meant,
		catalog: watch.NewCatalog(),
		status:  watch.Status{Mode: "file", Waiting: []string{path + ": not read yet"}},
	}
}

// Run publishes the catalog and every later state of it until ctx ends. A file
// that is missing or has a mistake is no reason to return: it is reported, and
// read again when it changes.
func (s *Source) Run(ctx context.Context) error {
	// A program writes it, and may write it often.
	timing := follow.Timing{Settle: 50 * time.Millisecond, MaxSettle: time.Second, Poll: 2 * time.Second}
	follow.Files(ctx, s.log, []string{s.path}, timing, nil, s.look)
	return nil
}

// look reads the file, or looks again at what is held of it. It returns when to
// look again.
func (s *Source) look(why follow.Why) time.Duration {
	if why == follow.Due {
		s.contained(s.reconsider)
	} else {
		s.contained(s.load)
	}
	if s.held == nil {
		return 0
	}
	return look
}

// contained does a step. A panic in it is a failure like any other: what stands
// in a file must not end the process.
func (s *Source) contained(do func()) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("panic in reading the catalog", "panic", r, "stack", string(debug.Stack()))
			s.failed(fmt.Errorf("%s: panic: %v", s.path, r))
		}
	}()
	do()
}

// Status returns the state of the file.
func (s *Source) Status() watch.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Removals are those that are held, each with the ID that revision gives the file.
func (s *Source) Removals(revision func(data []byte) string) []watch.Removal {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := slices.Clone(s.removals)
	for i := range held {
		held[i].ID = revision(s.heldData)
	}
	return held
}

// Validate reads a file catalog and checks it. The error is
// [yamlfile.Problems] unless the file cannot be read.
func Validate(path string) error {
	data, _, err := read(path)
	if err != nil {
		return err
	}
	_, err = Parse(path, data)
	return err
}

func (s *Source) load() {
	data, info, err := read(s.path)
	if err != nil {
		if s.data = nil; s.unread != err.Error() {
			s.unread = err.Error()
			s.failed(err)
		}
		return
	}
	s.unread = ""
	if s.data != nil && bytes.Equal(data, s.data) {
		return
	}
	s.data, s.info = data, info
	services, err := Parse(s.path, data)
	if err != nil {
		s.failed(err)
		return
	}
	s.judge(services)
}

// read reads a file. A pipe or a device in its place may never come to an end,
// and with it this process.
func read(path string) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no regular file", path)
	}
	if info.Size() > maxSize {
		return nil, nil, fmt.Errorf("%s has %d bytes; at most %d", path, info.Size(), maxSize)
	}
	data, err := os.ReadFile(path)
	return data, info, err
}

// take puts the services of the file in force.
func (s *Source) take(services []*watch.Service) {
	s.good, s.goodInfo = s.data, s.info
	s.loaded(s.catalog.Update(services, gone(s.catalog, services)), nil)
}

// loaded puts a catalog in force. What is held back of the file is nil if it is
// all of it.
func (s *Source) loaded(next *watch.Catalog, held *hold) {
	s.held = held
	s.mu.Lock()
	first, failing := !s.status.Ready, len(s.status.Waiting) > 0
	s.status.Ready, s.status.Waiting, s.status.LastSuccess = true, nil, time.Now()
	s.status.Held, s.status.HeldServices = held.status()
	s.removals, s.heldData = held.removals(next), s.data
	s.mu.Unlock()
	if next != s.catalog || first {
		s.catalog = next
		s.log.Info("catalog read", "services", next.Len())
		s.publish(next)
	} else if failing {
		s.log.Info("catalog as it was: it can be read again")
	}
}

// failed keeps the last good catalog and says why.
func (s *Source) failed(err error) {
	s.held = nil
	s.mu.Lock()
	ready := s.status.Ready
	s.status.Waiting = []string{err.Error()}
	s.status.Held, s.status.HeldServices = nil, 0
	s.removals = nil
	s.status.Errors++
	s.mu.Unlock()
	message := "catalog refused: there is none yet"
	if ready {
		message = "catalog refused: the last good one stays"
	}
	var problems yamlfile.Problems
	if !errors.As(err, &problems) {
		s.log.Error(message, "err", err)
		return
	}
	for _, p := range problems {
		s.log.Error(message, "err", p.String(), "hint", p.Hint)
	}
}
