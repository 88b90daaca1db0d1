package policy

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"datapunk.dev/controlplane/yamlfile"
)

// maxFileSize bounds the mesh files together, in bytes. One of 10,000 services has about
// 2 MB, and to read it takes some hundred times as much memory.
const maxFileSize = 8 << 20

// Load reads the files and does what [Parse] does. The error is [Problems]
// unless a file could not be read.
func Load(paths []string, opts Options) (*Mesh, error) {
	files, err := readRegular(paths)
	if err != nil {
		return nil, err
	}
	return Parse(files, opts)
}

// Validate reads the files and checks them as they are and with each of their
// environments, or only with the one of the options. The error is [Problems]
// unless a file could not be read. What is wrong with several is said once.
func Validate(paths []string, opts Options) (warnings []Problem, err error) {
	files, err := readFiles(paths)
	if err != nil {
		return nil, err
	}
	environments := []string{opts.Environment}
	if opts.Environment == "" {
		environments = append(environments, Environments(files)...)
	}
	var all []Problem
	for _, environment := range environments {
		opts.Environment = environment
		m, err := Parse(files, opts)
		var failed Problems
		switch {
		case errors.As(err, &failed):
			all = append(all, failed...)
		case err != nil:
			return nil, err
		default:
			all = append(all, m.Warnings...)
		}
	}
	var failed Problems
	for _, p := range yamlfile.Sort(all, files) {
		if p.Warning() {
			warnings = append(warnings, p)
		} else {
			failed = append(failed, p)
		}
	}
	if len(failed) > 0 {
		return warnings, failed
	}
	return warnings, nil
}

// ReadRevision reads the files and returns their [Revision], whatever they are.
func ReadRevision(paths []string) (string, error) {
	files, err := readFiles(paths)
	if err != nil {
		return "", err
	}
	return Revision(files), nil
}

// readRegular is readFiles for who must not wait: a pipe or a device in the
// place of a file may never come to an end.
func readRegular(paths []string) ([]File, error) {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
			return nil, fmt.Errorf("mesh file %s is no regular file", path)
		}
	}
	return readFiles(paths)
}

func readFiles(paths []string) ([]File, error) {
	if len(paths) == 0 {
		return nil, errors.New("no mesh file")
	}
	files, size := make([]File, 0, len(paths)), 0
	for _, path := range paths {
		if slices.ContainsFunc(files, func(f File) bool { return f.Name == path }) {
			return nil, fmt.Errorf("mesh file %s is given twice", path)
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("mesh file: %w", err)
		}
		if info.Size() > maxFileSize {
			return nil, fmt.Errorf("mesh file %s has %d bytes; at most %d", path, info.Size(), maxFileSize)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("mesh file: %w", err)
		}
		if size += len(data); size > maxFileSize {
			return nil, fmt.Errorf("the mesh files have more than %d bytes together", maxFileSize)
		}
		files = append(files, File{Name: path, Data: data})
	}
	return files, nil
}
