package control

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"datapunk.dev/controlplane/policy"
)

const (
	// maxRevisions is how many mesh files are kept, the newest of them, and how
	// many that were set aside.
	maxRevisions = 20

	revisionsDir = "mesh"
	manifestFile = "manifest.json"
	asidePrefix  = "corrupt-"
	newPrefix    = ".new-"
)

// Revisions are the mesh files that were in force, in the data directory, so
// that a control plane that finds a bad one at its start goes on with the last
// good one; and what operators have said of revisions to come.
//
//	mesh/000012-1a2b3c4d5e6f/   one revision: the files as they were, not what
//	                            their variables came to, and manifest.json
//	pinned/000001-…/            one that another replica had pinned for all, and
//	                            that was not in force here before
//	mesh/corrupt-000011-…/      one that is not what was kept: for people
//	meant/1a2b3c4d5e6f          an edit that is taken at once when it comes
//
// The zero value keeps nothing.
type Revisions struct{ dir string }

// NewRevisions returns those of a data directory, which need not exist; "":
// there is none.
func NewRevisions(dataDir string) *Revisions { return &Revisions{dataDir} }

// manifest says what a kept revision is.
type manifest struct {
	Format      int                 `json:"format"`
	Revision    string              `json:"revision"`
	Environment string              `json:"environment,omitempty"`
	Kept        time.Time           `json:"kept"`
	Files       []manifestFileEntry `json:"files"`
}

type manifestFileEntry struct {
	Name   string `json:"name"` // the path it was given by
	File   string `json:"file"` // beside the manifest
	SHA256 string `json:"sha256"`
}

const manifestFormat = 1

var revisionName = regexp.MustCompile(`^(\d{6,})-([0-9a-f]{12})$`)

// Keep keeps the files of a mesh, whole or not at all, also when the machine
// stops in between. What is the newest already is not kept twice.
func (r *Revisions) Keep(m *policy.Mesh, environment string) error {
	if r.dir == "" {
		return nil
	}
	if err := r.keep(m, environment); err != nil {
		return fmt.Errorf("keep the mesh file: %w", err)
	}
	return nil
}

func (r *Revisions) keep(m *policy.Mesh, environment string) error {
	dir, err := r.open(revisionsDir)
	if err != nil {
		return err
	}
	names, err := kept(dir)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		newest, err := readManifest(filepath.Join(dir, names[0]))
		if err == nil && newest.Revision == m.Revision && newest.Environment == environment {
			return nil
		}
	}
	if _, err := r.keepFiles(dir, m.Revision, environment, m.Files); err != nil {
		return err
	}
	return prune(dir)
}

// keepFiles puts a revision into a directory as its newest, and returns its name there.
func (r *Revisions) keepFiles(dir, revision, environment string, files []policy.File) (name string, err error) {
	names, err := kept(dir)
	if err != nil {
		return "", err
	}
	next := 1
	if len(names) > 0 {
		next = sequence(names[0]) + 1
	}
	tmp, err := os.MkdirTemp(dir, newPrefix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // it is renamed if all went well; what is left is removed next time
	man := manifest{Format: manifestFormat, Revision: revision, Environment: environment, Kept: time.Now().UTC()}
	for i, f := range files {
		entry := manifestFileEntry{Name: f.Name, File: strconv.Itoa(i) + "-" + filepath.Base(f.Name), SHA256: checksum(f.Data)}
		if err := writeSynced(filepath.Join(tmp, entry.File), f.Data); err != nil {
			return "", err
		}
		man.Files = append(man.Files, entry)
	}
	text, err := json.MarshalIndent(man, "", "  ")
	if err != nil {
		return "", err
	}
	if err := writeSynced(filepath.Join(tmp, manifestFile), append(text, '\n')); err != nil {
		return "", err
	}
	if err := syncDir(tmp); err != nil {
		return "", err
	}
	name = fmt.Sprintf("%06d-%s", next, revision)
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return "", err
	}
	return name, syncDir(dir)
}

// Last returns the newest kept mesh that can be used, and where it is kept. It
// is nil if there is none. What cannot be used is named in the errors, and what
// is not what was kept is set aside: an older one is then the last.
func (r *Revisions) Last(opts policy.Options) (m *policy.Mesh, path string, unusable []error) {
	if r.dir == "" {
		return nil, "", nil
	}
	dir := filepath.Join(r.dir, revisionsDir)
	// That the data directory is none is for whoever opens it to say.
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, "", nil
	}
	err := checkOurs(r.dir)
	if err == nil {
		err = checkOurs(dir)
	}
	var names []string
	if err == nil {
		names, err = kept(dir)
	}
	if err != nil {
		return nil, "", []error{fmt.Errorf("kept mesh files: %w", err)}
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		files, environment, err := readRevision(path)
		if err != nil {
			err = fmt.Errorf("kept mesh file %s is not what was kept: %w", path, err)
			if aside := os.Rename(path, filepath.Join(dir, asidePrefix+name)); aside != nil {
				err = fmt.Errorf("%w (and it cannot be set aside: %w)", err, aside)
			}
			unusable = append(unusable, err)
			continue
		}
		if environment != opts.Environment {
			unusable = append(unusable, fmt.Errorf("kept mesh file %s is of environment %q, not %q", path, environment, opts.Environment))
			continue
		}
		m, err := policy.Parse(files, opts)
		if err != nil {
			unusable = append(unusable, fmt.Errorf("kept mesh file %s does not load: %w", path, err))
			continue
		}
		return m, path, unusable
	}
	return nil, "", unusable
}

// readRevision reads what was kept, if it still is that.
func readRevision(path string) (files []policy.File, environment string, err error) {
	m, err := readManifest(path)
	if err != nil {
		return nil, "", err
	}
	for _, entry := range m.Files {
		if entry.File != filepath.Base(entry.File) {
			return nil, "", fmt.Errorf("%s: a file elsewhere: %s", manifestFile, entry.File)
		}
		name := filepath.Join(path, entry.File)
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, "", err
		}
		if checksum(data) != entry.SHA256 {
			return nil, "", fmt.Errorf("%s has another checksum", entry.File)
		}
		// The name under which it lies now: lines are told by it, and the
		// file that it was may have others.
		files = append(files, policy.File{Name: name, Data: data})
	}
	if found := revisionName.FindStringSubmatch(filepath.Base(path)); m.Revision != found[2] || policy.Revision(files) != m.Revision {
		return nil, "", errors.New("it is of another revision")
	}
	return files, m.Environment, nil
}

func readManifest(path string) (*manifest, error) {
	data, err := os.ReadFile(filepath.Join(path, manifestFile))
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestFile, err)
	}
	if m.Format != manifestFormat || len(m.Files) == 0 {
		return nil, fmt.Errorf("%s: format %d with %d files", manifestFile, m.Format, len(m.Files))
	}
	return &m, nil
}

// kept are the names of the kept revisions, the newest first.
func kept(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if revisionName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int { return sequence(b) - sequence(a) })
	return names, nil
}

func sequence(name string) int {
	n, err := strconv.Atoi(revisionName.FindStringSubmatch(name)[1])
	if err != nil {
		return 0
	}
	return n
}

// prune removes the oldest of what is kept and of what was set aside, and what
// a process that was killed has left half written: by its age, for another
// process may be at a newer one.
func prune(dir string) error {
	names, err := kept(dir)
	if err != nil {
		return err
	}
	remove := names[min(len(names), maxRevisions):]
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var aside []string
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), asidePrefix):
			aside = append(aside, e.Name())
		case strings.HasPrefix(e.Name(), newPrefix):
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
				remove = append(remove, e.Name())
			}
		}
	}
	remove = append(remove, aside[:max(0, len(aside)-maxRevisions)]...)
	for _, name := range remove {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// open makes a directory inside the data directory, for this user alone.
func (r *Revisions) open(name string) (string, error) {
	if r.dir == "" {
		return "", errors.New("there is no data directory")
	}
	dir := filepath.Join(r.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := checkOurs(r.dir); err != nil {
		return "", err
	}
	return dir, checkOurs(dir)
}

// checkOurs refuses a directory into which somebody else could put a mesh
// file.
func checkOurs(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no directory", dir)
	case !ok:
		return fmt.Errorf("%s: owner unknown", dir)
	case int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d, this process runs as %d", dir, stat.Uid, os.Geteuid())
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by others (mode %04o): chmod go-w %[1]s", dir, info.Mode().Perm())
	}
	return nil
}

func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// writeSynced writes a file that is not there yet, to the disk.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
