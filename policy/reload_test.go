package policy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"datapunk.dev/controlplane/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// following runs a watcher of a file until the test ends.
type following struct {
	t      *testing.T
	path   string
	meshes chan *policy.Mesh
	errs   chan error
	hangup chan os.Signal
	refuse atomic.Bool // the process cannot go on with any mesh
}

const patience = 30 * time.Second

func follow(t *testing.T, path string) *following {
	t.Helper()
	f := &following{t: t, path: path, meshes: make(chan *policy.Mesh, 8), errs: make(chan error, 8), hangup: make(chan os.Signal)}
	current, err := policy.Load([]string{path}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := policy.NewWatcher([]string{path}, policy.Options{}, policy.WatcherOptions{
		Reload: f.hangup, Current: current,
		OnMesh: func(m *policy.Mesh, _ time.Time) error {
			refused := f.refuse.Load() // before the test is told, and goes on
			f.meshes <- m
			if refused {
				return errors.New("not with this one")
			}
			return nil
		},
		OnError: func(err error) { f.errs <- err },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	// The signal is taken from the loop, so the watches are set.
	f.hangup <- syscall.SIGHUP
	return f
}

func (f *following) wantName(name string) {
	f.t.Helper()
	select {
	case m := <-f.meshes:
		if m.Name != name {
			f.t.Fatalf("mesh %q, want %q", m.Name, name)
		}
	case err := <-f.errs:
		f.t.Fatalf("error %v, want mesh %q", err, name)
	case <-time.After(patience):
		f.t.Fatalf("no mesh, want %q", name)
	}
}

func (f *following) wantError() error {
	f.t.Helper()
	select {
	case m := <-f.meshes:
		f.t.Fatalf("mesh %q, want an error", m.Name)
	case err := <-f.errs:
		return err
	case <-time.After(patience):
		f.t.Fatal("no error")
	}
	return nil
}

// wantNothing asks the watcher to read, twice, when the file has rested: the
// second is only taken when the first is done.
func (f *following) wantNothing() {
	f.t.Helper()
	time.Sleep(500 * time.Millisecond)
	f.hangup <- syscall.SIGHUP
	f.hangup <- syscall.SIGHUP
	select {
	case m := <-f.meshes:
		f.t.Fatalf("mesh %q, want nothing", m.Name)
	case err := <-f.errs:
		f.t.Fatalf("error %v, want nothing", err)
	default:
	}
}

func named(name string) string { return "mesh:\n  name: " + name + "\n" }

// write replaces a file at once: one that is read while it is written is empty.
func write(t *testing.T, path, text string) {
	t.Helper()
	writeInPlace(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func writeInPlace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWatcherTakesAFileWrittenInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, named("one"))
	f := follow(t, path)
	writeInPlace(t, path, named("two"))
	f.wantName("two")
	write(t, path, named("three"))
	f.wantName("three")
}

func TestWatcherTakesAFileSavedByRename(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mesh.yaml")
	write(t, path, named("one"))
	f := follow(t, path)
	for _, name := range []string{"two", "three"} {
		write(t, filepath.Join(dir, ".mesh.yaml.swp"), named(name))
		if err := os.Rename(filepath.Join(dir, ".mesh.yaml.swp"), path); err != nil {
			t.Fatal(err)
		}
		f.wantName(name)
	}
}

// A mounted ConfigMap: mesh.yaml is a link to ..data/mesh.yaml, and ..data a
// link that is swapped.
func TestWatcherTakesASwappedSymlink(t *testing.T) {
	dir := t.TempDir()
	version := func(dir, name string) string {
		if err := os.Mkdir(filepath.Join(dir, "..v-"+name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "..v-"+name, "mesh.yaml"), named(name))
		return "..v-" + name
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, "tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(version(dir, "one"), "..data")
	link("..data/mesh.yaml", "mesh.yaml")
	f := follow(t, filepath.Join(dir, "mesh.yaml"))
	for _, name := range []string{"two", "three"} {
		link(version(dir, name), "..data")
		f.wantName(name)
	}
	write(t, filepath.Join(dir, "..v-three", "mesh.yaml"), named("four"))
	f.wantName("four")

	elsewhere := t.TempDir()
	write(t, filepath.Join(elsewhere, "mesh.yaml"), named("five"))
	link(filepath.Join(elsewhere, "mesh.yaml"), "mesh.yaml")
	f.wantName("five")
	write(t, filepath.Join(elsewhere, "mesh.yaml"), named("six"))
	f.wantName("six")
}

func TestWatcherFollowsADirectoryThatIsReplaced(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "etc")
	put := func(name string) {
		if err := os.Mkdir(filepath.Join(parent, "new"), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(parent, "new", "mesh.yaml"), named(name))
		if err := os.Rename(filepath.Join(parent, "new"), dir); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	f := follow(t, filepath.Join(dir, "mesh.yaml"))
	if err := os.Rename(dir, filepath.Join(parent, "old")); err != nil {
		t.Fatal(err)
	}
	if err := f.wantError(); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("error %v, want that of a missing file", err)
	}
	put("two")
	f.hangup <- syscall.SIGHUP
	f.wantName("two")
	write(t, filepath.Join(dir, "mesh.yaml"), named("three"))
	f.wantName("three")
}

func TestWatcherIsSilentWhenTheContentIsTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, named("one"))
	f := follow(t, path)
	write(t, path, named("one"))
	f.wantNothing()
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	f.wantNothing()
}

func TestWatcherSaysWhyABadFileIsRefusedAndGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, named("one"))
	f := follow(t, path)

	write(t, path, "mesh:\n  name: two\n  bogus: 1\n")
	var problems policy.Problems
	if err := f.wantError(); !errors.As(err, &problems) || problems[0].Source.Line != 3 {
		t.Fatalf("error %v, want a problem in line 3", err)
	}
	write(t, path, named("one"))
	f.wantName("one") // what was refused is over

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.wantError(); !strings.Contains(err.Error(), path) {
		t.Fatalf("error %v does not name the file", err)
	}
	write(t, path, named("three"))
	f.wantName("three")
}

func TestHangupReportsABadFileAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, named("one"))
	f := follow(t, path)
	write(t, path, "mesh: [")
	first := f.wantError()
	f.hangup <- syscall.SIGHUP
	if second := f.wantError(); second.Error() != first.Error() {
		t.Fatalf("error %v, then %v", first, second)
	}
}

// What keeps a file out may lie outside of it: a certificate that is not there
// yet. Whoever has put it there asks for the file to be tried again.
func TestHangupTriesAgainWhatTheProcessRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, named("one"))
	f := follow(t, path)
	f.refuse.Store(true)
	write(t, path, named("two"))
	f.wantName("two")
	f.refuse.Store(false)
	f.hangup <- syscall.SIGHUP
	f.wantName("two")
	f.wantNothing() // it is in force now
}

// The beginning of a file is a file, one without the policies at its end.
func TestHalfAFileIsNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, named("one"))
	f := follow(t, path)
	for range 10 { // for longer than it takes to settle
		write(t, path, named("half"))
		f.hangup <- syscall.SIGHUP
		time.Sleep(30 * time.Millisecond)
	}
	write(t, path, named("half")+"  version: whole\n")
	select {
	case m := <-f.meshes:
		if m.Version != "whole" {
			t.Error("a file that was still being written is in force")
		}
	case <-time.After(patience):
		t.Fatal("no mesh")
	}
}

// big is a mesh file of about so many bytes.
func big(size int) string {
	var b strings.Builder
	b.WriteString("mesh:\n  name: big\n  services:\n")
	for n := 0; b.Len() < size; n++ {
		fmt.Fprintf(&b, "    s%06d: {timeout: {request: 5s}}\n", n)
	}
	return b.String()
}

// What reading a large file took is given back, though nothing else would have it
// collected for a long time.
func TestTheMemoryOfALargeFileIsGivenBack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, "mesh: {name: small}")
	f := follow(t, path)
	write(t, path, big(2<<20))
	f.wantName("big")
	f.hangup <- syscall.SIGHUP // has been looked at
	f.hangup <- syscall.SIGHUP
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	took := m.TotalAlloc
	if kept := m.HeapSys - m.HeapReleased; took < 100<<20 || kept > took/2 {
		t.Errorf("%d MB are kept of %d that were allocated", kept>>20, took>>20)
	}
}

// A file that would take more memory to read than a machine may have is refused, alone or
// with others.
func TestAMeshFileHasABound(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	half := "mesh: {name: m}\n" + strings.Repeat("# "+strings.Repeat("x", 97)+"\n", 60_000)
	write(t, a, half)
	write(t, b, half)
	if _, err := policy.Load([]string{a}, policy.Options{}); err != nil {
		t.Error(err)
	}
	if _, err := policy.Load([]string{a, b}, policy.Options{}); err == nil || !strings.Contains(err.Error(), "have more than 8388608 bytes together") {
		t.Errorf("two: %v", err)
	}
	write(t, a, half+half)
	if _, err := policy.Load([]string{a}, policy.Options{}); err == nil || !strings.Contains(err.Error(), "a.yaml has 12000032 bytes; at most 8388608") {
		t.Errorf("one: %v", err)
	}
}
