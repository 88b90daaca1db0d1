package control

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The words of operators on edits to come: `controlplane accept` writes them,
// another process reads them.
const (
	meantDir = "meant"
	// maxMeant bounds those that nothing has used yet.
	maxMeant = 20
)

// Mean notes that files with the revision are meant, whatever they open or
// remove.
func (r *Revisions) Mean(revision string) error {
	dir, err := r.open(meantDir)
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(dir, revision), nil); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= maxMeant {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return modTime(a).Compare(modTime(b)) })
	for _, e := range entries[:len(entries)-maxMeant] {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(dir)
}

func modTime(e fs.DirEntry) time.Time {
	info, err := e.Info()
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// Meant reports whether somebody has said of the revision that it is meant.
func (r *Revisions) Meant(revision string) bool {
	if r.dir == "" || checkOurs(r.dir) != nil || checkOurs(filepath.Join(r.dir, meantDir)) != nil {
		return false
	}
	info, err := os.Lstat(filepath.Join(r.dir, meantDir, revision))
	return err == nil && info.Mode().IsRegular()
}

// Used ends the word on a revision: it is in force, and it was meant once.
func (r *Revisions) Used(revision string) error {
	if r.dir == "" {
		return nil
	}
	err := os.Remove(filepath.Join(r.dir, meantDir, revision))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
