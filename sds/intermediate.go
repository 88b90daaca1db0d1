package sds

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/sds/identity"
)

// A replica may have an intermediate of its own in the place of the root's key. Who
// takes its machine then has an authority that ends by itself, and the root's key may
// lie on one machine, or on none that serves.
const (
	intermediateFile    = "intermediate.pem"
	intermediateKeyFile = "intermediate-key.pem"
)

// IssueIntermediate makes the data directory of another replica: the roots of dir, an
// intermediate under each that lives so long, and the key of the tokens. Key is where the
// first root's key is, empty in dir. What is in
// out is replaced but for a directory that has a root's key.
func IssueIntermediate(dir, key, out string, life time.Duration) error {
	if life < time.Hour {
		return fmt.Errorf("an intermediate that lives %s: the least is 1h", life)
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return err
	}
	if err := checkDir(out); err != nil {
		return err
	}
	switch there, err := exists(filepath.Join(out, caKeyFile)); {
	case err != nil:
		return err
	case there:
		return fmt.Errorf("%s has the key of a root: name another directory", out)
	}
	unlock, err := lockDir(context.Background(), slog.New(slog.DiscardHandler), dir)
	if err != nil {
		return err
	}
	defer unlock()
	d := &directory{path: dir, now: wallClock()}
	if key != "" {
		d.at = Files{Cert: d.file(caFile), Key: key}
	}
	r, first, next, err := d.load()
	if err != nil {
		return err
	}
	tokens, err := os.ReadFile(d.file(tokenKeyFile))
	if err != nil {
		return err
	}
	// What is there of a replacement is of the time when it was written.
	to := &directory{path: out}
	if err := to.forgetNext(); err != nil {
		return err
	}
	for prefix, s := range map[string]*signer{"": first, nextPrefix: next} {
		if s == nil {
			continue
		}
		if err := s.writeIntermediate(out, prefix, d.now, life); err != nil {
			return err
		}
	}
	if err := atomicfile.Write(filepath.Join(out, tokenKeyFile), tokens, 0o600); err != nil {
		return err
	}
	if r.Phase == Steady {
		return nil
	}
	return to.write(r)
}

// writeIntermediate puts the certificate of the root in place last: by it the others
// are looked for.
func (r *signer) writeIntermediate(out, prefix string, now time.Time, life time.Duration) error {
	if r.key == nil {
		return errors.New("this directory has an intermediate itself: name that with the root's key")
	}
	i, err := r.newIntermediate("replica", now, life)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(out, prefix+intermediateKeyFile), pemPrivateKey, key, 0o600); err != nil {
		return err
	}
	if err := writePEM(filepath.Join(out, prefix+intermediateFile), pemCertificate, i.cert.Raw, 0o644); err != nil {
		return err
	}
	return writePEM(filepath.Join(out, prefix+caFile), pemCertificate, r.root.Raw, 0o644)
}

// signerByIntermediate reads an intermediate under a root.
func (d *directory) signerByIntermediate(prefix string, root *x509.Certificate) (*signer, error) {
	at := d.file(prefix + intermediateFile)
	switch there, err := exists(d.file(prefix + caKeyFile)); {
	case err != nil:
		return nil, err
	case there:
		return nil, fmt.Errorf("%s has %s and %s: remove one", d.path, prefix+caKeyFile, prefix+intermediateFile)
	}
	cert, err := readRoot(at)
	if err != nil {
		return nil, err
	}
	key, err := readKey(d.file(prefix + intermediateKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is there without %s: copy both", at, prefix+intermediateKeyFile)
	}
	if err != nil {
		return nil, err
	}
	s, err := newSignerByIntermediate(root, []*x509.Certificate{cert}, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return s, nil
}

// newSignerByIntermediate takes an intermediate, and those above it up to the root.
func newSignerByIntermediate(root *x509.Certificate, chain []*x509.Certificate, key *ecdsa.PrivateKey) (*signer, error) {
	cert := chain[0]
	td, err := identity.RootTrustDomain(root)
	if err != nil {
		return nil, err
	}
	is, err := identity.RootTrustDomain(cert)
	switch {
	case err != nil:
		return nil, err
	case is != td:
		return nil, fmt.Errorf("it is of trust domain %q, the root of %q", is, td)
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, errors.New("its key is another's")
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("its key usage does not allow it to sign certificates")
	}
	ends := cert.NotAfter
	for i, above := range append(chain[1:len(chain):len(chain)], root) {
		ends = earlier(ends, above.NotAfter)
		if err := chain[i].CheckSignatureFrom(above); err != nil {
			return nil, fmt.Errorf("it is not under the root: %w", err)
		}
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("the last certificate is no root: %w", err)
	}
	return &signer{td: td, root: root, id: identity.RootID(root), intermediate: &issuer{cert: cert, key: key, above: chain[1:], ends: ends}}, nil
}

// IntermediateExpires is when the first of those expires which this replica was given in
// the place of the roots' keys, or one of the certificates above it; zero if it was not.
func (m *Manager) IntermediateExpires() (first time.Time) {
	is := m.ca.roots.Load()
	for _, s := range []*signer{is.first, is.signing} {
		if s.key == nil && (first.IsZero() || s.intermediate.ends.Before(first)) {
			first = s.intermediate.ends
		}
	}
	return first
}

// given returns the intermediate that this replica was given, while it is valid.
func (r *signer) given(now time.Time) (*issuer, error) {
	begins, ends := r.intermediate.cert.NotBefore, r.intermediate.ends
	if now.Before(begins) || !now.Before(ends) {
		return nil, fmt.Errorf("the intermediate of this replica, with those above it, is valid from %s until %s: give it another one",
			begins.Format(time.RFC3339), ends.Format(time.RFC3339))
	}
	return r.intermediate, nil
}
