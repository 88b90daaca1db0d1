package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/watch"
)

// many is a catalog of lake with n instances, and of one service more.
func many(n int) string {
	var b strings.Builder
	b.WriteString("services:\n  first: [{id: f, address: 10.0.1.1, port: 80}]\n  lake:\n")
	for i := range n {
		fmt.Fprintf(&b, "    - {id: l%d, address: 10.0.0.%d, port: 8080}\n", i, i+1)
	}
	return b.String()
}

func nothing(t *testing.T, catalogs <-chan *watch.Catalog, d time.Duration) {
	t.Helper()
	select {
	case c := <-catalogs:
		t.Fatalf("published a catalog of %d instances of lake", instances(c))
	case <-time.After(d):
	}
}

func TestAnOrdinaryRemovalAndEveryAdditionPassAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	write(t, path, many(6))
	s, catalogs := follow(t, path)
	next(t, catalogs)
	// Not from the end, which would make it a beginning.
	without := strings.Replace(many(6), "    - {id: l1, address: 10.0.0.2, port: 8080}\n", "", 1)
	for _, step := range []struct {
		text string
		want int
	}{{without, 5}, {many(6), 6}, {many(9), 9}} {
		began := time.Now()
		write(t, path, step.text)
		if got := instances(next(t, catalogs)); got != step.want || len(s.Status().Held) != 0 {
			t.Errorf("%d instances, want %d; held %q, after %v", got, step.want, s.Status().Held, time.Since(began))
		}
	}
}

// What a file adds and changes is in force while what it lacks is kept.
func TestARemovalOfMuchWaitsAndWhatComesWithItDoesNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	write(t, path, many(6))
	s, catalogs := follow(t, path)
	next(t, catalogs)
	began := time.Now()
	write(t, path, "services:\n  lake: [{id: l0, address: 10.0.0.1, port: 9090}]\n  stream: [{id: s, address: 10.0.2.1, port: 80}]\n")
	both := next(t, catalogs)
	if instances(both) != 6 || both.Service("first") == nil || both.Service("stream") == nil || both.Service("lake").Instances[0].Port != 9090 {
		t.Errorf("published %+v", both.Service("lake"))
	}
	status := s.Status()
	if !status.Ready || status.HeldServices != 2 || len(status.Held) != 1 || !strings.Contains(status.Held[0], "2 instances are left of 7") {
		t.Errorf("status %+v", status)
	}
	last := next(t, catalogs)
	if waited := time.Since(began); instances(last) != 1 || last.Service("first") != nil || waited < 5*time.Second {
		t.Errorf("%d instances after %v", instances(last), waited)
	}
	if status := s.Status(); len(status.Held) != 0 || status.HeldServices != 0 {
		t.Errorf("still held: %q", status.Held)
	}
}

func TestACatalogThatIsCutIsNotTakenUnlessSomebodySaysThatItIsMeant(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	whole := many(6)
	write(t, path, whole)
	var meant atomic.Bool
	s, catalogs := followMeant(t, path, func([]byte) bool { return meant.Load() })
	next(t, catalogs)
	lines := strings.SplitAfter(whole, "\n")
	for n := range len(lines) - 1 {
		write(t, path, strings.Join(lines[:n], ""))
		nothing(t, catalogs, 150*time.Millisecond)
	}
	cut := strings.Join(lines[:len(lines)-4], "")
	write(t, path, cut)
	eventuallyHeld(t, s, "is a beginning of the last catalog")
	nothing(t, catalogs, 6*time.Second)
	meant.Store(true)
	if got := instances(next(t, catalogs)); got != 3 {
		t.Errorf("%d instances, want 3", got)
	}
}

// One instance less, at the end: whoever writes in place may not be done, and
// whoever renames is.
func TestALittleLessAtTheEndIsTakenOfANewFileAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	write(t, path, many(6))
	s, catalogs := follow(t, path)
	next(t, catalogs)
	write(t, path+".new", many(5))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if got := instances(next(t, catalogs)); got != 5 || len(s.Status().Held) != 0 {
		t.Errorf("%d instances, held %q", got, s.Status().Held)
	}
	write(t, path, many(4))
	eventuallyHeld(t, s, "is a beginning of the last catalog")
	nothing(t, catalogs, 6*time.Second)
	write(t, path, many(4)+"# All.\n")
	if got := instances(next(t, catalogs)); got != 4 {
		t.Errorf("%d instances", got)
	}
}

func TestAFileThatIsAsItWasBeforeWaitsNoMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	write(t, path, many(6))
	s, catalogs := follow(t, path)
	next(t, catalogs)
	write(t, filepath.Join(filepath.Dir(path), "new"), "services: {}\n")
	if err := os.Rename(filepath.Join(filepath.Dir(path), "new"), path); err != nil {
		t.Fatal(err)
	}
	eventuallyHeld(t, s, "0 instances are left of 7")
	write(t, path, many(6))
	eventuallyHeld(t, s, "")
	nothing(t, catalogs, 6*time.Second)
}

// eventuallyHeld waits until what is held has the part; "": until nothing is.
func eventuallyHeld(t *testing.T, s interface{ Status() watch.Status }, part string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		held := strings.Join(s.Status().Held, "\n")
		if (part == "") == (held == "") && strings.Contains(held, part) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("held is %q, want %q", held, part)
		}
	}
}

func TestAPipeInThePlaceOfTheCatalogIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	s, catalogs := follow(t, path)
	eventually(t, s, "no regular file")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, one)
	next(t, catalogs)
}
