package policy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"datapunk.dev/controlplane/policy"
)

// rest is how long an edit that has to wait must rest in these tests. It is
// longer than what any file must.
const rest = 500 * time.Millisecond

// waiting runs a watcher of files until the test ends.
type waiting struct {
	t      *testing.T
	taken  chan *policy.Mesh
	holds  chan *policy.Hold
	hangup chan os.Signal
	meant  atomic.Pointer[string]
	force  atomic.Pointer[policy.Mesh] // what is in force; nil: what was taken last

	refused atomic.Int64 // files that are none
}

func watch(t *testing.T, paths ...string) *waiting {
	t.Helper()
	w := &waiting{t: t, taken: make(chan *policy.Mesh, 8), holds: make(chan *policy.Hold, 64), hangup: make(chan os.Signal)}
	current, err := policy.Load(paths, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	watcher := policy.NewWatcher(paths, policy.Options{}, policy.WatcherOptions{
		Reload: w.hangup, Current: current, Rest: rest,
		OnMesh:  func(m *policy.Mesh, _ time.Time) error { w.taken <- m; return nil },
		OnError: func(error) { w.refused.Add(1) }, // half a file is often none
		OnHold:  func(h *policy.Hold) { w.holds <- h },
		Meant:   func(revision string) bool { p := w.meant.Load(); return p != nil && *p == revision },
		InForce: w.force.Load,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- watcher.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.hangup <- syscall.SIGHUP // the watches are set
	return w
}

func (w *waiting) wantHold(part string) *policy.Hold {
	w.t.Helper()
	select {
	case h := <-w.holds:
		if h == nil && part != "" || h != nil && !strings.Contains(h.String(), part) {
			w.t.Fatalf("holds %v, want %q", h, part)
		}
		return h
	case m := <-w.taken:
		w.t.Fatalf("took version %q, want a hold: %q", m.Version, part)
	case <-time.After(patience):
		w.t.Fatalf("no hold, want %q", part)
	}
	return nil
}

func (w *waiting) wantRefused() {
	w.t.Helper()
	for end := time.Now().Add(patience); w.refused.Load() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("the file was not refused")
		}
	}
}

func (w *waiting) wantTaken() *policy.Mesh {
	w.t.Helper()
	select {
	case m := <-w.taken:
		return m
	case <-time.After(patience):
		w.t.Fatal("not taken")
		return nil
	}
}

func (w *waiting) wantNothingTaken(d time.Duration) {
	w.t.Helper()
	select {
	case m := <-w.taken:
		w.t.Fatalf("took a mesh with %d policies", len(m.Authorization.Policies))
	case <-time.After(d):
	}
}

// closed denies reports what it does not admit.
var closed = secured(policies(`name: nexus, action: ALLOW, sources: [nexus]`), "  version: '1'\n")

func TestAnEditThatOpensWaitsForTheFileToRestAndAnOrdinaryOneDoesNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, closed)
	w := watch(t, path)

	write(t, path, strings.Replace(closed, "version: '1'", "version: '2'", 1))
	w.wantTaken()

	open := strings.Replace(closed, "sources: [nexus]", "sources: [nexus, web]", 1)
	began := time.Now()
	write(t, path, open)
	h := w.wantHold("ALLOW nexus admits what no ALLOW did")
	if h.Until.Before(began.Add(rest)) {
		t.Errorf("until %v, want %v of rest", h.Until.Sub(began), rest)
	}
	// Written again in the meantime: the rest begins anew.
	time.Sleep(rest / 2)
	write(t, path, open+"# And more.\n")
	again := w.wantHold("ALLOW nexus")
	if m := w.wantTaken(); m.Revision != again.Revision || time.Now().Before(again.Until) {
		t.Errorf("took revision %s before its time", m.Revision)
	}
}

func TestAnEditThatWaitsIsTakenAtOnceByDeliberateWord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, closed)
	w := watch(t, path)
	cut := closed[:strings.Index(closed, "      policies")]
	write(t, path, cut)
	h := w.wantHold("is a beginning of the file in force")
	// A signal is no word: a terminal that closes sends it, and log rotation.
	w.hangup <- syscall.SIGHUP
	if said := w.wantHold("is a beginning"); said.Revision != h.Revision {
		t.Errorf("says %v", said)
	}
	w.wantNothingTaken(2 * rest)
	w.meant.Store(&h.Revision)
	if m := w.wantTaken(); m.Revision != h.Revision {
		t.Errorf("took %s, want %s", m.Revision, h.Revision)
	}
}

func TestAnEditThatIsTakenBackWaitsNoMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, closed)
	w := watch(t, path)
	write(t, path, "mesh: {name: datapunk}\n")
	w.wantHold("authorization is off")
	write(t, path, closed)
	w.wantHold("")
	w.wantNothingTaken(2 * rest)
}

// An edit that was taken, and is tried or was taken back from the proxies, is nothing that
// the next one is judged by.
func TestAnEditIsJudgedByWhatIsInForce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, closed)
	was, err := policy.Load([]string{path}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, path)
	open := strings.Replace(closed, "sources: [nexus]", "sources: [nexus, web]", 1)
	write(t, path, open)
	w.wantHold("ALLOW nexus admits what no ALLOW did")
	w.wantTaken()
	w.force.Store(was)
	write(t, path, strings.Replace(open, "version: '1'", "version: '2'", 1))
	w.wantHold("ALLOW nexus admits what no ALLOW did")
	began := time.Now()
	write(t, path, closed)
	if m := w.wantTaken(); m.Revision != was.Revision || time.Since(began) > 10*rest {
		t.Errorf("the file in force is taken as %s after %v", m.Revision, time.Since(began))
	}
}

// The file in force is not taken a second time, whatever stood there meanwhile.
func TestTheFileInForceIsNotTakenAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, closed)
	w := watch(t, path)
	write(t, path, "mesh: {nam: datapunk}\n")
	w.wantRefused()
	write(t, path, "mesh: {name: datapunk}\n")
	w.wantHold("authorization is off")
	write(t, path, closed)
	w.wantHold("")
	w.hangup <- syscall.SIGHUP
	w.wantNothingTaken(2 * rest)
}

// What an edit opens is said in one order: who repeats it would say it anew.
func TestWhatAnEditOpensIsSaidInOneOrder(t *testing.T) {
	parse := func(services string) *policy.Mesh {
		m, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(strings.Replace(closed, "mesh:\n", "mesh:\n  services: {"+services+"}\n", 1))}}, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	last, next := parse("a: {}, b: {}, c: {}, d: {}"), parse("a: {protocol: tcp}, b: {protocol: tcp}, c: {protocol: tcp}, d: {protocol: tcp}")
	first := policy.Opened(last, next)
	if len(first) != 4 {
		t.Fatalf("it opens %q", first)
	}
	for range 20 {
		if again := policy.Opened(last, next); !slices.Equal(first, again) {
			t.Fatalf("it opens %q, and again %q", first, again)
		}
	}
}

// Truncated and written in pieces, with pauses that are longer than any rest;
// by name, by rename, and behind the links of a mounted ConfigMap.
func TestAFileThatIsWrittenSlowlyNeverOpensTheMesh(t *testing.T) {
	seed, err := os.ReadFile(operators)
	if err != nil {
		t.Fatal(err)
	}
	text := string(seed)
	overlay := secured(policies(`name: no-web, action: DENY, sources: [web]`, `name: all, action: ALLOW, sources: [nexus, web]`))
	for name, save := range map[string]func(t *testing.T, dir, file, text string){
		"in place": func(t *testing.T, dir, file, text string) { write(t, filepath.Join(dir, file), text) },
		"by rename": func(t *testing.T, dir, file, text string) {
			write(t, filepath.Join(dir, ".new"), text)
			if err := os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
		},
		"by a swapped link": func(t *testing.T, dir, file, text string) {
			version, err := os.MkdirTemp(dir, "..v")
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(version, file), text)
			for _, link := range [][2]string{{version, filepath.Join(dir, "..data-"+file)}, {filepath.Join(dir, "..data-"+file, file), filepath.Join(dir, file)}} {
				_ = os.Remove(link[1] + ".new")
				if err := os.Symlink(link[0], link[1]+".new"); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(link[1]+".new", link[1]); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			save(t, dir, "mesh.yaml", text)
			save(t, dir, "overlay.yaml", overlay)
			w := watch(t, filepath.Join(dir, "mesh.yaml"), filepath.Join(dir, "overlay.yaml"))
			for _, file := range []struct {
				name, text string
				cuts       []string
			}{
				{"mesh.yaml", text, []string{"  circuit_breakers:", "    custom:", "  telemetry:", "  security:", "    authorization:"}},
				{"overlay.yaml", overlay, []string{"  security:", "        - {name: no-web", "        - {name: all"}},
			} {
				for _, at := range file.cuts {
					save(t, dir, file.name, file.text[:strings.Index(file.text, at)])
					w.wantNothingTaken(rest + 300*time.Millisecond)
				}
				save(t, dir, file.name, file.text)
				for len(w.holds) > 0 {
					<-w.holds
				}
			}
			save(t, dir, "overlay.yaml", overlay+"  version: '2'\n")
			if m := w.wantTaken(); m.Version != "2" || len(m.Authorization.Policies) != 2 {
				t.Errorf("took version %q with %d policies", m.Version, len(m.Authorization.Policies))
			}
		})
	}
}

// What waits for a writer that never comes would wait for ever, and the end of
// the process with it.
func TestAPipeInThePlaceOfTheFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Load([]string{path}, policy.Options{}); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("got %v", err)
	}
}

func TestAPanicOverAMeshFileIsAnErrorAndTheNextFileIsTried(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, closed)
	current, err := policy.Load([]string{path}, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	taken, errs := make(chan *policy.Mesh, 8), make(chan error, 8)
	w := policy.NewWatcher([]string{path}, policy.Options{LookupEnv: func(name string) (string, bool) {
		if name == "WHILE_PARSED" {
			panic("in the parser")
		}
		return "", false
	}}, policy.WatcherOptions{
		Current: current,
		OnMesh: func(m *policy.Mesh, _ time.Time) error {
			if m.Version == "bad" {
				panic("in a room")
			}
			taken <- m
			return nil
		},
		OnError: func(err error) { errs <- err },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for version, why := range map[string]string{"'${WHILE_PARSED}'": "in the parser", "bad": "in a room"} {
		write(t, path, strings.Replace(closed, "'1'", version, 1))
		select {
		case err := <-errs:
			var panicked *policy.PanicError
			if !errors.As(err, &panicked) || !strings.Contains(err.Error(), why) || len(panicked.Stack) == 0 {
				t.Errorf("got %v", err)
			}
		case <-time.After(patience):
			t.Fatalf("no error of a panic %s", why)
		}
	}
	write(t, path, strings.Replace(closed, "'1'", "'good'", 1))
	select {
	case m := <-taken:
		if m.Version != "good" {
			t.Errorf("took version %q", m.Version)
		}
	case <-time.After(patience):
		t.Fatal("the next file is not taken")
	}
}
