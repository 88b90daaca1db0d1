package sds

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"datapunk.dev/controlplane/sds/identity"
)

// withIntermediate is a replica of f that has an intermediate alone.
func withIntermediate(t *testing.T, f *fleet, life time.Duration) (*Manager, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "replica")
	step(t, func() error { return IssueIntermediate(f.ca.dir, "", dir, life) })
	return f.managerOf(t, dir), dir
}

// A replica with an intermediate of its own serves the same fleet: what it issues is
// trusted, and what the others issued is kept.
func TestAReplicaHasAnIntermediateInThePlaceOfTheRootsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		m, dir := withIntermediate(t, f, 30*day)
		for _, name := range []string{caKeyFile, nextKeyFile} {
			if there, err := exists(filepath.Join(dir, name)); there || err != nil {
				t.Errorf("it has %s (%v)", name, err)
			}
		}
		l, err := m.Lease("web", func() {})
		if err != nil {
			t.Fatal(err)
		}
		here, there := f.peer(t, m.Roots(), l), f.peer(t, f.Roots(), f.lease(t))
		if !here.trusts(t, f, there) || !there.trusts(t, f, here) {
			t.Error("a handshake between proxies of the two fails")
		}
		other, err := f.Lease("web", func() {})
		if err != nil {
			t.Fatal(err)
		}
		if !other.Adopt(version(t, l)) {
			t.Error("a proxy that moves is given another certificate")
		}
		if expires := m.IntermediateExpires(); !expires.Equal(f.clock.now().Add(30 * day)) {
			t.Errorf("it ends at %s", expires)
		}
		// A start and a look at the directory make nothing in its place.
		if changed, err := m.Reload(); changed || err != nil {
			t.Errorf("%v, %v", changed, err)
		}
		if err := m.Prepare(); err == nil {
			t.Error("it made a root")
		}
	})
}

// It ends by itself: certificates do not outlive it, and afterwards there are none,
// until it is given another one.
func TestAnIntermediateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		m, dir := withIntermediate(t, f, 3*day)
		end := f.clock.now().Add(3 * day)
		time.Sleep(2 * day)
		l, err := m.Lease("web", func() {})
		if err != nil {
			t.Fatal(err)
		}
		if c, err := l.Certificate(); err != nil || c.Expires().After(end) {
			t.Errorf("a certificate that outlives its issuer: %v, %v", c, err)
		}
		time.Sleep(day + time.Second)
		if _, err := l.Certificate(); err == nil || !strings.Contains(err.Error(), "give it another one") {
			t.Errorf("certificates of an intermediate that has ended: %v", err)
		}
		step(t, func() error { return IssueIntermediate(f.ca.dir, "", dir, 30*day) })
		if _, err := m.Reload(); err != nil {
			t.Error(err)
		}
		if _, err := l.Certificate(); err != nil {
			t.Errorf("with the next one: %v", err)
		}
	})
}

// The root is replaced at such a replica as at any other.
func TestTheRootIsReplacedWhereThereAreIntermediates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		m, dir := withIntermediate(t, f, 30*day)
		l, err := m.Lease("web", func() {})
		if err != nil {
			t.Fatal(err)
		}
		step(t, f.Prepare)
		next := f.Rotation().Next
		step(t, func() error { return IssueIntermediate(f.ca.dir, "", dir, 30*day) })
		if changed, err := m.Reload(); !changed || err != nil || m.Rotation().Next != next {
			t.Fatalf("%v, %v: %+v", changed, err, m.Rotation())
		}
		step(t, m.Activate)
		step(t, f.Activate)
		if !f.peer(t, m.Roots(), l).trusts(t, f, f.peer(t, f.Roots(), f.lease(t))) {
			t.Error("a handshake fails")
		}
		time.Sleep(3 * day)
		step(t, m.Retire)
		if r := m.Rotation(); r.Phase != Steady || r.First != next {
			t.Errorf("%+v", r)
		}
		again, _, err := Open(dir, "datapunk")
		if err != nil || again.roots.Load().signing.key != nil {
			t.Errorf("a restart: %v", err)
		}
	})
}

// What is written again is of the phase of then, whatever was there.
func TestAReplicasDirectoryIsWrittenAgainInEachPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		first := f.Rotation().First
		step(t, f.Prepare)
		next := f.Rotation().Next
		step(t, f.Activate)
		m, dir := withIntermediate(t, f, 30*day)
		again := func(phase Phase, signs identity.RootHash) {
			t.Helper()
			step(t, func() error { return IssueIntermediate(f.ca.dir, "", dir, 30*day) })
			if _, err := m.Reload(); err != nil {
				t.Error(err)
			}
			if r := m.Rotation(); r.Phase != phase || r.Signs() != signs || !r.Until.Equal(f.Rotation().Until) {
				t.Errorf("%+v, want %s as in %+v", r, phase, f.Rotation())
			}
			if _, _, err := Open(dir, "datapunk"); err != nil {
				t.Errorf("a start, %s: %v", phase, err)
			}
		}
		again(Activated, next)
		step(t, f.StepBack)
		again(Prepared, first)
		step(t, f.Activate)
		time.Sleep(3 * day)
		step(t, f.Retire)
		again(Steady, next)
	})
}

func TestIntermediatesThatAreNone(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir, other string){
		"without its key": func(t *testing.T, dir, _ string) {
			step(t, func() error { return os.Remove(filepath.Join(dir, intermediateKeyFile)) })
		},
		"with another's key": func(t *testing.T, dir, other string) { copyFiles(t, other, dir, intermediateKeyFile) },
		"under another root": func(t *testing.T, dir, other string) { copyFiles(t, other, dir, intermediateFile, intermediateKeyFile) },
		"beside a root's key": func(t *testing.T, dir, _ string) {
			copyAs(t, filepath.Join(dir, intermediateKeyFile), filepath.Join(dir, caKeyFile))
		},
		"a key that others can read": func(t *testing.T, dir, _ string) {
			step(t, func() error { return os.Chmod(filepath.Join(dir, intermediateKeyFile), 0o644) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dirs := make([]string, 2)
			for i := range dirs {
				ca, _, _ := open(t)
				dirs[i] = t.TempDir()
				step(t, func() error { return IssueIntermediate(ca.dir, "", dirs[i], day) })
			}
			spoil(t, dirs[0], dirs[1])
			if _, _, err := Open(dirs[0], "datapunk"); err == nil {
				t.Error("a start with it")
			}
		})
	}
	ca, _, _ := open(t)
	if err := IssueIntermediate(ca.dir, "", ca.dir, day); err == nil {
		t.Error("beside its own root's key")
	}
	if err := IssueIntermediate(ca.dir, "", t.TempDir(), time.Minute); err == nil {
		t.Error("for a minute")
	}
}
