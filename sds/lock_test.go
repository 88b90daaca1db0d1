package sds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// locked is a directory that somebody holds the lock of.
func locked(t *testing.T, dir string) (unlock func()) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return func() { _ = f.Close() }
}

func TestADataDirectoryThatIsLockedIsWaitedForAloudAndNotForEver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	locked(t, dir)
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		began := time.Now()
		_, _, err := OpenContext(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), dir, trustDomain, Files{}, nil)
		me := fmt.Sprintf("process %d", os.Getpid())
		if err == nil || !strings.Contains(err.Error(), me) || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v, want that %s has it", err, me)
		}
		if waited := time.Since(began); waited < lockTime || waited > lockTime+lockPoll {
			t.Errorf("waited %v", waited)
		}
		if n := strings.Count(log.String(), "another process has it locked"); n != 1 || !strings.Contains(log.String(), me) {
			t.Errorf("said %d times:\n%s", n, &log)
		}
	})
}

func TestTheWaitForALockEndsWithTheProcessOrTheLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	unlock := locked(t, dir)
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, stop)
		if _, _, err := OpenContext(ctx, slog.New(slog.DiscardHandler), dir, trustDomain, Files{}, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		time.AfterFunc(time.Second, unlock)
		if _, _, err := Open(dir, trustDomain); err != nil {
			t.Error(err)
		}
	})
}

// Only what has something to make needs the lock, so nobody who can open the
// directory keeps a control plane from its later starts.
func TestADirectoryThatIsWholeIsOpenedWhoeverHasItLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, dir := open(t)
		locked(t, dir)
		began := time.Now()
		if _, _, err := Open(dir, trustDomain); err != nil || time.Since(began) != 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestAPanicInIssuingIsAFailureLikeAnyOther(t *testing.T) {
	m := newLockTestManager(t)
	issue := m.issue
	l, err := m.Lease("web", func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	m.issue = nil // a call of it panics
	if _, err := l.Certificate(); err == nil || !strings.Contains(err.Error(), "panic") || m.Stats().Failed != 1 {
		t.Errorf("got %v, %d failures", err, m.Stats().Failed)
	}
	m.issue = issue
	if _, err := l.Certificate(); err != nil {
		t.Error(err)
	}
}

func newLockTestManager(t *testing.T) *Manager {
	t.Helper()
	ca, _, _ := open(t)
	m, err := NewManager(ca, Options{Rotation: time.Hour, TTL: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
