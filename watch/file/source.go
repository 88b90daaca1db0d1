// Package file is a catalog in a YAML file, for a mesh without Consul: a
// service's name, and a list of its instances. The file is read again when it
// changes; one with a mistake changes nothing and says where.
//
// [Follow], which watches the file, serves other files too.
package file

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/yamlfile"
)

// Source reads a file catalog and follows its changes.
type Source struct {
	path    string
	log     *slog.Logger
	publish func(*watch.Catalog)

	catalog *watch.Catalog // the last good one
	data    []byte         // what was read last, good or not

	mu     sync.Mutex
	status watch.Status
}

// New returns a source that hands each new catalog to publish.
func New(path string, log *slog.Logger, publish func(*watch.Catalog)) *Source {
	return &Source{
		path: path, log: log.With("catalog", path), publish: publish,
		catalog: watch.NewCatalog(),
		status:  watch.Status{Mode: "file", Waiting: []string{path + ": not read yet"}},
	}
}

// Run publishes the catalog and every later state of it until ctx ends. A file
// that is missing or has a mistake is no reason to return: it is reported, and
// read again when it changes.
func (s *Source) Run(ctx context.Context) error {
	Follow(ctx, s.log, []string{s.path}, s.load)
	return nil
}

// Status returns the state of the file.
func (s *Source) Status() watch.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Validate reads a file catalog and checks it. The error is
// [yamlfile.Problems] unless the file cannot be read.
func Validate(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = Parse(path, data)
	return err
}

func (s *Source) load() {
	data, err := os.ReadFile(s.path)
	if err != nil {
		s.data = nil
		s.failed(err)
		return
	}
	if s.data != nil && bytes.Equal(data, s.data) {
		return
	}
	s.data = data
	services, err := Parse(s.path, data)
	if err != nil {
		s.failed(err)
		return
	}
	s.loaded(services)
}

func (s *Source) loaded(services []*watch.Service) {
	named := make(map[string]bool, len(services))
	for _, service := range services {
		named[service.Name] = true
	}
	var gone []string
	for old := range s.catalog.Services() {
		if !named[old.Name] {
			gone = append(gone, old.Name)
		}
	}
	next := s.catalog.Update(services, gone)

	s.mu.Lock()
	first, failing := !s.status.Ready, len(s.status.Waiting) > 0
	s.status.Ready, s.status.Waiting, s.status.LastSuccess = true, nil, time.Now()
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
	s.mu.Lock()
	ready := s.status.Ready
	s.status.Waiting = []string{err.Error()}
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
