package file_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	one = "services:\n  lake: [{id: a, address: 10.0.0.1, port: 80}]\n"
	two = "services:\n  lake: [{id: a, address: 10.0.0.1, port: 80}, {id: b, address: 10.0.0.2, port: 80}]\n"
)

// follow runs a source and returns it and what it publishes.
func follow(t *testing.T, path string) (*file.Source, <-chan *watch.Catalog) {
	t.Helper()
	return followMeant(t, path, nil)
}

func followMeant(t *testing.T, path string, meant func([]byte) bool) (*file.Source, <-chan *watch.Catalog) {
	t.Helper()
	catalogs := make(chan *watch.Catalog, 16)
	s := file.New(path, slog.New(slog.DiscardHandler), meant, func(c *watch.Catalog) { catalogs <- c })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, catalogs
}

func next(t *testing.T, catalogs <-chan *watch.Catalog) *watch.Catalog {
	t.Helper()
	select {
	case c := <-catalogs:
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("no catalog")
		return nil
	}
}

func instances(c *watch.Catalog) int {
	s := c.Service("lake")
	if s == nil {
		return -1
	}
	return len(s.Instances)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until what the status waits for contains part; "" means
// that it waits for nothing.
func eventually(t *testing.T, s *file.Source, part string) watch.Status {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		status := s.Status()
		waiting := strings.Join(status.Waiting, "\n")
		if (part == "") == (waiting == "") && strings.Contains(waiting, part) {
			return status
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting is %q, want %q", waiting, part)
		}
	}
}

func TestSourceReadsAndFollows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	write(t, path, one)
	s, catalogs := follow(t, path)
	first := next(t, catalogs)
	if got := instances(first); got != 1 {
		t.Fatalf("%d instances", got)
	}
	if status := s.Status(); !status.Ready || len(status.Waiting) > 0 {
		t.Errorf("status %+v", status)
	}

	write(t, path, two)
	second := next(t, catalogs)
	if got := instances(second); got != 2 {
		t.Fatalf("%d instances", got)
	}
	if changed, ok := second.ChangedSince(first); !ok || len(changed) != 1 {
		t.Errorf("the second catalog does not descend from the first: %v, %v", changed, ok)
	}

	write(t, path, "services: {}\n")
	if c := next(t, catalogs); c.Len() != 0 {
		t.Errorf("%d services left", c.Len())
	}
}

func TestSourceKeepsTheLastGood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	write(t, path, one)
	s, catalogs := follow(t, path)
	next(t, catalogs)

	write(t, path, "services:\n  lake: [{id: a}]\n")
	if status := eventually(t, s, "catalog.yaml:2:10: MC1006: an instance needs address, port"); !status.Ready || status.Errors != 1 {
		t.Errorf("status %+v", status)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, s, "no such file")

	write(t, path, one) // as it was: nothing to tell but that it is well
	eventually(t, s, "")
	select {
	case c := <-catalogs:
		t.Errorf("published %d services again", c.Len())
	default:
	}
}

func TestSourceWaitsForTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	s, catalogs := follow(t, path)
	if status := eventually(t, s, "no such file"); status.Ready {
		t.Error("ready without a catalog")
	}
	write(t, path, one)
	next(t, catalogs)
	if !s.Status().Ready {
		t.Error("not ready with a catalog")
	}
}

func TestSourceFollowsARename(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "catalog.yaml")
	write(t, path, one)
	_, catalogs := follow(t, path)
	next(t, catalogs)
	for _, text := range []string{two, one, two} { // from the second on, the watched file is a renamed one
		write(t, filepath.Join(dir, ".new"), text)
		if err := os.Rename(filepath.Join(dir, ".new"), path); err != nil {
			t.Fatal(err)
		}
		if got, want := instances(next(t, catalogs)), strings.Count(text, "id:"); got != want {
			t.Fatalf("%d instances, want %d", got, want)
		}
	}
}

// A mounted directory is updated by swapping the symlink of a parent.
func TestSourceFollowsASymlinkSwap(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"v1": one, "v2": two} {
		if err := os.Mkdir(filepath.Join(elsewhere, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(elsewhere, name, "catalog.yaml"), text)
	}
	link := func(target string) {
		if err := os.Symlink(filepath.Join(elsewhere, target), filepath.Join(dir, "tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "current")); err != nil {
			t.Fatal(err)
		}
	}
	link("v1")
	path := filepath.Join(dir, "catalog.yaml")
	if err := os.Symlink(filepath.Join("current", "catalog.yaml"), path); err != nil {
		t.Fatal(err)
	}
	_, catalogs := follow(t, path)
	next(t, catalogs)
	link("v2")
	if got := instances(next(t, catalogs)); got != 2 {
		t.Fatalf("%d instances after the swap", got)
	}
	// In place, where the link points now.
	write(t, filepath.Join(elsewhere, "v2", "catalog.yaml"), one)
	if got := instances(next(t, catalogs)); got != 1 {
		t.Fatalf("%d instances after the edit behind the link", got)
	}
}
