package control

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"

	"datapunk.dev/controlplane/policy"
)

const (
	// pinnedDir has the text of a revision that was pinned for all replicas, at one that
	// had not served it: it is none of those that were in force here.
	pinnedDir = "pinned"
	// maxUnpacked bounds a text in bytes: policy takes 8 MB of mesh files, which have
	// some bytes more as JSON.
	maxUnpacked = 32 << 20
)

// revisionText is what replicas share of a revision: the files as they were written, with
// the names of variables and not what they came to.
type revisionText struct {
	Environment string     `json:"environment,omitempty"`
	Files       []textFile `json:"files"`
}

type textFile struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// pack returns the text of a revision that is kept, compressed. It is the same each time.
func (r *Revisions) pack(revision string) ([]byte, error) {
	path, err := r.find(revision)
	if err != nil {
		return nil, err
	}
	files, environment, err := readRevision(path)
	if err != nil {
		return nil, err
	}
	m, err := readManifest(path)
	if err != nil {
		return nil, err
	}
	text := revisionText{Environment: environment}
	for i, f := range files {
		if !utf8.Valid(f.Data) {
			return nil, fmt.Errorf("%s is no text", m.Files[i].Name)
		}
		text.Files = append(text.Files, textFile{m.Files[i].Name, string(f.Data)})
	}
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	if err := errors.Join(json.NewEncoder(zip).Encode(text), zip.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// unpack reads a text of [Revisions.pack].
func unpack(packed []byte) (files []policy.File, environment string, err error) {
	zip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, "", err
	}
	data, err := io.ReadAll(io.LimitReader(zip, maxUnpacked+1))
	if err != nil {
		return nil, "", err
	}
	if len(data) > maxUnpacked {
		return nil, "", fmt.Errorf("it has over %d MB", maxUnpacked>>20)
	}
	var text revisionText
	if err := json.Unmarshal(data, &text); err != nil {
		return nil, "", err
	}
	for _, f := range text.Files {
		files = append(files, policy.File{Name: f.Name, Data: []byte(f.Text)})
	}
	return files, text.Environment, nil
}

// keepPinned keeps a revision that another replica has pinned, in the place of the last
// such one.
func (r *Revisions) keepPinned(files []policy.File, environment string) error {
	dir, err := r.open(pinnedDir)
	if err != nil {
		return err
	}
	revision := policy.Revision(files)
	name, err := r.keepFiles(dir, revision, environment, files)
	if err != nil {
		return err
	}
	return r.prunePinned(name)
}

// prunePinned removes what pinned revisions have left, but for one.
func (r *Revisions) prunePinned(but string) error {
	dir := filepath.Join(r.dir, pinnedDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == but {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
