package sds

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"datapunk.dev/controlplane/sds/identity"
)

// Files are where the root and its key are in the place of the data directory. The zero
// value is that directory, which otherwise has a copy of the certificate: by it the
// commands know the mesh's root, and a start that finds another one, or none, ends.
type Files struct {
	Cert, Key string // both or neither
	// Operators says that they are the operator's: they are never made and never
	// written, and Cert may begin with an intermediate, each certificate followed by the
	// one that signed it.
	Operators bool
}

// CheckFiles is an error unless the files have the root of the data directory. Of a
// directory without one it says nothing.
func CheckFiles(dir string, at Files) error {
	there, err := exists(filepath.Join(dir, caFile))
	if err != nil || !there {
		return err
	}
	d := &directory{path: dir, at: at, now: wallClock()}
	if err := d.place(); err != nil {
		return err
	}
	_, _, _, err = d.load()
	return err
}

// cert and key are where the root is.
func (d *directory) cert() string {
	if d.at.Cert != "" {
		return d.at.Cert
	}
	return d.file(caFile)
}

func (d *directory) key() string {
	if d.at.Key != "" {
		return d.at.Key
	}
	return d.file(caKeyFile)
}

// pathOf is where a file is that the data directory has, or [Files].
func (d *directory) pathOf(name string) string {
	switch name {
	case caFile:
		return d.cert()
	case caKeyFile:
		return d.key()
	}
	return d.file(name)
}

// place settles where the root is. An intermediate in the data directory stands in the
// place of the root's key wherever that would be: one mesh file is for all replicas.
func (d *directory) place() error {
	if d.at.Cert == "" {
		return nil
	}
	given, err := exists(d.file(intermediateFile))
	if err != nil {
		return err
	}
	if given {
		if there, err := exists(d.at.Key); err != nil || there || d.at.Operators {
			return errors.Join(err, fmt.Errorf("%s has an intermediate, and security.mtls.ca names %s: remove one", d.path, d.at.Key))
		}
		d.at = Files{}
		return nil
	}
	for _, path := range []string{d.at.Cert, d.at.Key} {
		if err := checkPlace(filepath.Dir(path), d.at.Operators); err != nil {
			return err
		}
	}
	return nil
}

// checkPlace refuses a directory in which somebody else could swap the files.
func checkPlace(dir string, operators bool) error {
	if !operators {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if euid := os.Geteuid(); !ok || int(stat.Uid) != euid && stat.Uid != 0 {
		return fmt.Errorf("%s belongs to another user than this process's, %d, and root: they could swap the authority", dir, euid)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s can be written by others (mode %04o), who could swap the authority: chmod go-w %[1]s", dir, mode)
	}
	return nil
}

// lockPlace holds other processes off that would make the same files from another data
// directory.
func (d *directory) lockPlace(ctx context.Context, log *slog.Logger) (unlock func(), err error) {
	if d.at.Cert == "" || d.at.Operators {
		return func() {}, nil // the data directory is locked
	}
	place := filepath.Dir(d.at.Cert)
	is, err := os.Stat(place)
	if err != nil {
		return nil, err
	}
	data, err := os.Stat(d.path)
	if err != nil {
		return nil, err
	}
	if os.SameFile(is, data) { // by another path, say: relative, or a link
		return func() {}, nil
	}
	return lockDir(ctx, log, place)
}

// lost says why no root may be made in the place of files that are not there. A first
// start makes the token key last: a directory that has one had a root.
func (d *directory) lost(haveToken bool) error {
	if d.at.Operators {
		return fmt.Errorf("%s is not there, and security.mtls.ca.provider is files: the control plane makes no authority then", d.at.Cert)
	}
	remembered := false
	if d.at.Cert != "" {
		var err error
		if remembered, err = exists(d.file(caFile)); err != nil {
			return err
		}
	}
	switch {
	case !remembered && haveToken:
		return fmt.Errorf("%s and %s are not there, and %s says that this mesh has a root: restore them, or name in security.mtls.ca where they are; only to begin with a new root, remove %[3]s",
			d.cert(), d.key(), d.file(tokenKeyFile))
	case !remembered:
		return nil
	}
	return fmt.Errorf("%s is not there, and this mesh has a root, whose certificate is %s: restore %[1]s and %[3]s, or copy %[2]s and %[4]s there",
		d.at.Cert, d.file(caFile), d.at.Key, d.file(caKeyFile))
}

// signerOfFiles reads the root where it is not in the data directory, and compares it with
// the one that the mesh has.
func (d *directory) signerOfFiles() (*signer, error) {
	chain, err := readChain(d.at.Cert)
	if err != nil {
		return nil, err
	}
	if len(chain) > 1 && !d.at.Operators {
		return nil, fmt.Errorf("%s has %d certificates: of an intermediate, and its chain, security.mtls.ca.provider is files", d.at.Cert, len(chain))
	}
	key, err := readKey(d.at.Key)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s", d.at.Key, d.at.Cert)
	}
	var s *signer
	if len(chain) == 1 {
		s, err = newSigner(chain[0], key)
	} else {
		s, err = newSignerByIntermediate(chain[len(chain)-1], chain[:len(chain)-1], key)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.at.Cert, err)
	}
	known, err := readRoot(d.file(caFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return nil, err
	case !known.Equal(s.root):
		return nil, fmt.Errorf("%s is the root %s, and this mesh has %s (%s): another root comes by controlplane roots alone",
			d.at.Cert, hashOf(s), identity.HashRoots(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: known.Raw}))[0], d.file(caFile))
	}
	return s, nil
}

// remember has the data directory know the root that is elsewhere.
func (d *directory) remember(root *x509.Certificate) error {
	if d.at.Cert == "" {
		return nil
	}
	if there, err := exists(d.file(caFile)); err != nil || there {
		return err
	}
	return writePEM(d.file(caFile), pemCertificate, root.Raw, 0o644)
}

// readChain reads certificates, each followed by the one that signed it.
func readChain(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for len(data) > 0 {
		block, rest := pem.Decode(data)
		if block == nil || block.Type != pemCertificate {
			return nil, fmt.Errorf("%s: want PEM blocks %q alone", path, pemCertificate)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		chain, data = append(chain, cert), rest
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("%s: has no certificate", path)
	}
	return chain, nil
}

// errOperators is why the root of the operator is not replaced.
var errOperators = errors.New("the root is the operator's (security.mtls.ca.provider: files), and is not replaced by the control plane")
