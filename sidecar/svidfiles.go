package sidecar

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/sds/identity"
)

// current is the symbolic link to the directory with the files in force.
const current = "..current"

// svidFiles are the contents, as PEM.
type svidFiles struct{ chain, key, bundle []byte }

// writeSVID puts the three files in place at once, readable by their owner
// alone. A certificate beside the key of another one is worse than an old pair:
// gRPC's file watcher writes the key to its log then. So the names are links
// through one directory that is swapped, as Kubernetes does with its volumes.
func writeSVID(dir string, files svidFiles) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	next, err := os.MkdirTemp(dir, "..svid-")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{identity.SVIDFile: files.chain, identity.SVIDKeyFile: files.key, identity.BundleFile: files.bundle} {
		if err := atomicfile.Write(filepath.Join(next, name), data, 0o600); err != nil {
			return errors.Join(err, os.RemoveAll(next))
		}
	}
	last, err := os.Readlink(filepath.Join(dir, current))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.RemoveAll(next))
	}
	if err := link(dir, current, filepath.Base(next)); err != nil {
		return errors.Join(err, os.RemoveAll(next))
	}
	for _, name := range []string{identity.SVIDFile, identity.SVIDKeyFile, identity.BundleFile} {
		if err := link(dir, name, filepath.Join(current, name)); err != nil {
			return err
		}
	}
	return forgetSVIDs(dir, filepath.Base(next), last)
}

// link makes a symbolic link, or replaces the one that is there by a rename.
// It never replaces anything else.
func link(dir, name, to string) error {
	path := filepath.Join(dir, name)
	switch was, err := os.Readlink(path); {
	case err == nil && was == to:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is in the way: %w", path, err)
	}
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(to, temporary); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// forgetSVIDs removes what earlier writes left, but for the one before: who
// has read its certificate is about to read its key.
func forgetSVIDs(dir string, keep ...string) error {
	old, err := filepath.Glob(filepath.Join(dir, "..svid-*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if slices.Contains(keep, filepath.Base(path)) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
