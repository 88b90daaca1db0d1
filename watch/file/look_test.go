package file

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"datapunk.dev/controlplane/follow"
	"datapunk.dev/controlplane/watch"
)

// The file is read every two seconds, whatever became of it.
func TestAFileThatCannotBeReadIsSaidOnceAndReadWhenItComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	const one = "services:\n  lake: [{id: a, address: 10.0.0.1, port: 80}]\n"
	published := 0
	s := New(path, slog.New(slog.DiscardHandler), nil, func(*watch.Catalog) { published++ })
	failures := func(n uint64) {
		t.Helper()
		for range 3 {
			s.look(follow.Changed)
		}
		if status := s.Status(); status.Errors != n || len(status.Waiting) != 1 {
			t.Errorf("%d errors, waiting for %v; want %d errors", status.Errors, status.Waiting, n)
		}
	}
	failures(1) // it is not there
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	failures(2) // and for another reason
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is away again, and comes back as it was
		failures(s.Status().Errors + 1)
		if err := os.WriteFile(path, []byte(one), 0o600); err != nil {
			t.Fatal(err)
		}
		s.look(follow.Changed)
		if status := s.Status(); !status.Ready || len(status.Waiting) > 0 || published != 1 {
			t.Errorf("published %d times, status %+v", published, status)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
