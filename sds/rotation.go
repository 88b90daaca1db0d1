package sds

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"datapunk.dev/controlplane/atomicfile"
)

// The files of the data directory while the root is replaced. A replica gets the
// first two as it got those of the first root: as copies.
const (
	nextPrefix   = "next-"
	nextFile     = nextPrefix + caFile
	nextKeyFile  = nextPrefix + caKeyFile
	rotationFile = "root-rotation.json"
	// oldFile is the certificate of the root that was retired last, for who has to
	// know later what that was.
	oldFile = "old-ca.pem"
)

// rotation is what the directory remembers of a replacement beside the two roots.
type rotation struct {
	Phase Phase     `json:"phase"` // Prepared, Activated or retiring
	Until time.Time `json:"until,omitzero"`
}

// retiring is the phase in which the files of the next root take the place of those
// of the first. It is only on disk: whoever opens the directory then ends it first.
const retiring Phase = "retiring"

// directory is the data directory of a process that has it locked.
type directory struct {
	path string
	at   Files // of the first root, if not there
	td   string
	now  time.Time
}

// inDirectory takes a step while no other process changes the directory.
func (c *CA) inDirectory(now time.Time, step func(*directory) error) error {
	if c.dir == "" {
		return errors.New("the authority has no data directory")
	}
	unlock, err := lockDir(context.Background(), slog.New(slog.DiscardHandler), c.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if c.at.Operators {
		return errOperators
	}
	return step(&directory{path: c.dir, at: c.at, td: c.td.Name(), now: now})
}

func (d *directory) file(name string) string { return filepath.Join(d.path, name) }

// phase is that of the files, and until when the root that does not sign is in use.
func (d *directory) phase() (rotation, error) {
	there, err := exists(d.file(nextFile))
	if err != nil {
		return rotation{}, err
	}
	r := rotation{Phase: Steady}
	if there {
		r.Phase = Prepared
	}
	data, err := os.ReadFile(d.file(rotationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	var said rotation
	if err := json.Unmarshal(data, &said); err != nil {
		return r, fmt.Errorf("%s: %w", d.file(rotationFile), err)
	}
	switch {
	case said.Phase == retiring:
	case !there:
		return r, fmt.Errorf("%s says that the next root is %s, and there is no %s: restore it", d.file(rotationFile), said.Phase, nextFile)
	case said.Phase != Prepared && said.Phase != Activated:
		return r, fmt.Errorf("%s: unknown phase %q", d.file(rotationFile), said.Phase)
	}
	return said, nil
}

func (d *directory) write(r rotation) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(d.file(rotationFile), append(data, '\n'), 0o600)
}

func (d *directory) prepare() error {
	switch r, err := d.phase(); {
	case err != nil:
		return err
	case r.Phase != Steady:
		return fmt.Errorf("a next root is there already: it is %s", r.Phase)
	}
	if given, err := exists(d.file(intermediateFile)); given || err != nil {
		return cmp.Or(err, errors.New("this replica has an intermediate alone: the next root is made where the root's key is"))
	}
	td, err := parseTrustDomain(d.td)
	if err != nil {
		return err
	}
	cert, key, err := newRoot(td, d.now)
	if err != nil {
		return err
	}
	if err := writePEM(d.file(nextKeyFile), pemPrivateKey, key, 0o600); err != nil {
		return err
	}
	return writePEM(d.file(nextFile), pemCertificate, cert, 0o644)
}

func (d *directory) activate(until time.Time) error {
	switch r, err := d.phase(); {
	case err != nil:
		return err
	case r.Phase == Steady:
		return fmt.Errorf("%w: prepare it first", errNoRotation)
	case r.Phase != Prepared:
		return fmt.Errorf("the next root is %s", r.Phase)
	}
	return d.write(rotation{Activated, until})
}

func (d *directory) retire() error {
	switch r, err := d.phase(); {
	case err != nil:
		return err
	case r.Phase == Steady:
		return errNoRotation
	case r.Phase == Prepared:
		return errors.New("the next root signs nothing yet: activate it first")
	case r.Phase == Activated && d.now.Before(r.Until):
		return fmt.Errorf("certificates of the first root may be in use until %s", r.Until.UTC().Format(time.RFC3339))
	}
	if err := d.write(rotation{Phase: retiring}); err != nil {
		return err
	}
	return d.finish()
}

// finish ends what retire began. It may have been interrupted anywhere, so each step
// may have been taken before; until the last one the phase is retiring.
func (d *directory) finish() error {
	there, err := exists(d.file(nextFile))
	if err != nil {
		return err
	}
	if there {
		if err := d.moveNext(); err != nil {
			return err
		}
	}
	return d.forgetNext()
}

func (d *directory) moveNext() error {
	next, err := readRoot(d.file(nextFile))
	if err != nil {
		return err
	}
	first, err := readRoot(d.file(caFile))
	if err != nil {
		return err
	}
	if !first.Equal(next) {
		if err := writePEM(d.file(oldFile), pemCertificate, first.Raw, 0o644); err != nil {
			return err
		}
	}
	// What replaces the key is there before the key is gone: a start that finds
	// neither would look no further.
	var without []string
	for _, name := range []string{caKeyFile, intermediateFile, intermediateKeyFile} {
		data, err := os.ReadFile(d.file(nextPrefix + name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			without = append(without, name)
			err = nil
		case err == nil:
			err = atomicfile.Write(d.pathOf(name), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	if err := writePEM(d.cert(), pemCertificate, next.Raw, 0o644); err != nil {
		return err
	}
	if d.at.Cert != "" { // the copy last: by it the mesh's root is known
		if err := writePEM(d.file(caFile), pemCertificate, next.Raw, 0o644); err != nil {
			return err
		}
	}
	return d.remove(without...)
}

// forgetNext removes the files of the next root: the certificate, by which it is
// there, first.
func (d *directory) forgetNext() error {
	if err := d.remove(nextFile, nextKeyFile, nextPrefix+intermediateFile, nextPrefix+intermediateKeyFile); err != nil {
		return err
	}
	return d.remove(rotationFile)
}

// remove removes files that may be gone, in this order also for who starts after the
// machine has stopped in between.
func (d *directory) remove(names ...string) error {
	for _, name := range names {
		if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := d.sync(); err != nil {
			return err
		}
	}
	return nil
}

func (d *directory) sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	return f.Sync()
}

func (d *directory) stepBack(until time.Time) error {
	switch r, err := d.phase(); {
	case err != nil:
		return err
	case r.Phase == Activated:
		return d.write(rotation{Prepared, until})
	case r.Phase != Prepared:
		return errNoRotation
	case d.now.Before(r.Until):
		return fmt.Errorf("certificates of the next root may be in use until %s", r.Until.UTC().Format(time.RFC3339))
	}
	// First the phase, which speaks of the files of the next root.
	if err := d.remove(rotationFile); err != nil {
		return err
	}
	return d.forgetNext()
}

// load reads the roots.
func (d *directory) load() (r rotation, first, next *signer, err error) {
	if r, err = d.phase(); err != nil {
		return r, nil, nil, err
	}
	if first, err = d.signer(""); err != nil {
		return r, nil, nil, err
	}
	if r.Phase != Activated { // else it may have ended: the next one signs
		if err := first.checkDates(d.now); err != nil {
			return r, nil, nil, fmt.Errorf("%s: %w", d.cert(), err)
		}
	}
	if r.Phase == Steady {
		return r, first, nil, nil
	}
	if d.at.Operators {
		return r, nil, nil, fmt.Errorf("%s is there, and %w: remove it", d.file(nextFile), errOperators)
	}
	if next, err = d.signer(nextPrefix); err != nil {
		return r, nil, nil, err
	}
	if d.at.Cert != "" && next.key == nil {
		return r, nil, nil, fmt.Errorf("%s is there without %s, and the first root is in %s: copy the key", d.file(nextFile), nextKeyFile, d.at.Cert)
	}
	if err := next.checkDates(d.now); err != nil {
		return r, nil, nil, fmt.Errorf("%s: %w", d.file(nextFile), err)
	}
	if next.td != first.td {
		return r, nil, nil, fmt.Errorf("%s is the root of trust domain %q, that of %s is %q", d.file(nextFile), next.td, caFile, first.td)
	}
	if next.root.Equal(first.root) {
		return r, nil, nil, fmt.Errorf("%s is the root of %s: remove it with %s and %s", d.file(nextFile), caFile, nextKeyFile, rotationFile)
	}
	return r, first, next, nil
}

// signer reads a root, with its key or with the intermediate that was given in its place.
func (d *directory) signer(prefix string) (*signer, error) {
	if prefix == "" && d.at.Cert != "" {
		return d.signerOfFiles()
	}
	certName, keyName := prefix+caFile, prefix+caKeyFile
	cert, err := readRoot(d.file(certName))
	if err != nil {
		return nil, err
	}
	given, err := exists(d.file(prefix + intermediateFile))
	if err != nil {
		return nil, err
	}
	if given {
		return d.signerByIntermediate(prefix, cert)
	}
	key, err := readKey(d.file(keyName))
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s", d.file(keyName), d.file(certName))
	}
	s, err := newSigner(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.file(certName), err)
	}
	return s, nil
}

// reload reads the roots of the directory again.
func (c *CA) reload(now time.Time) error {
	if c.dir == "" {
		return nil
	}
	d := &directory{path: c.dir, at: c.at, td: c.td.Name(), now: now}
	r, first, next, err := d.load()
	if err != nil {
		return err
	}
	if r.Phase == retiring {
		return nil // by another process, which is about to end it
	}
	if first.td != c.td {
		return fmt.Errorf("%s is the root of trust domain %q, the mesh's is %q", d.file(caFile), first.td, c.td)
	}
	c.roots.Store(newRoots(c.roots.Load(), r.Phase, r.Until, first, next))
	return nil
}

// readBundle returns the certificates of all roots of a directory, as PEM.
func readBundle(dir string) ([]byte, error) {
	bundle, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	next, err := readRoot(filepath.Join(dir, nextFile))
	if errors.Is(err, fs.ErrNotExist) {
		return bundle, nil
	}
	if err != nil {
		return nil, err
	}
	return append(bundle, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: next.Raw})...), nil
}
