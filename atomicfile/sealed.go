package atomicfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Sealed is a file that says in its first line what it is and what the rest of it
// must be, so that one that was cut, changed, or is another one's is not believed.
type Sealed struct {
	Path string
	// Title begins the first line. It is a comment of YAML, which the rest may be.
	Title string
	// Format is raised when a program of before could not read the file.
	Format  int
	Mesh    string // mesh.name
	MaxSize int64
}

// seal is the first line, after the title.
type seal struct {
	Format int       `json:"format"`
	Mesh   string    `json:"mesh"`
	Known  time.Time `json:"known"`
	SHA256 string    `json:"sha256"` // of all after the line
}

// Seal returns the file with the body, which was known to be so at a time.
func (s *Sealed) Seal(body []byte, known time.Time) ([]byte, error) {
	sum := sha256.Sum256(body)
	head, err := json.Marshal(seal{Format: s.Format, Mesh: s.Mesh, Known: known.UTC().Truncate(time.Second), SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, len(s.Title)+len(head)+1+len(body))
	data = append(append(append(data, s.Title...), head...), '\n')
	return append(data, body...), nil
}

// Load has the file read, if it is there and is what was sealed. What cannot be
// believed, for itself or for what read says of its body, is set aside, for people
// to look at, and named in the error. The body is nil if there is no file.
func (s *Sealed) Load(read func(body []byte, known time.Time) error) error {
	err := s.load(read)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	aside := s.Path + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z")
	err = fmt.Errorf("the kept file %s is not used: %w", s.Path, err)
	if moved := os.Rename(s.Path, aside); moved != nil {
		return fmt.Errorf("%w (and it cannot be set aside: %w)", err, moved)
	}
	return fmt.Errorf("%w; it lies in %s now", err, aside)
}

func (s *Sealed) load(read func(body []byte, known time.Time) error) error {
	info, err := os.Lstat(s.Path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is no file")
	case info.Size() > s.MaxSize:
		return fmt.Errorf("it has %d bytes", info.Size())
	}
	data, err := os.ReadFile(s.Path)
	if err != nil {
		return err
	}
	line, body, ok := bytes.Cut(data, []byte("\n"))
	if !ok {
		return errors.New("it has no first line")
	}
	text, ok := bytes.CutPrefix(line, []byte(s.Title))
	if !ok {
		return errors.New("its first line is not the control plane's")
	}
	var is seal
	if err := json.Unmarshal(text, &is); err != nil {
		return fmt.Errorf("its first line: %w", err)
	}
	if is.Format != s.Format {
		return fmt.Errorf("its format is %d, and %d is read here", is.Format, s.Format)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != is.SHA256 {
		return errors.New("it is not what was kept: its checksum is another one")
	}
	if is.Mesh != s.Mesh {
		return fmt.Errorf("it is of the mesh %q, and this is %q", is.Mesh, s.Mesh)
	}
	return read(body, is.Known)
}
