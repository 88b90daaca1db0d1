package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
)

// File is a mesh file in memory. Name is what operators are shown.
type File struct {
	Name string
	Data []byte
}

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
	r := newReport(files)
	root, environments := mergeFiles(files, r)
	m := decodeEnvironment(root, environments, opts, r)
	failed, warnings := r.split()
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
	_, environments := mergeFiles(files, newReport(files))
	if environments == nil {
		return nil
	}
	var names []string
	for _, f := range environments.fields {
		if f.value.kind != null && !free(f.name) {
			names = append(names, f.name)
		}
	}
	slices.Sort(names)
	return names
}

// mergeFiles returns the document of all files, and mesh.environments apart. It
// is nil if a file is not YAML: what is missing then would only be noise.
func mergeFiles(files []File, r *report) (root, environments *node) {
	for _, f := range files {
		tree := grow(f, r)
		switch {
		case tree == nil || tree.kind == null:
		case tree.kind != object:
			r.add(Problem{Source: tree.source, Width: tree.width, Code: CodeType, Message: "a mesh file is a map with the key mesh, not " + tree.kind.String()})
		default:
			root = merge(root, tree)
		}
	}
	if broken(r.problems) {
		return nil, nil
	}
	if root == nil {
		source := Source{}
		if len(files) > 0 {
			source = Source{files[0].Name, 1, 1}
		}
		r.add(Problem{Source: source, Code: CodeMissing, Key: "mesh", Message: "there is nothing in the file: mesh is missing"})
		return nil, nil
	}
	mesh, ok := root.field("mesh")
	if !ok || mesh.value.kind != object {
		return root, nil
	}
	mesh.value, environments = mesh.value.without("environments")
	return root.with(mesh), environments
}

// broken reports whether a file could not be read, so that the tree lacks it.
func broken(ps []Problem) bool {
	return slices.ContainsFunc(ps, func(p Problem) bool {
		return p.Code == CodeSyntax || p.Code == CodeType || p.Code == CodeAlias
	})
}

// decodeEnvironment lays the environment over the document and reads it. Its
// result is only good if nothing was reported.
func decodeEnvironment(root, environments *node, opts Options, r *report) *Mesh {
	m := &Mesh{Environment: opts.Environment, services: make(map[string]*Service), keys: make(map[string]Source)}
	if root == nil {
		return m
	}
	d := &decoder{report: r, lookup: opts.LookupEnv}
	if d.lookup == nil {
		d.lookup = func(string) (string, bool) { return "", false }
	}
	if environments != nil {
		root = d.overlay(root, environments, opts.Environment)
	}
	d.document(value{node: root, d: d, at: root.source, columns: 1}.section(), m)
	if f, ok := root.field("mesh"); ok {
		f.value.index("mesh", f.source, m.keys)
	}
	return m
}

// overlay lays one of the environments over the document.
func (d *decoder) overlay(root, environments *node, name string) *node {
	v := value{node: environments, d: d, key: "mesh.environments", at: environments.source, columns: environments.width}
	s := v.section()
	var names []string
	s.each(func(name string, _ value) { names = append(names, name) })
	if name == "" || !s.present() {
		return root
	}
	over, ok := s.get(name)
	if !ok {
		v.fail(CodeEnvironment, didYouMean(name, names), "no environment %s", strconv.Quote(name))
		return root
	}
	if !over.section().present() {
		return root
	}
	if rest, nested := over.without("environments"); nested != nil {
		over.section().refuse("environments", "an environment has no environments")
		over.node = rest
	}
	mesh, _ := root.field("mesh")
	return merge(root, newMap(root.source, root.width, []field{{"mesh", mesh.source, over.node}}))
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

// document reads the top of a file.
func (d *decoder) document(top *section, m *Mesh) {
	v, ok := top.get("mesh")
	switch {
	case !ok:
		top.fail(CodeMissing, "everything stands below mesh:", "mesh is missing")
	default:
		d.mesh(v.section(), m)
	}
	top.close()
}

// mesh reads everything below mesh.
func (d *decoder) mesh(s *section, m *Mesh) {
	if !s.present() {
		return
	}
	if !s.filled("name", &m.Name) && !s.has("name") {
		s.missing("name", "name: my-mesh")
	}
	s.str("version", &m.Version)
	d.discovery(s.section("discovery"), &m.Discovery)
	d.services(s, m)
	d.telemetry(s.section("telemetry"), m)
	d.security(s, m)
	d.checkDestinations(s.section("security").section("authorization"), m)
	d.checkTCPCallers(s.section("security").section("authorization"), m)
	s.later("routes", "rollouts", "gateways")
	s.close()
	d.warnUnused()
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
