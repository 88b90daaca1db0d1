package policy

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// A file system that tells nobody of a change, such as a network share.
func TestWatcherReadsUnaskedWhereNothingIsNotified(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write := func(name string) {
		if err := os.WriteFile(path, []byte("mesh: {name: "+name+"}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	synctest.Test(t, func(t *testing.T) {
		names := make(chan string, 8)
		w := NewWatcher([]string{path}, Options{}, WatcherOptions{
			OnMesh:  func(m *Mesh) error { names <- m.Name; return nil },
			OnError: func(err error) { t.Error(err) },
		})
		ctx, cancel := context.WithCancel(t.Context())
		go w.run(ctx, nil)
		defer synctest.Wait()
		defer cancel()

		after := func(d time.Duration, want string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			got := ""
			for len(names) > 0 {
				got += <-names
			}
			if got != want {
				t.Errorf("mesh %q after %v, want %q", got, d, want)
			}
		}
		after(0, "one") // none was in force
		write("two")
		after(poll-time.Second, "")
		after(2*time.Second, "two")
		after(10*poll, "") // the content is the same
	})
}
