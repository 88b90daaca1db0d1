package sds

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// lockTime bounds the wait for a data directory that is locked: to make
	// what is missing takes another process a moment.
	lockTime = 10 * time.Second
	lockPoll = 100 * time.Millisecond
)

// lockDir holds other processes off until unlock is called.
func lockDir(ctx context.Context, log *slog.Logger, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	for said := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing releases the lock
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
		}
		if !said {
			log.Warn("waiting for the data directory: another process has it locked", "directory", dir, "holder", lockHolder(f), "at_most", lockTime.String())
			said = true
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			holder := lockHolder(f)
			_ = f.Close()
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, fmt.Errorf("data directory %s: %w", dir, ctx.Err())
			}
			return nil, fmt.Errorf("data directory %s was locked by another process (%s) for %v: end it, or take another directory", dir, holder, lockTime)
		}
	}
}

// lockHolder says which process has the file locked, as far as the kernel
// tells (proc(5), /proc/locks).
func lockHolder(f *os.File) string {
	const unknown = "unknown"
	info, err := f.Stat()
	if err != nil {
		return unknown
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return unknown
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return unknown
	}
	defer locks.Close() //nolint:errcheck // read only
	inode := ":" + strconv.FormatUint(stat.Ino, 10)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 2811 08:01:1835043 0 EOF
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], inode) {
			continue
		}
		name, err := os.ReadFile("/proc/" + fields[4] + "/comm")
		if err != nil {
			return "process " + fields[4]
		}
		return fmt.Sprintf("process %s, %s", fields[4], strings.TrimSpace(string(name)))
	}
	return unknown
}
