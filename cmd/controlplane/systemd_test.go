package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/control"
)

// told is what systemd was told, in order.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (s *told) hear(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, strings.Split(state, "\n")...)
}

func (s *told) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

func (s *told) count(line string) (n int) {
	for _, l := range s.all() {
		if l == line {
			n++
		}
	}
	return n
}

// systemd listens as systemd does, for a process that has a watchdog.
func systemd(t *testing.T, watchdog string) *told {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", watchdog)
	t.Setenv("WATCHDOG_PID", "")
	s := &told{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 8192)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			s.hear(string(buf[:n]))
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-ended })
	return s
}

// systemd hears what a unit of Type=notify has to say: what it waits for, that
// it is ready, again and again that it lives, each reload, and the end.
func TestSystemdHearsHowServeIs(t *testing.T) {
	heard := systemd(t, "300000")
	s := startServe(t, inFile)
	s.eventually("READY=1 and two WATCHDOG=1", func() bool { return heard.count("READY=1") == 1 && heard.count("WATCHDOG=1") >= 2 })
	if heard.count("STATUS=serving") != 1 {
		t.Errorf("no STATUS=serving in %q", heard.all())
	}

	for i, mesh := range []string{inFile, "mesh: {name: datapunk, nonsense: 1}", inFile} {
		s.write("mesh.yaml", mesh)
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.eventually("RELOADING=1, then READY=1 again, whether the file is good or not", func() bool {
			return heard.count("RELOADING=1") == i+1 && heard.count("READY=1") == i+2
		})
	}
	if !slices.ContainsFunc(heard.all(), func(l string) bool { return strings.HasPrefix(l, "MONOTONIC_USEC=") }) {
		t.Errorf("a reload without its time in %q", heard.all())
	}
	s.stop()
	s.stop = func() {}
	s.eventually("STOPPING=1", func() bool { return heard.count("STOPPING=1") == 1 })
}

// A loop that hangs is not reported alive, so that systemd starts it anew. One
// that is not ready is alive, and says what it waits for.
func TestAWatchdogFindsALoopThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := &told{}
		var hangs atomic.Bool
		var ready atomic.Pointer[control.Readiness]
		ready.Store(&control.Readiness{Waiting: []string{"the catalog:\nconsul is away"}})
		s := &supervised{
			notify: heard.hear, watchdog: 3 * time.Second,
			ready: func() control.Readiness { return *ready.Load() },
			turns: func(ctx context.Context) error {
				if hangs.Load() {
					<-ctx.Done()
					return errors.New("hangs")
				}
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.run(ctx)
		time.Sleep(10 * time.Second)
		if heard.count("READY=1") != 0 || heard.count("WATCHDOG=1") < 10 || heard.count("STATUS=waiting for the catalog: consul is away") != 1 {
			t.Fatalf("while it waits: %q", heard.all())
		}
		ready.Store(&control.Readiness{Ready: true, Holding: []string{"the last good mesh file"}, Problems: []string{"two proxies have one node.id"}})
		time.Sleep(10 * time.Second)
		if heard.count("READY=1") != 1 || heard.count("STATUS=serving; holding the last good mesh file; problems: two proxies have one node.id") != 1 {
			t.Fatalf("once it is ready: %q", heard.all())
		}
		hangs.Store(true)
		time.Sleep(time.Second)
		before := heard.count("WATCHDOG=1")
		time.Sleep(time.Minute)
		if after := heard.count("WATCHDOG=1"); after != before {
			t.Errorf("a loop that hangs was reported alive %d times", after-before)
		}
	})
}
