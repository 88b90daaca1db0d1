package sds

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/sds/identity"
)

// peer is what a proxy holds: the trust bundle as it was given it last, and its
// certificate.
type peer struct {
	bundle []byte
	chain  []*x509.Certificate
}

func (f *fleet) peer(t *testing.T, bundle []byte, l *Lease) peer {
	t.Helper()
	body, _, err := secretOf(l, "default")
	if err != nil {
		t.Fatal(err)
	}
	var secret tlsv3.Secret
	if err := proto.Unmarshal(body, &secret); err != nil {
		t.Fatal(err)
	}
	p := peer{bundle: bundle}
	for rest := secret.GetTlsCertificate().GetCertificateChain().GetInlineBytes(); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return p
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		p.chain = append(p.chain, cert)
	}
}

// trusts reports whether a handshake of the two holds on this side.
func (p peer) trusts(t *testing.T, f *fleet, other peer) bool {
	t.Helper()
	bundle, err := x509bundle.Parse(f.TrustDomain(), p.bundle)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = x509svid.Verify(other.chain, bundle, x509svid.WithTime(f.clock.now()))
	return err == nil
}

// underFirst is a certificate that the first root signs, whoever signs now.
func (f *fleet) underFirst(t *testing.T, l *Lease) peer {
	t.Helper()
	is := f.ca.roots.Load()
	f.ca.roots.Store(newRoots(is, Prepared, time.Time{}, is.first, is.next))
	defer f.ca.roots.Store(is)
	step(t, l.renew)
	p := f.peer(t, f.Roots(), l)
	f.ca.roots.Store(is)
	step(t, l.renew)
	return p
}

// managerOf is another control plane, with a data directory of its own or after a
// restart.
func (f *fleet) managerOf(t *testing.T, dir string) *Manager {
	t.Helper()
	ca, _, err := Open(dir, "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewManager(ca, Options{Rotation: day, TTL: 2 * day, Now: f.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func step(t *testing.T, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Fatal(err)
	}
}

// However far apart two proxies are in a replacement, by one phase or with
// certificates of before and after the renewal, each trusts the other.
func TestTheRootIsReplacedWithoutAHandshakeThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		l := f.lease(t)
		first := f.Rotation().First
		last := f.peer(t, f.Roots(), l)
		look := func(when string) {
			t.Helper()
			now := f.peer(t, f.Roots(), l)
			if !now.trusts(t, f, last) || !last.trusts(t, f, now) || !now.trusts(t, f, now) {
				t.Errorf("%s: a handshake with who is as far as a phase before fails", when)
			}
			last = now
		}

		step(t, f.Prepare)
		look("prepared")
		next := f.Rotation().Next
		if r := f.Rotation(); r.Phase != Prepared || r.Signs() != first || next == first {
			t.Errorf("%+v", r)
		}
		if roots := identity.HashRoots(f.Roots()); len(roots) != 2 || roots[0] != first || roots[1] != next {
			t.Errorf("trusted: %v", roots)
		}

		step(t, f.Activate)
		look("activated")
		if r := f.Rotation(); r.Phase != Activated || r.Signs() != next || r.Old != 1 || r.Until.Sub(f.clock.now()) != 2*day {
			t.Errorf("%+v", r)
		}
		time.Sleep(day / 4)
		look("signed by the next root")
		if r := f.Rotation(); r.Old != 0 || !strings.HasPrefix(version(t, l), next.ID()) {
			t.Errorf("a quarter of the rotation later: %+v, the secret is %s", r, version(t, l))
		}
		if err := f.Retire(); err == nil || !strings.Contains(err.Error(), "may be in use until") {
			t.Errorf("retired while certificates of the first root are valid: %v", err)
		}

		time.Sleep(2 * day)
		last = f.peer(t, f.Roots(), l) // the one before has expired
		old := f.underFirst(t, l)
		step(t, f.Retire)
		look("retired")
		if r := f.Rotation(); r.Phase != Steady || r.First != next || r.Next != (identity.RootHash{}) {
			t.Errorf("%+v", r)
		}
		if last.trusts(t, f, old) {
			t.Error("the old root is trusted still")
		}
		for _, name := range []string{nextFile, nextKeyFile, rotationFile} {
			if there, err := exists(filepath.Join(f.ca.dir, name)); there || err != nil {
				t.Errorf("%s is there still (%v)", name, err)
			}
		}
	})
}

// Before anything is retired each step can be taken back, and no handshake fails then.
func TestTheReplacementOfTheRootIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		l := f.lease(t)
		first := f.Rotation().First
		before := f.peer(t, f.Roots(), l)
		step(t, f.Prepare)
		step(t, f.Activate)
		time.Sleep(day / 4)
		activated := f.peer(t, f.Roots(), l)
		step(t, f.StepBack)
		time.Sleep(day / 4)
		back := f.peer(t, f.Roots(), l)
		if r := f.Rotation(); r.Phase != Prepared || r.Signs() != first || r.Old != 0 {
			t.Errorf("%+v", r)
		}
		if !back.trusts(t, f, activated) || !activated.trusts(t, f, back) || !before.trusts(t, f, back) {
			t.Error("a handshake fails")
		}
		if err := f.StepBack(); err == nil || !strings.Contains(err.Error(), "may be in use until") {
			t.Errorf("the next root was forgotten while its certificates are valid: %v", err)
		}
		time.Sleep(2 * day)
		step(t, f.StepBack)
		if r := f.Rotation(); r.Phase != Steady || r.First != first || len(identity.HashRoots(f.Roots())) != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// Each phase is that of the directory: a restart goes on from there, and certificates
// of a root that is replaced are taken over, to be renewed soon.
func TestARestartGoesOnWithTheReplacementOfTheRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		l := f.lease(t)
		held := version(t, l)
		step(t, f.Prepare)
		step(t, f.Activate)
		m := f.managerOf(t, f.ca.dir)
		if a, b := m.Rotation(), f.Rotation(); a.Phase != b.Phase || a.First != b.First || a.Next != b.Next || !a.Until.Equal(b.Until) {
			t.Errorf("%+v, before %+v", a, b)
		}
		adopted, err := m.Lease("web", func() {})
		if err != nil {
			t.Fatal(err)
		}
		if !adopted.Adopt(held) || adopted.Info().RenewAt.After(f.clock.now().Add(day/4)) {
			t.Errorf("what the first root signed is not renewed soon: %+v", adopted.Info())
		}
		if m.Rotation().Old != 1 {
			t.Error("it does not count as one of the first root")
		}
	})
}

// A replica gets the next root by copies of its files, and takes them when it looks.
func TestAReplicaIsGivenTheNextRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		dir := t.TempDir()
		copyFiles(t, f.ca.dir, dir, caFile, caKeyFile, tokenKeyFile)
		m := f.managerOf(t, dir)
		step(t, f.Prepare)
		if changed, err := m.Reload(); changed || err != nil {
			t.Errorf("nothing was copied: %v, %v", changed, err)
		}
		copyFiles(t, f.ca.dir, dir, nextFile)
		if changed, err := m.Reload(); changed || err == nil {
			t.Errorf("a certificate without its key was taken: %v, %v", changed, err)
		}
		copyFiles(t, f.ca.dir, dir, nextKeyFile)
		if changed, err := m.Reload(); !changed || err != nil {
			t.Errorf("%v, %v", changed, err)
		}
		if string(m.Roots()) != string(f.Roots()) || m.Rotation().Phase != Prepared {
			t.Errorf("%+v", m.Rotation())
		}
	})
}

// Wherever the process ends while it retires a root, the next start has the new one,
// whole.
func TestARetirementThatWasInterruptedIsCompleted(t *testing.T) {
	for name, interrupted := range map[string]func(t *testing.T, d *directory){
		"at once": func(*testing.T, *directory) {},
		"after the key": func(t *testing.T, d *directory) {
			copyAs(t, d.file(nextKeyFile), d.file(caKeyFile))
		},
		"after both": func(t *testing.T, d *directory) {
			copyAs(t, d.file(nextKeyFile), d.file(caKeyFile))
			copyAs(t, d.file(nextFile), d.file(caFile))
		},
		"after the next certificate was removed": func(t *testing.T, d *directory) {
			copyAs(t, d.file(nextKeyFile), d.file(caKeyFile))
			copyAs(t, d.file(nextFile), d.file(caFile))
			step(t, func() error { return os.Remove(d.file(nextFile)) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			ca, _, dir := open(t)
			d := &directory{path: dir, td: "datapunk", now: wallClock()}
			step(t, d.prepare)
			next, err := readRoot(d.file(nextFile))
			if err != nil {
				t.Fatal(err)
			}
			step(t, func() error { return d.write(rotation{Phase: retiring}) })
			interrupted(t, d)
			again, _, err := Open(dir, "datapunk")
			if err != nil {
				t.Fatal(err)
			}
			if is := again.roots.Load(); is.phase != Steady || !is.first.root.Equal(next) || is.first.root.Equal(ca.roots.Load().first.root) {
				t.Errorf("%s, the root is %s", is.phase, is.first.id)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 4 {
				t.Errorf("left behind: %v (%v)", entries, err)
			}
		})
	}
}

// Steps that make no sense where the replacement is, and files that do not belong
// together, are refused, and all stays as it is.
func TestWhatIsNoStepOfAReplacement(t *testing.T) {
	f := func(t *testing.T) (*Manager, string) {
		t.Helper()
		ca, _, dir := open(t)
		m, err := NewManager(ca, Options{Rotation: day, TTL: 2 * day})
		if err != nil {
			t.Fatal(err)
		}
		return m, dir
	}
	t.Run("steps", func(t *testing.T) {
		m, _ := f(t)
		for name, s := range map[string]func() error{"activate": m.Activate, "retire": m.Retire, "back": m.StepBack} {
			if err := s(); err == nil {
				t.Errorf("%s, with one root", name)
			}
		}
		step(t, m.Prepare)
		for name, s := range map[string]func() error{"prepare": m.Prepare, "retire": m.Retire} {
			if err := s(); err == nil {
				t.Errorf("%s, with the next root prepared", name)
			}
		}
		step(t, m.Activate)
		for name, s := range map[string]func() error{"prepare": m.Prepare, "activate": m.Activate} {
			if err := s(); err == nil {
				t.Errorf("%s, with the next root activated", name)
			}
		}
	})
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"a key that others can read": func(t *testing.T, dir string) {
			step(t, func() error { return os.Chmod(filepath.Join(dir, nextKeyFile), 0o644) })
		},
		"another's key": func(t *testing.T, dir string) {
			copyAs(t, filepath.Join(dir, caKeyFile), filepath.Join(dir, nextKeyFile))
		},
		"the first root again":      func(t *testing.T, dir string) { copyAs(t, filepath.Join(dir, caFile), filepath.Join(dir, nextFile)) },
		"a phase that nobody knows": func(t *testing.T, dir string) { write(t, filepath.Join(dir, rotationFile), `{"phase": "revoked"}`) },
		"no JSON":                   func(t *testing.T, dir string) { write(t, filepath.Join(dir, rotationFile), "{") },
		"activated, and no root": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, rotationFile), `{"phase": "activated"}`)
			step(t, func() error { return os.Remove(filepath.Join(dir, nextFile)) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, dir := f(t)
			step(t, m.Prepare)
			before := m.Rotation()
			spoil(t, dir)
			if changed, err := m.Reload(); changed || err == nil {
				t.Errorf("taken: %v", changed)
			}
			if m.Rotation() != before {
				t.Errorf("%+v", m.Rotation())
			}
			if _, _, err := Open(dir, "datapunk"); err == nil {
				t.Error("a start with it")
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyAs(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFiles(t *testing.T, from, to string, names ...string) {
	t.Helper()
	for _, name := range names {
		copyAs(t, filepath.Join(from, name), filepath.Join(to, name))
	}
}

// Wherever the process ends while it forgets the next root, the next start has the
// first one.
func TestANextRootThatWasHalfForgotten(t *testing.T) {
	for left := range 3 {
		ca, _, dir := open(t)
		d := &directory{path: dir, td: "datapunk", now: wallClock()}
		step(t, d.prepare)
		step(t, func() error { return d.activate(d.now) })
		step(t, func() error { return d.stepBack(d.now.Add(-time.Second)) })
		for _, name := range []string{rotationFile, nextFile, nextKeyFile}[:left+1] { // the order of stepBack
			step(t, func() error { return d.remove(name) })
		}
		again, _, err := Open(dir, "datapunk")
		if err != nil || !again.roots.Load().first.root.Equal(ca.roots.Load().first.root) || again.roots.Load().signing.id != ca.roots.Load().first.id {
			t.Errorf("after %d files: %v", left+1, err)
		}
	}
}

// A root is replaced because it ends; that it does so before it is retired stops neither
// a start nor the retirement.
func TestAFirstRootThatEndsWhileTheNextOneSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		step(t, f.Prepare)
		step(t, f.Activate)
		end := f.ca.roots.Load().first.root.NotAfter
		time.Sleep(time.Until(end.Add(-day)))
		if got := f.ca.RootExpires(); !got.Equal(end) {
			t.Errorf("no sign that the root of the xDS port ends at %s: %s", end, got)
		}
		// The next one is as old, so it is made anew in its place.
		next, key, err := newRoot(f.TrustDomain(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		step(t, func() error { return writePEM(filepath.Join(f.ca.dir, nextKeyFile), pemPrivateKey, key, 0o600) })
		step(t, func() error { return writePEM(filepath.Join(f.ca.dir, nextFile), pemCertificate, next, 0o644) })
		time.Sleep(2 * day)
		if _, _, err := Open(f.ca.dir, "datapunk"); err != nil {
			t.Errorf("a start: %v", err)
		}
		if _, err := f.Reload(); err != nil {
			t.Error(err)
		}
		step(t, f.Retire)
	})
}
