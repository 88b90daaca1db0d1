package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"

	"datapunk.dev/controlplane/spelling"
	"datapunk.dev/controlplane/yamlfile"
)

// File is a mesh file in memory. Name is what operators are shown.
type File = yamlfile.File

// Problem is one thing that is wrong with a file, or worth knowing of it.
type Problem = yamlfile.Problem

// Problems are all the errors of a mesh file, in the order of their places.
type Problems = yamlfile.Problems

// Source is a place in a file. Line and Column count from 1.
type Source = yamlfile.Source

// Options are what a mesh file depends on beside itself.
type Options struct {
	// Environment is the entry of mesh.environments to lay over the rest;
	// empty for none.
	Environment string
	// LookupEnv is where ${V} comes from, os.LookupEnv as a rule. If nil, no
	// variable is set.
	LookupEnv func(string) (string, bool)
}

// Parse merges the files from left to right, lays the environment over them,
// expands variables and checks the outcome. The error is [Problems], with
// everything that is wrong.
//
// A panic on the way is an error too, a [PanicError]: what stands in a file
// must not end a control plane.
func Parse(files []File, opts Options) (parsed *Mesh, err error) {
	defer func() {
		if r := recover(); r != nil {
			parsed, err = nil, &PanicError{r, debug.Stack()}
		}
	}()
	r := yamlfile.NewReport(files...)
	root, environments := mergeFiles(files, r)
	m := decodeEnvironment(root, environments, opts, r)
	failed, warnings := r.Split()
	if len(failed) > 0 {
		return nil, failed
	}
	m.Warnings = warnings
	m.Revision, m.Files = Revision(files), files
	return m, nil
}

// PanicError is a panic that a mesh file caused.
type PanicError struct {
	Value any
	Stack []byte
}

// Error has no stack: it is for logs.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Environments returns the names that mesh.environments has, sorted. Files
// that are not YAML have none.
func Environments(files []File) []string {
	_, environments := mergeFiles(files, yamlfile.NewReport(files...))
	if environments == nil {
		return nil
	}
	var names []string
	for _, f := range environments.Fields {
		if f.Value.Kind != yamlfile.Null && !yamlfile.Free(f.Name) {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	return names
}

// mergeFiles returns the document of all files, and mesh.environments apart. It
// is nil if a file is not YAML: what is missing then would only be noise.
func mergeFiles(files []File, r *yamlfile.Report) (root, environments *node) {
	for _, f := range files {
		tree := r.Parse(f, "a mesh file is one document; give several files with -f, they are merged left to right")
		switch {
		case tree == nil || tree.Kind == yamlfile.Null:
		case tree.Kind != yamlfile.Map:
			r.Add(Problem{Source: tree.Source, Width: tree.Width, Code: CodeType, Message: "a mesh file is a map with the key mesh, not " + tree.Kind.String()})
		default:
			root = merge(root, tree)
		}
	}
	if r.Broken() {
		return nil, nil
	}
	if root == nil {
		source := Source{}
		if len(files) > 0 {
			source = Source{File: files[0].Name, Line: 1, Column: 1}
		}
		r.Add(Problem{Source: source, Code: CodeMissing, Key: "mesh", Message: "there is nothing in the file: mesh is missing"})
		return nil, nil
	}
	mesh, ok := root.Field("mesh")
	if !ok || mesh.Value.Kind != yamlfile.Map {
		return root, nil
	}
	mesh.Value, environments = without(mesh.Value, "environments")
	return with(root, mesh), environments
}

// decodeEnvironment lays the environment over the document and reads it. Its
// result is only good if nothing was reported.
func decodeEnvironment(root, environments *node, opts Options, r *yamlfile.Report) *Mesh {
	m := &Mesh{Environment: opts.Environment, services: make(map[string]*Service), keys: make(map[string]Source)}
	if root == nil {
		return m
	}
	d := &decoder{Report: r, lookup: opts.LookupEnv}
	if d.lookup == nil {
		d.lookup = noVariables
	}
	if environments != nil {
		root = d.overlay(root, environments, opts.Environment)
	}
	d.document(value{node: root, d: d, at: root.Source, columns: 1}.mapping(), m)
	if f, ok := root.Field("mesh"); ok {
		index(f.Value, "mesh", f.Source, m.keys)
	}
	return m
}

// overlay lays one of the environments over the document.
func (d *decoder) overlay(root, environments *node, name string) *node {
	v := value{node: environments, d: d, key: "mesh.environments", at: environments.Source, columns: environments.Width}
	s := v.mapping()
	var names []string
	s.each(func(name string, _ value) { names = append(names, name) })
	if name == "" || !s.present() {
		return root
	}
	over, ok := s.peek(name)
	if !ok {
		v.fail(CodeEnvironment, spelling.DidYouMean(name, names), "no environment %q", name)
		return root
	}
	if !over.mapping().present() {
		return root
	}
	if rest, nested := without(over.node, "environments"); nested != nil {
		over.mapping().unknown("environments", "an environment has no environments")
		over.node = rest
	}
	mesh, _ := root.Field("mesh")
	return merge(root, yamlfile.NewMap(root.Source, root.Width, []yamlfile.Field{{Name: "mesh", Source: mesh.Source, Value: over.node}}))
}

// Revision is a hash of what the files hold, short enough to be read out.
func Revision(files []File) string {
	h := sha256.New()
	for _, f := range files {
		h.Write(strconv.AppendInt(nil, int64(len(f.Data)), 10))
		h.Write([]byte{'\n'})
		h.Write(f.Data)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// document reads the whole file.
func (d *decoder) document(top *mapping, m *Mesh) {
	documentKeys.read(top, m)
	s := top.section("mesh")
	if !s.present() {
		return
	}
	meshKeys.read(s, m)
	d.discovery(s.section("discovery"), &m.Discovery)
	editsKeys.defaults(&m.Edits)
	editsKeys.read(s.section("edits"), &m.Edits)
	d.services(s, m)
	d.telemetry(s.section("telemetry"), m)
	d.security(s, m)
	d.checkLimits(s, m)
	d.checkDestinations(s.section("security").section("authorization"), m)
	d.checkTCPCallers(s.section("security").section("authorization"), m)
	d.checkSlashes(s.section("security").section("authorization"), m)
	d.routes(s, m)
	d.checkUncounted(s, m)
	d.checkSpelled(s, m)
}
