package follow

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// timed is that of the tests whose clock is the bubble's.
var timed = Timing{Settle: 200 * time.Millisecond, MaxSettle: 2 * time.Second, Poll: 30 * time.Second}

// unnotified follows a file where nothing is notified, and returns what the
// reader was called for since it was last asked.
func unnotified(t *testing.T, path string, ask <-chan os.Signal, again func(Why) time.Duration) (reads func(after time.Duration) []Why) {
	t.Helper()
	seen := make(chan Why, 100)
	f := &follower{log: slog.New(slog.DiscardHandler), paths: []string{path}, timing: timed, ask: ask, read: func(why Why) time.Duration {
		seen <- why
		return again(why)
	}}
	ctx, cancel := context.WithCancel(t.Context())
	go f.run(ctx, nil)
	t.Cleanup(func() { cancel(); synctest.Wait() })
	return func(after time.Duration) (all []Why) {
		time.Sleep(after)
		synctest.Wait()
		for len(seen) > 0 {
			all = append(all, <-seen)
		}
		return all
	}
}

func want(t *testing.T, got []Why, n int, why Why) {
	t.Helper()
	if len(got) != n || n > 0 && got[n-1] != why {
		t.Errorf("read for %v, want %d reads, the last for %d", got, n, why)
	}
}

func never(Why) time.Duration { return 0 }

// A file system that tells nobody of a change, such as a network share.
func TestFilesAreReadUnaskedWhereNothingIsNotified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := unnotified(t, filepath.Join(t.TempDir(), "f"), nil, never)
		want(t, reads(0), 1, Changed)
		want(t, reads(timed.Poll-time.Second), 0, 0)
		want(t, reads(2*time.Second), 1, Changed)
	})
}

func TestFilesAreReadWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := make(chan os.Signal)
		reads := unnotified(t, filepath.Join(t.TempDir(), "f"), ask, never)
		want(t, reads(0), 1, Changed)
		ask <- syscall.SIGHUP
		want(t, reads(0), 1, Asked)
		close(ask) // nobody asks any more
		want(t, reads(time.Second), 0, 0)
		want(t, reads(timed.Poll), 1, Changed)
	})
}

func TestFilesAreReadWhenTheReaderWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := 3
		reads := unnotified(t, filepath.Join(t.TempDir(), "f"), nil, func(Why) time.Duration {
			if left--; left < 0 {
				return 0
			}
			return time.Second
		})
		want(t, reads(0), 1, Changed)
		for range 3 {
			want(t, reads(time.Second), 1, Due)
		}
		want(t, reads(10*time.Second), 0, 0)
	})
}

// Half a file may be one that is good.
func TestAFileThatIsBeingWrittenIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "f")
		written := func() { // at the bubble's time, and at once
			if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		ask := make(chan os.Signal)
		reads := unnotified(t, path, ask, never)
		want(t, reads(0), 1, Changed) // it is not there yet
		write(t, path, "half")
		written()
		ask <- syscall.SIGHUP
		for range 15 {
			written()
			want(t, reads(timed.Settle/2), 0, 0)
		}
		want(t, reads(timed.Settle), 1, Asked)

		ask <- syscall.SIGHUP
		want(t, reads(0), 1, Asked) // it rests
		written()
		ask <- syscall.SIGHUP
		n := 0
		for range 50 { // it never does, and is read all the same
			written()
			n += len(reads(timed.Settle / 2))
		}
		if n != 1 {
			t.Errorf("read %d times in 5 s, want once", n)
		}
	})
}

// A directory that is not there yet is said once, and watched when it comes.
func TestADirectoryThatIsNotThereIsPolled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	path := filepath.Join(dir, "f")
	var log strings.Builder
	there := make(chan bool)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		timing := Timing{Settle: time.Millisecond, MaxSettle: 10 * time.Millisecond, Poll: 20 * time.Millisecond}
		Files(ctx, slog.New(slog.NewTextHandler(&log, nil)), []string{path}, timing, nil, func(Why) time.Duration {
			_, err := os.Stat(path)
			select {
			case there <- err == nil:
			case <-ctx.Done():
			}
			return 0
		})
	}()
	for range 5 {
		<-there
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, "1")
	for !<-there {
	}
	cancel()
	<-done
	if n := strings.Count(log.String(), "it is polled"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
}

// The directory of a file may have others in it that change all the time.
func TestOtherFilesWakeNobody(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	write(t, path, "1")
	reads := make(chan Why)
	ask := make(chan os.Signal, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		timing := Timing{Settle: time.Millisecond, MaxSettle: 10 * time.Millisecond, Poll: time.Hour}
		Files(ctx, slog.New(slog.DiscardHandler), []string{path}, timing, ask, func(why Why) time.Duration {
			select {
			case reads <- why:
			case <-ctx.Done():
			}
			return 0
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	if why := <-reads; why != Changed {
		t.Errorf("first read for %d", why)
	}
	for range 100 {
		write(t, filepath.Join(dir, "other"), "x")
	}
	ask <- syscall.SIGHUP
	if why := <-reads; why != Asked {
		t.Errorf("read for %d before it was asked for", why)
	}
	write(t, path, "2")
	if why := <-reads; why != Changed {
		t.Errorf("read for %d after a change", why)
	}
}
