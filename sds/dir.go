package sds

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/sds/token"
)

// The files of the data directory.
const (
	caFile       = "ca.pem"
	caKeyFile    = "ca-key.pem"
	tokenKeyFile = "token-key.pem"
)

const (
	pemCertificate = "CERTIFICATE"
	pemPrivateKey  = "PRIVATE KEY" // PKCS #8
)

// Open opens the data directory of the mesh with the trust domain, and makes
// it, with a new root and a new token key, on the first start:
//
//	ca.pem         the root certificate, which proxies pin
//	ca-key.pem     its private key
//	token-key.pem  the key that signs the proxies' tokens
//
// While the root is replaced, the next one is beside it: see rotation.go.
//
// In the place of the root's key there may be an intermediate under it: see
// [IssueIntermediate].
//
// A token key that is missing beside a root is made anew; that revokes every
// token. One without a root is what is left of a directory that had one: none is made
// there. Keys that others can read, files that belong to another user, a key
// that is not the certificate's, and another trust domain are refused.
// Processes that open one directory at the same time agree on its content.
func Open(dir, trustDomain string) (*CA, *token.Authority, error) {
	return OpenContext(context.Background(), slog.New(slog.DiscardHandler), dir, trustDomain, Files{}, nil)
}

// OpenContext is [Open] with an end to its patience: where something is to be
// made, another process may have the directory locked. The log is told of whom
// it waits for; it ends with ctx, and with an error after a while. With an expected
// root nothing is made in the place of what was lost, and another root is refused. At
// says where the root is if it is not in the directory.
func OpenContext(ctx context.Context, log *slog.Logger, dir, trustDomain string, at Files, expected *identity.RootHash) (*CA, *token.Authority, error) {
	td, err := parseTrustDomain(trustDomain)
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("data directory: %w", err)
	}
	if err := checkDir(dir); err != nil {
		return nil, nil, err
	}
	d := &directory{path: dir, at: at, now: wallClock()}
	if err := d.place(); err != nil {
		return nil, nil, err
	}
	if expected != nil {
		if err := d.complete(); err != nil {
			return nil, nil, fmt.Errorf("%w, and the root %s is expected: restore the data directory from its backup", err, expected)
		}
	}
	before, err := exists(d.cert())
	if err == nil && expected == nil {
		err = d.fillLocked(ctx, log, td)
	}
	if err != nil {
		return nil, nil, err
	}

	ca, err := d.loadCA(ctx, log)
	if err != nil {
		return nil, nil, err
	}
	if expected != nil {
		if have := identity.HashRoots(ca.Roots()); !slices.Contains(have, *expected) {
			return nil, nil, fmt.Errorf("%s is the root %s, and %s is expected", d.cert(), have[0], expected)
		}
	}
	ca.made = !before
	if ca.td != td {
		return nil, nil, fmt.Errorf("%s is the root of trust domain %q, the mesh's is %q: use another data directory for it",
			d.cert(), ca.td, td)
	}
	if err := d.remember(ca.roots.Load().first.root); err != nil {
		return nil, nil, err
	}
	key, err := readKey(filepath.Join(dir, tokenKeyFile))
	if err != nil {
		return nil, nil, err
	}
	tokens, err := token.New(td, key)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(dir, tokenKeyFile), err)
	}
	return ca, tokens, nil
}

// ReadRoots returns the trust bundle of a data directory; nil if there is none.
func ReadRoots(dir string) ([]byte, error) {
	roots, err := readBundle(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return roots, err
}

// OpenTokens opens only what it takes to mint tokens: the trust domain, from
// the root certificate, and the token key. It makes nothing.
func OpenTokens(dir string) (*token.Authority, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	root, err := readRoot(filepath.Join(dir, caFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no %s: the control plane makes it on its first start", dir, caFile)
	}
	if err != nil {
		return nil, err
	}
	td, err := identity.RootTrustDomain(root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, caFile), err)
	}
	key, err := readKey(filepath.Join(dir, tokenKeyFile))
	if err != nil {
		return nil, err
	}
	tokens, err := token.New(td, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, tokenKeyFile), err)
	}
	return tokens, nil
}

func parseTrustDomain(name string) (spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return td, fmt.Errorf("trust domain %q: %w", name, err)
	}
	if td.Name() != name {
		return td, fmt.Errorf("trust domain %q: want the bare name, %q", name, td.Name())
	}
	if len(name) > 255 { // SPIFFE-ID section 2.1
		return td, fmt.Errorf("trust domain has %d bytes, the limit is 255", len(name))
	}
	return td, nil
}

// fillLocked makes what is missing. Only that needs the lock: whoever can open
// the directory can hold it, and the start of a control plane whose directory is
// whole must not depend on that. Each file is put in place whole.
func (d *directory) fillLocked(ctx context.Context, log *slog.Logger, td spiffeid.TrustDomain) error {
	for _, name := range []string{caFile, caKeyFile, tokenKeyFile} {
		there, err := d.has(name)
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		if there {
			continue
		}
		unlock, err := lockDir(ctx, log, d.path)
		if err != nil {
			return err
		}
		defer unlock()
		unlockPlace, err := d.lockPlace(ctx, log)
		if err != nil {
			return err
		}
		defer unlockPlace()
		if err := d.fill(log, td); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		return nil
	}
	return nil
}

// complete is an error if anything is missing.
func (d *directory) complete() error {
	for _, name := range []string{caFile, caKeyFile, tokenKeyFile} {
		there, err := d.has(name)
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		if !there {
			at := d.pathOf(name)
			return fmt.Errorf("data directory: %s has no %s", filepath.Dir(at), filepath.Base(at))
		}
	}
	return nil
}

// fill makes what is missing. The root's certificate and key are one thing:
// with only one of them there, a new pair would cut off the fleet in silence.
func (d *directory) fill(log *slog.Logger, td spiffeid.TrustDomain) error {
	haveCert, err := exists(d.cert())
	if err != nil {
		return err
	}
	haveKey, err := d.has(caKeyFile)
	if err != nil {
		return err
	}
	haveToken, err := exists(d.file(tokenKeyFile))
	if err != nil {
		return err
	}
	switch {
	case haveCert && !haveKey:
		return fmt.Errorf("%s is there without %s: restore the key", d.cert(), d.key())
	case haveKey && !haveCert:
		return fmt.Errorf("%s is there without %s: restore the certificate, or remove the key to begin with a new root", d.key(), d.cert())
	case !haveCert:
		if err := d.lost(haveToken); err != nil {
			return err
		}
		cert, key, err := newRoot(td, wallClock())
		if err != nil {
			return err
		}
		if err := writePEM(d.key(), pemPrivateKey, key, 0o600); err != nil {
			return err
		}
		if err := writePEM(d.cert(), pemCertificate, cert, 0o644); err != nil {
			return err
		}
		log.Warn("a new authority was made: if this mesh had one, none of its proxies trusts this control plane; "+
			"restore its data directory, and start with --expect-root from then on", "data_dir", d.path, "certificate", d.cert(), "root", identity.RootHash(sha256.Sum256(cert)).String())
	}
	if haveToken {
		return nil
	}
	if haveCert {
		log.Warn("a new token key was made beside a root that was there: every token of before is refused", "data_dir", d.path)
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(d.file(tokenKeyFile), pemPrivateKey, der, 0o600)
}

// has reports whether a file is there; an intermediate stands for the root's key.
func (d *directory) has(name string) (bool, error) {
	there, err := exists(d.pathOf(name))
	if name == caKeyFile && !there && err == nil && d.at.Key == "" {
		return exists(d.file(intermediateFile))
	}
	return there, err
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

// CheckDir says what is wrong with a data directory as such. One that is not
// there yet is made later.
func CheckDir(dir string) error {
	err := checkDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// checkDir refuses a directory in which somebody else could swap the files.
// That others may list it is no harm: the keys have modes of their own.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("data directory %s is no directory", dir)
	}
	if err := checkOwner(dir, info); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("data directory %s can be written by others (mode %04o): chmod go-w %[1]s", dir, mode)
	}
	return nil
}

func checkOwner(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: owner unknown", path)
	}
	if euid := os.Geteuid(); int(stat.Uid) != euid {
		return fmt.Errorf("%s belongs to user %d, this process runs as %d", path, stat.Uid, euid)
	}
	return nil
}

// readKey reads a private key that nobody else may read.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkOwner(path, info); err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 %[1]s", path, mode)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemPrivateKey || len(rest) > 0 {
		return nil, fmt.Errorf("%s: want one PEM block %q", path, pemPrivateKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: want an ECDSA key, have %T", path, parsed)
	}
	return key, nil
}

func readRoot(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemCertificate || len(rest) > 0 {
		return nil, fmt.Errorf("%s: want one PEM block %q", path, pemCertificate)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

func (d *directory) loadCA(ctx context.Context, log *slog.Logger) (*CA, error) {
	r, err := d.phase()
	if err != nil {
		return nil, err
	}
	if r.Phase == retiring {
		unlock, err := lockDir(ctx, log, d.path)
		if err != nil {
			return nil, err
		}
		defer unlock()
		log.Warn("a root was being retired when the process ended: that is completed", "data_dir", d.path)
		if err := d.finish(); err != nil {
			return nil, err
		}
	}
	r, first, next, err := d.load()
	if err != nil {
		return nil, err
	}
	ca := &CA{td: first.td, dir: d.path, at: d.at}
	ca.roots.Store(newRoots(nil, r.Phase, r.Until, first, next))
	return ca, nil
}
