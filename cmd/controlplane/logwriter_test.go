package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stuck is a writer that waits for ever once it is shut, and fails while it is
// broken.
type stuck struct {
	mu     sync.Mutex
	shut   chan struct{} // nil: it writes at once
	broken error
	got    bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	s.mu.Lock()
	shut, broken := s.shut, s.broken
	s.mu.Unlock()
	if shut != nil {
		<-shut
	}
	if broken != nil {
		return 0, broken
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(p)
}

func (s *stuck) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

func leftOut(n uint64) []byte { return fmt.Appendf(nil, "left out: %d\n", n) }

func TestALogThatIsNotReadTakesNobodysTimeAndBoundedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stuck{shut: make(chan struct{})}
		l := newLogWriter(to, leftOut)
		line := []byte(strings.Repeat("x", 99) + "\n")
		const lines = 100_000 // ten times what may wait
		began := time.Now()
		for i := range lines {
			if i == 1 {
				synctest.Wait() // the first is being written
			}
			if n, err := l.Write(line); n != len(line) || err != nil {
				t.Fatal(n, err)
			}
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("writers waited %v", waited)
		}
		dropped := l.Dropped()
		if kept := (lines - int(dropped)) * len(line); kept < maxQueued || kept > 2*maxQueued {
			t.Errorf("%d bytes wait, at most %d may twice", kept, maxQueued)
		}
		to.mu.Lock()
		close(to.shut)
		to.shut = nil
		to.mu.Unlock()
		synctest.Wait()
		_, _ = l.Write([]byte("and on\n"))
		l.Close()
		text := to.String()
		// Said in one line or in two: some may be left out while the first
		// that waited are being written.
		said := 0
		for _, found := range regexp.MustCompile(`left out: (\d+)\n`).FindAllStringSubmatch(text, -1) {
			n, _ := strconv.Atoi(found[1])
			said += n
		}
		if said != int(dropped) || !strings.HasSuffix(text, "\nand on\n") {
			t.Errorf("%d are said to be left out, of %d; ends with %q", said, dropped, text[max(0, len(text)-80):])
		}
		if n := strings.Count(text, string(line)); n != lines-int(dropped) {
			t.Errorf("%d lines are there and %d are said to be left out, of %d", n, dropped, lines)
		}
	})
}

func TestLinesThatCannotBeWrittenAreCountedAndSaidWhenTheyCanAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stuck{broken: errors.New("no space left on device")}
		l := newLogWriter(to, leftOut)
		for range 3 {
			_, _ = l.Write([]byte("lost\n"))
			synctest.Wait()
		}
		to.mu.Lock()
		to.broken = nil
		to.mu.Unlock()
		_, _ = l.Write([]byte("here\n"))
		l.Close()
		if got := to.String(); got != "left out: 3\nhere\n" || l.Dropped() != 3 {
			t.Errorf("got %q, %d dropped", got, l.Dropped())
		}
	})
}

// Two buffers take turns: what is being written is not what lines are added to.
func TestALineThatIsBeingWrittenIsNotOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stuck{}
		l := newLogWriter(to, leftOut)
		_, _ = l.Write([]byte("first\n"))
		synctest.Wait()
		shut := make(chan struct{})
		to.mu.Lock()
		to.shut = shut
		to.mu.Unlock()
		_, _ = l.Write([]byte("second\n"))
		synctest.Wait()
		_, _ = l.Write([]byte("third.\n"))
		close(shut)
		l.Close()
		if got := to.String(); got != "first\nsecond\nthird.\n" {
			t.Errorf("got %q", got)
		}
	})
}

func TestTheEndWaitsForTheLogForABoundedTimeAndWritesAllThatItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stuck{}
		l := newLogWriter(to, leftOut)
		for i := range 1000 {
			_, _ = fmt.Fprintf(l, "line %d\n", i)
		}
		l.Close()
		if n := strings.Count(to.String(), "\n"); n != 1000 {
			t.Errorf("%d lines of 1000", n)
		}

		shut := make(chan struct{})
		l = newLogWriter(&stuck{shut: shut}, leftOut)
		_, _ = l.Write([]byte("never read\n"))
		began := time.Now()
		l.Close()
		if waited := time.Since(began); waited != flushTime {
			t.Errorf("waited %v", waited)
		}
		close(shut) // the bubble wants its goroutines to end
	})
}

func TestTheLineOfWhatWasLeftOutIsOfTheLogsFormat(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	log, out, err := openLog(w, &settings{LogLevel: "error"})
	if err != nil {
		t.Fatal(err)
	}
	out.mu.Lock()
	out.gap = 7
	out.mu.Unlock()
	log.Error("it flows again")
	out.Close()
	_ = w.Close()
	text, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(text), `"msg":"log lines were left out`) || !strings.Contains(string(text), `"lines":8`) {
		t.Errorf("got %s, %v", text, err)
	}
}

// A duration is a duration in each format, not a number of nanoseconds.
func TestDurationsCanBeRead(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		var b bytes.Buffer
		log, err := newLogger(&b, &settings{LogLevel: "info", LogFormat: format})
		if err != nil {
			t.Fatal(err)
		}
		log.With("every", 90*time.Second).WithGroup("g").Info("removals are held", "for", 2*time.Minute)
		if text := b.String(); !strings.Contains(text, "2m0s") || !strings.Contains(text, "1m30s") || strings.Contains(text, "000000000") {
			t.Errorf("%s: %s", format, text)
		}
	}
}
