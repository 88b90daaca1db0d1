package sds

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"datapunk.dev/controlplane/sds/identity"
)

// elsewhere is a data directory, and files beside it that the authority is in.
func elsewhere(t *testing.T) (dir string, at Files) {
	t.Helper()
	base := t.TempDir()
	return filepath.Join(base, "data"), Files{Cert: filepath.Join(base, "mesh", "ca.crt"), Key: filepath.Join(base, "mesh", "ca.key")}
}

func opened(t *testing.T, dir string, at Files) *CA {
	t.Helper()
	ca, _, err := OpenContext(t.Context(), slog.New(slog.DiscardHandler), dir, trustDomain, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func refused(t *testing.T, dir string, at Files, why string) {
	t.Helper()
	_, _, err := OpenContext(t.Context(), slog.New(slog.DiscardHandler), dir, trustDomain, at, nil)
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("error %v, want %q", err, why)
	}
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// The first start makes the authority where the mesh file has it; the data directory has
// the certificate alone, by which the commands work as ever.
func TestTheAuthorityIsWhereTheMeshFileHasIt(t *testing.T) {
	dir, at := elsewhere(t)
	ca := opened(t, dir, at)
	if !ca.made || mode(t, at.Key) != 0o600 || mode(t, filepath.Dir(at.Key)) != 0o700 {
		t.Error("it is not made, or others can read it")
	}
	if there, _ := exists(filepath.Join(dir, caKeyFile)); there {
		t.Error("the data directory has a key too")
	}
	again := opened(t, dir, at)
	roots, err := ReadRoots(dir)
	if again.made || err != nil || !bytes.Equal(again.Roots(), ca.Roots()) || !bytes.Equal(roots, ca.Roots()) {
		t.Errorf("another start has another root, or the data directory does: %v", err)
	}
	if _, err := OpenTokens(dir); err != nil {
		t.Errorf("tokens cannot be minted: %v", err)
	}
	out := filepath.Join(t.TempDir(), "replica")
	if err := IssueIntermediate(dir, at.Key, out, time.Hour); err != nil {
		t.Fatalf("no intermediate of it: %v", err)
	}
	// One mesh file is for all replicas: the intermediate stands in the place of the files.
	replica := Files{Cert: filepath.Join(t.TempDir(), "mesh", "ca.crt"), Key: filepath.Join(t.TempDir(), "mesh", "ca.key")}
	if got := opened(t, out, replica); !bytes.Equal(got.Roots(), ca.Roots()) {
		t.Error("a replica with an intermediate has another root")
	}
}

// An authority of a data directory moves by copies of its files, and in no other way.
func TestTheAuthorityMoves(t *testing.T) {
	dir, at := elsewhere(t)
	ca := opened(t, dir, Files{})
	if err := CheckFiles(dir, at); err == nil {
		t.Error("files that are not there have the root of the mesh")
	}
	refused(t, dir, at, "this mesh has a root")
	if there, _ := exists(at.Cert); there {
		t.Fatal("a new authority was made")
	}
	for from, to := range map[string]string{caFile: at.Cert, caKeyFile: at.Key} {
		if err := os.Rename(filepath.Join(dir, from), to); err != nil {
			t.Fatal(err)
		}
	}
	if err := CheckFiles(dir, at); err != nil {
		t.Error(err)
	}
	if got := opened(t, dir, at); !bytes.Equal(got.Roots(), ca.Roots()) || got.made {
		t.Error("the authority is another one")
	}
	if err := CheckFiles(dir, Files{}); err == nil {
		t.Error("the data directory has the key no more, and is taken")
	}
}

// The files may be in the data directory itself, whatever path leads there.
func TestTheAuthorityIsInTheDataDirectoryByAnotherPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	at := Files{Cert: filepath.Join(link, "ca.crt"), Key: filepath.Join(link, "ca.key")}
	if _, _, err := OpenContext(ctx, slog.New(slog.DiscardHandler), dir, trustDomain, at, nil); err != nil {
		t.Errorf("it waits for its own lock: %v", err)
	}
}

// Of an authority that is moved and not found, by a slip in a path or with the mesh file
// of before, the data directory has the token key alone. That is enough to make no other.
func TestAnAuthorityThatIsNotFoundIsNotMadeAnew(t *testing.T) {
	dir, at := elsewhere(t)
	ca := opened(t, dir, Files{})
	if err := os.MkdirAll(filepath.Dir(at.Cert), 0o700); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{caFile: at.Cert, caKeyFile: at.Key} {
		if err := os.Rename(filepath.Join(dir, from), to); err != nil {
			t.Fatal(err)
		}
	}
	slip := Files{Cert: filepath.Join(filepath.Dir(at.Cert), "slip.crt"), Key: filepath.Join(filepath.Dir(at.Key), "slip.key")}
	for name, wrong := range map[string]Files{"a slip": slip, "the mesh file of before": {}} {
		t.Run(name, func(t *testing.T) {
			refused(t, dir, wrong, tokenKeyFile+" says that this mesh has a root")
			d := &directory{path: dir, at: wrong}
			for _, path := range []string{d.cert(), d.key()} {
				if there, _ := exists(path); there {
					t.Errorf("%s was made", path)
				}
			}
		})
	}
	if got := opened(t, dir, at); !bytes.Equal(got.Roots(), ca.Roots()) || got.made {
		t.Error("the authority is another one where it is found")
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	remove := func(t *testing.T, paths ...string) {
		t.Helper()
		for _, path := range paths {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	chmod := func(t *testing.T, path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	another := func(t *testing.T, domain string) (cert, key []byte) {
		t.Helper()
		cert, key, err := newRoot(spiffeid.RequireTrustDomainFromString(domain), wallClock())
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: key})
	}
	put := func(t *testing.T, path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string, at *Files)
		why   string
	}{
		"no key":                    {func(t *testing.T, _ string, at *Files) { remove(t, at.Key) }, "is there without "},
		"no certificate":            {func(t *testing.T, _ string, at *Files) { remove(t, at.Cert) }, "is there without "},
		"neither":                   {func(t *testing.T, _ string, at *Files) { remove(t, at.Cert, at.Key) }, "this mesh has a root"},
		"the operator's, and gone":  {func(t *testing.T, _ string, at *Files) { remove(t, at.Cert, at.Key); at.Operators = true }, "makes no authority"},
		"a key that others read":    {func(t *testing.T, _ string, at *Files) { chmod(t, at.Key, 0o640) }, "can be read by others"},
		"a place that others write": {func(t *testing.T, _ string, at *Files) { chmod(t, filepath.Dir(at.Key), 0o777) }, "can be written by others"},
		"another key":               {func(t *testing.T, _ string, at *Files) { _, key := another(t, trustDomain); put(t, at.Key, key) }, "is not the key of"},
		"another root": {func(t *testing.T, _ string, at *Files) {
			cert, key := another(t, trustDomain)
			put(t, at.Cert, cert)
			put(t, at.Key, key)
		}, "another root comes by controlplane roots alone"},
		"another trust domain": {func(t *testing.T, dir string, at *Files) {
			cert, key := another(t, "other")
			put(t, at.Cert, cert)
			put(t, at.Key, key)
			remove(t, filepath.Join(dir, caFile))
		}, `is the root of trust domain "other"`},
		"no certificate of an authority": {func(t *testing.T, dir string, at *Files) {
			key, _ := readKey(at.Key)
			template := &x509.Certificate{SerialNumber: must(newSerial()), NotAfter: wallClock().Add(time.Hour)}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			put(t, at.Cert, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}))
		}, "not the certificate of an authority"},
		"an intermediate that is not the operator's": {func(t *testing.T, _ string, at *Files) {
			cert, _ := os.ReadFile(at.Cert)
			put(t, at.Cert, append(cert, cert...))
		}, "provider is files"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, at := elsewhere(t)
			opened(t, dir, at)
			c.spoil(t, dir, &at)
			refused(t, dir, at, c.why)
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// The operator's own intermediate signs, under a root whose key is elsewhere. Another one
// in its place is taken while it serves, another root is not, and none is made.
func TestTheOperatorsIntermediate(t *testing.T) {
	home, dir := filepath.Join(t.TempDir(), "home"), filepath.Join(t.TempDir(), "data")
	root := opened(t, home, Files{}).roots.Load().first
	at := Files{Cert: filepath.Join(t.TempDir(), "ca.crt"), Key: filepath.Join(t.TempDir(), "ca.key"), Operators: true}
	issue := func(by *signer) {
		i, err := by.newIntermediate("operator", wallClock(), 30*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		key := must(x509.MarshalPKCS8PrivateKey(i.key))
		chain := slices.Concat(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: i.cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: by.root.Raw}))
		if err := os.WriteFile(at.Key, pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: key}), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at.Cert, chain, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	issue(root)
	ca := opened(t, dir, at)
	id := spiffeid.RequireFromString("spiffe://" + trustDomain + "/web")
	first, err := ca.issue(wallClock(), id, time.Hour, serverNames{})
	if err != nil {
		t.Fatal(err)
	}
	issue(root)
	if err := ca.reload(wallClock()); err != nil {
		t.Fatal(err)
	}
	second, err := ca.issue(wallClock(), id, time.Hour, serverNames{})
	if err != nil || first.issuer.cert.Equal(second.issuer.cert) {
		t.Errorf("the new intermediate does not sign: %v", err)
	}
	other := opened(t, filepath.Join(t.TempDir(), "other"), Files{}).roots.Load().first
	issue(other)
	if err := ca.reload(wallClock()); err == nil || !strings.Contains(err.Error(), "another root comes by controlplane roots alone") {
		t.Errorf("another root: %v", err)
	}
	if _, err := ca.issue(wallClock(), id, time.Hour, serverNames{}); err != nil {
		t.Errorf("the last good one does not go on: %v", err)
	}
	if err := ca.inDirectory(wallClock(), (*directory).prepare); err == nil || !strings.Contains(err.Error(), "the root is the operator's") {
		t.Errorf("a next root: %v", err)
	}
	if have := identity.HashRoots(ca.Roots()); len(have) != 1 || have[0] != hashOf(root) {
		t.Errorf("the roots are %v", have)
	}
}

// Of the operator's chain the certificate that ends first bounds what is signed, wherever
// it stands; its renewal, with the intermediate as it was, is taken.
func TestTheOperatorsChainEndsWithItsFirst(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "data"), wallClock()
	at := Files{Cert: filepath.Join(t.TempDir(), "ca.crt"), Key: filepath.Join(t.TempDir(), "ca.key"), Operators: true}
	authorityOf := func(role string, life time.Duration, by *x509.Certificate, byKey, own *ecdsa.PrivateKey) *x509.Certificate {
		template := must(authority(spiffeid.RequireTrustDomainFromString(trustDomain), role, now, now.Add(life)))
		template.SubjectKeyId = must(subjectKeyID(&own.PublicKey))
		if by == nil {
			by = template
		}
		return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, by, &own.PublicKey, byKey))))
	}
	rootKey, aboveKey, key := must(newKey()), must(newKey()), must(newKey())
	top := authorityOf("root", 365*24*time.Hour, nil, rootKey, rootKey)
	above := authorityOf("above", 2*time.Hour, top, rootKey, aboveKey)
	below := authorityOf("below", 30*24*time.Hour, above, aboveKey, key)
	write := func(above *x509.Certificate) {
		var chain []byte
		for _, cert := range []*x509.Certificate{below, above, top} {
			chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: cert.Raw})...)
		}
		if err := os.WriteFile(at.Cert, chain, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(above)
	if err := writePEM(at.Key, pemPrivateKey, must(x509.MarshalPKCS8PrivateKey(key)), 0o600); err != nil {
		t.Fatal(err)
	}
	ca := opened(t, dir, at)
	id := spiffeid.RequireFromString("spiffe://" + trustDomain + "/web")
	ends := func() time.Time {
		t.Helper()
		s, err := ca.issue(now, id, 24*time.Hour, serverNames{})
		if err != nil {
			t.Fatal(err)
		}
		return s.notAfter
	}
	if got := ends(); !got.Equal(above.NotAfter) {
		t.Errorf("a certificate ends at %s, the one above its issuer at %s", got, above.NotAfter)
	}
	if got := (&Manager{ca: ca}).IntermediateExpires(); !got.Equal(above.NotAfter) {
		t.Errorf("the intermediate is said to end at %s, want %s", got, above.NotAfter)
	}
	// Proxies trust the root alone: the xDS port shows them all that is below it.
	m := &Manager{ca: ca, issue: ca.issue}
	_, port, err := m.issueServer(now)
	if err != nil {
		t.Fatal(err)
	}
	shown := make([]*x509.Certificate, len(port.Certificate))
	for i, der := range port.Certificate {
		shown[i] = must(x509.ParseCertificate(der))
	}
	if _, _, err := x509svid.Verify(shown, ca.roots.Load().bundle); err != nil {
		t.Errorf("a proxy does not know the xDS port: %v", err)
	}
	if n := len(m.Chain()); n != 3 {
		t.Errorf("%d certificates above a proxy's", n)
	}
	renewed := *above
	renewed.NotAfter = now.Add(90 * 24 * time.Hour)
	write(must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &renewed, top, &aboveKey.PublicKey, rootKey)))))
	if err := ca.reload(now); err != nil {
		t.Fatal(err)
	}
	if got := ends(); !got.Equal(now.Add(24 * time.Hour)) {
		t.Errorf("with the one above renewed a certificate ends at %s", got)
	}
}

// The root is replaced where the mesh file has it, as in the data directory, also when
// the process ends in between.
func TestARootElsewhereIsReplaced(t *testing.T) {
	for _, interrupted := range []bool{false, true} {
		dir, at := elsewhere(t)
		ca := opened(t, dir, at)
		old := hashOf(ca.roots.Load().first)
		now := wallClock()
		for _, step := range []func(*directory) error{
			(*directory).prepare,
			func(d *directory) error { return d.activate(now.Add(-time.Second)) },
		} {
			if err := ca.inDirectory(now, step); err != nil {
				t.Fatal(err)
			}
			if err := ca.reload(now); err != nil {
				t.Fatal(err)
			}
		}
		next := hashOf(ca.roots.Load().next)
		if interrupted {
			// The key is in place, and nothing else.
			d := &directory{path: dir, at: at, now: now}
			data := must(os.ReadFile(d.file(nextKeyFile)))
			if err := d.write(rotation{Phase: retiring}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at.Key, data, 0o600); err != nil {
				t.Fatal(err)
			}
		} else if err := ca.inDirectory(now, (*directory).retire); err != nil {
			t.Fatal(err)
		}
		again := opened(t, dir, at)
		if got := hashOf(again.roots.Load().first); got != next || got == old {
			t.Errorf("the root is %s, want %s", got, next)
		}
		if roots, err := ReadRoots(dir); err != nil || !bytes.Equal(roots, again.Roots()) {
			t.Errorf("the data directory knows another root: %v", err)
		}
		if there, _ := exists(filepath.Join(dir, caKeyFile)); there {
			t.Error("a key is in the data directory")
		}
	}
}
