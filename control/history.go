package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/diff"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/policy"
)

// revisionOfPin is how a revision is written.
var revisionOfPin = regexp.MustCompile(`^[0-9a-f]{12}$`)

// List returns the revisions that are kept, newest first. What is not what was kept is
// left out.
func (r *Revisions) List() ([]api.Revision, error) {
	all := []api.Revision{}
	if r.dir == "" {
		return all, nil
	}
	dir := filepath.Join(r.dir, revisionsDir)
	names, err := kept(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		names, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if one, ok := listed(dir, name); ok {
			all = append(all, one)
		}
	}
	dir = filepath.Join(r.dir, pinnedDir)
	names, _ = kept(dir) // as a rule there is none
	for _, name := range names {
		one, ok := listed(dir, name)
		if ok && !slices.ContainsFunc(all, func(r api.Revision) bool { return r.Revision == one.Revision }) {
			one.Number = 0 // it is none of those that were in force here
			all = append(all, one)
		}
	}
	return all, nil
}

// listed is a kept revision for operators, if it can be read.
func listed(dir, name string) (api.Revision, bool) {
	m, err := readManifest(filepath.Join(dir, name))
	if err != nil {
		return api.Revision{}, false
	}
	one := api.Revision{Number: sequence(name), Revision: m.Revision, Kept: m.Kept, Environment: m.Environment, Files: []string{}}
	for _, f := range m.Files {
		one.Files = append(one.Files, f.Name)
	}
	return one, true
}

// errNotKept says that a revision is not there at all.
var errNotKept = errors.New("is not kept: controlplane history list says which are")

// find returns the directory of the newest that is kept of a revision.
func (r *Revisions) find(revision string) (string, error) {
	if r.dir == "" || !revisionOfPin.MatchString(revision) {
		return "", fmt.Errorf("revision %q %w", revision, errNotKept)
	}
	for _, in := range []string{revisionsDir, pinnedDir} {
		dir := filepath.Join(r.dir, in)
		names, _ := kept(dir) // there may be none
		for _, name := range names {
			if strings.HasSuffix(name, "-"+revision) {
				return filepath.Join(dir, name), nil
			}
		}
	}
	return "", fmt.Errorf("revision %q %w", revision, errNotKept)
}

// Find returns a revision that is kept, and where.
func (r *Revisions) Find(revision string, opts policy.Options) (*policy.Mesh, string, error) {
	path, err := r.find(revision)
	if err != nil {
		return nil, "", err
	}
	if err := errors.Join(checkOurs(r.dir), checkOurs(filepath.Dir(path))); err != nil {
		return nil, "", err
	}
	files, environment, err := readRevision(path)
	if err == nil && environment != opts.Environment {
		err = fmt.Errorf("it is of environment %q, not %q", environment, opts.Environment)
	}
	if err != nil {
		return nil, "", fmt.Errorf("revision %s: %w", revision, err)
	}
	m, err := policy.Parse(files, opts)
	if err != nil {
		return nil, "", fmt.Errorf("revision %s does not load: %w", revision, err)
	}
	return m, path, nil
}

// Files returns what stands in a revision, under the names that the files had.
func (r *Revisions) Files(revision string) ([]api.File, error) {
	path, err := r.find(revision)
	if err != nil {
		return nil, err
	}
	m, err := readManifest(path)
	if err != nil {
		return nil, err
	}
	files, _, err := readRevision(path)
	if err != nil {
		return nil, err
	}
	all := make([]api.File, len(files))
	for i, f := range files {
		all[i] = api.File{Name: m.Files[i].Name, Content: string(f.Data)}
	}
	return all, nil
}

// Revisions are the mesh files that were in force, newest first.
func (p *Plane) Revisions() (api.Revisions, error) {
	list, err := p.revisions.List()
	if err != nil {
		return api.Revisions{}, err
	}
	// One that came back is there twice: it is in force as the newest of them.
	serving := p.serving().Revision
	for i := range list {
		if list[i].Revision == serving {
			list[i].InForce = true
			break
		}
	}
	return api.Revisions{Revisions: list, Pinned: p.pinned()}, nil
}

// Revision is what stands in one of them.
func (p *Plane) Revision(revision string) (api.RevisionFiles, error) {
	files, err := p.revisions.Files(revision)
	if err != nil {
		return api.RevisionFiles{}, err
	}
	return api.RevisionFiles{Revision: revision, Files: files}, nil
}

// Diff is what stands otherwise in one revision than in another, or with "" in that in
// force.
func (p *Plane) Diff(from, to string) (api.Diff, error) {
	if from == "" {
		from = p.serving().Revision
	}
	before, err := p.revisions.Files(from)
	if err != nil {
		return api.Diff{}, err
	}
	after, err := p.revisions.Files(to)
	if err != nil {
		return api.Diff{}, err
	}
	is := api.Diff{From: from, To: to}
	for i := range max(len(before), len(after)) {
		var a, b api.File
		if i < len(before) {
			a = before[i]
		}
		if i < len(after) {
			b = after[i]
		}
		is.Diff += string(diff.Diff(a.Name+" "+from, []byte(a.Content), b.Name+" "+to, []byte(b.Content)))
	}
	return is, nil
}
