package sds

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAReconnectingProxyKeepsItsCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		first := f.lease(t)
		held := version(t, first)
		due := first.Info().RenewAt
		first.Release()
		time.Sleep(time.Hour)
		issued := f.Stats().Issued

		l := f.lease(t)
		for _, name := range []string{"default", "spiffe://datapunk/web"} {
			if !l.Adopt(held) {
				t.Fatalf("a good certificate was not adopted as %s", name)
			}
		}
		info := l.Info()
		if !info.Adopted || info.RenewAt.Unix() != due.Unix() || f.Stats().Issued != issued {
			t.Errorf("info %+v, due %s", info, due)
		}
		time.Sleep(info.RenewAt.Sub(f.clock.now()) + time.Second)
		if f.changes.Load() != 1 || version(t, l) == held {
			t.Error("not renewed when the adopted one was due")
		}
		if l.Adopt(held) {
			t.Error("the old one was adopted over the new")
		}
	})
}

// A second control plane with a copy of the directory serves the same fleet.
func TestACopyOfTheDataDirectoryTakesTheFleetOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, tokens, dir := open(t)
		second := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(second, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ca-key.pem", "token-key.pem"} {
			if err := os.Chmod(filepath.Join(second, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		otherCA, otherTokens, err := Open(second, trustDomain)
		if err != nil {
			t.Fatal(err)
		}
		if string(ca.Roots()) != string(otherCA.Roots()) {
			t.Error("the trust bundles differ")
		}
		raw, err := tokens.Mint("web", "web-1", day)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := otherTokens.Verify(raw); err != nil {
			t.Errorf("a token of the first: %v", err)
		}
		lease := func(ca *CA) *Lease {
			m, err := NewManager(ca, Options{Rotation: day, TTL: 2 * day})
			if err != nil {
				t.Fatal(err)
			}
			l, err := m.Lease("web", func() {})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		if !lease(otherCA).Adopt(version(t, lease(ca))) {
			t.Error("a certificate of the first has to be issued again")
		}
		// Each has an intermediate of its own; peers trust both.
		s, err := otherCA.issue(wallClock(), webID(t, ca), ttl, serverNames{})
		if err != nil {
			t.Fatal(err)
		}
		if err := ca.check(s, wallClock()); err != nil {
			t.Errorf("a certificate of the second: %v", err)
		}
	})
}

func TestVersionsThatAreNotAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		serial := strings.Repeat("40", 20) // draws a quarter of the window, so not at once
		ahead := f.clock.now().Add(time.Hour).Unix()
		for name, v := range map[string]string{
			"empty":          "",
			"nonsense":       "a.b.c",
			"another root":   fmt.Sprintf("0123456789abcdef.%d.%s", ahead, serial),
			"due":            fmt.Sprintf("%s.%d.%s", f.ca.roots.Load().first.id, f.clock.now().Unix(), serial),
			"no serial":      fmt.Sprintf("%s.%d.", f.ca.roots.Load().first.id, ahead),
			"short serial":   fmt.Sprintf("%s.%d.0102", f.ca.roots.Load().first.id, ahead),
			"too many parts": fmt.Sprintf("%s.%d.%s.x", f.ca.roots.Load().first.id, ahead, serial),
		} {
			if f.lease(t).Adopt(v) {
				t.Errorf("%s: %q was adopted", name, v)
			}
		}
		l := f.lease(t)
		if !l.Adopt(fmt.Sprintf("%s.%d.%s", f.ca.roots.Load().first.id, f.clock.now().Add(1000*day).Unix(), serial)) {
			t.Fatal("want it adopted, and renewed soon")
		}
		if in := l.Info().RenewAt.Sub(f.clock.now()); in > 6*time.Hour {
			t.Errorf("a proxy can put its renewal off to %s from now", in)
		}
	})
}

func TestAnAdoptedCertificateThatIsAskedForUnderASecondNameIsReplacedUnderBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, day, 2*day)
		held := version(t, f.lease(t))
		l := f.lease(t)
		l.Adopt(held)
		_, v, err := secretOf(l, "spiffe://datapunk/web")
		if err != nil {
			t.Fatal(err)
		}
		if f.changes.Load() != 1 || version(t, l) != v || v == held {
			t.Error("the proxy would hold two certificates")
		}
	})
}
