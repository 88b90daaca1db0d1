package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// kind is the kind of a node of the tree.
type kind uint8

const (
	null kind = iota
	scalar
	list
	object
)

func (k kind) String() string {
	return [...]string{"nothing", "a single value", "a list", "a map"}[k]
}

// node is one value of a file. Aliases and merge keys are resolved; variables
// are not expanded. Nodes are shared between places and never changed.
type node struct {
	kind   kind
	source Source
	width  int // of the text in the file, in columns

	text string // of a scalar
	tag  string // of a scalar: what YAML takes it for

	items  []*node
	fields []field // of a map, in the order of the file

	places map[string]int // of the fields of a large map, by name
}

// field is one entry of a map.
type field struct {
	name   string
	source Source
	value  *node
}

// largeMap is the number of fields from which a map is searched by an index. A
// mesh of thousands of services is one.
const largeMap = 16

// newMap returns a map of the fields.
func newMap(source Source, width int, fields []field) *node {
	n := &node{kind: object, source: source, width: width, fields: fields}
	if len(fields) > largeMap {
		n.places = make(map[string]int, len(fields))
		for i, f := range fields {
			n.places[f.name] = i
		}
	}
	return n
}

// find returns the place of a field, or -1.
func (n *node) find(name string) int {
	if n.places != nil {
		if i, ok := n.places[name]; ok {
			return i
		}
		return -1
	}
	return slices.IndexFunc(n.fields, func(f field) bool { return f.name == name })
}

func (n *node) field(name string) (field, bool) {
	if i := n.find(name); i >= 0 {
		return n.fields[i], true
	}
	return field{}, false
}

// maxNodes bounds a file with its aliases resolved, and maxDepth how deep it
// nests: a few lines of aliases of aliases would otherwise fill the memory.
const (
	maxNodes = 1 << 20
	maxDepth = 64
)

// grower turns the nodes of a YAML file into ours.
type grower struct {
	file    string
	report  *report
	nodes   int
	depth   int
	growing map[*yaml.Node]bool // to find an alias within its own anchor
	full    bool
}

// grow parses one file. It returns nil if there is nothing in it or if it is
// not YAML, which is then reported.
func grow(f File, r *report) *node {
	loader, err := yaml.NewLoader(bytes.NewReader(f.Data))
	if err != nil {
		r.syntax(f, err)
		return nil
	}
	var doc yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		r.syntax(f, err)
		return nil
	}
	if !utf8.Valid(f.Data) {
		// The parser also takes UTF-16, whose columns and excerpts
		// would be those of another text.
		r.add(Problem{Source: Source{f.Name, 1, 1}, Code: CodeSyntax, Message: "the file is not UTF-8"})
		return nil
	}
	g := &grower{file: f.Name, report: r, growing: make(map[*yaml.Node]bool)}
	var root *node
	if len(doc.Content) > 0 {
		root = g.grow(doc.Content[0])
	}
	var second yaml.Node
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		r.syntax(f, err)
	default:
		r.add(Problem{
			Source: Source{f.Name, second.Line, second.Column}, Width: 3, Code: CodeDocuments,
			Message: "a second document in the file",
			Hint:    "a mesh file is one document; give several files with -f, they are merged left to right",
		})
	}
	return root
}

func (g *grower) at(y *yaml.Node) Source { return Source{g.file, y.Line, y.Column} }

func (g *grower) fail(y *yaml.Node, message string) {
	g.report.add(Problem{Source: g.at(y), Width: width(y), Code: CodeAlias, Message: message})
}

func (g *grower) grow(y *yaml.Node) *node {
	n := &node{source: g.at(y), width: width(y)}
	if g.nodes++; g.nodes > maxNodes || g.depth > maxDepth {
		if !g.full {
			g.full = true
			g.fail(y, fmt.Sprintf("the file, with its aliases resolved, has more than %d values or nests deeper than %d", maxNodes, maxDepth))
		}
		return n
	}
	if g.full {
		return n
	}
	g.growing[y] = true
	g.depth++
	defer func() { delete(g.growing, y); g.depth-- }()
	switch y.Kind {
	case yaml.AliasNode:
		if g.growing[y.Alias] {
			g.fail(y, "the alias *"+y.Value+" stands within its own anchor")
			return n
		}
		return g.grow(y.Alias)
	case yaml.ScalarNode:
		n.text, n.tag = y.Value, y.ShortTag()
		if n.tag != "!!null" {
			n.kind = scalar
		}
	case yaml.SequenceNode:
		n.kind = list
		for _, item := range y.Content {
			n.items = append(n.items, g.grow(item))
		}
	case yaml.MappingNode:
		return newMap(n.source, n.width, g.fields(y))
	}
	return n
}

// fields are the entries of a map: its own and then, where it does not have
// the key itself, those that `<<` merges in.
func (g *grower) fields(y *yaml.Node) []field {
	var fields []field
	var merges []*yaml.Node
	lines := make(map[string]int)
	for i := 0; i+1 < len(y.Content); i += 2 {
		key, value := y.Content[i], y.Content[i+1]
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.ShortTag() == "!!merge":
			merges = append(merges, value)
			continue
		case key.Kind != yaml.ScalarNode:
			g.report.add(Problem{Source: g.at(key), Width: 1, Code: CodeType, Message: "a key is a word, not " + describe(key)})
			continue
		}
		if line, ok := lines[key.Value]; ok {
			g.report.add(Problem{
				Source: g.at(key), Width: width(key), Code: CodeDuplicateKey,
				Message: fmt.Sprintf("key %q stands here a second time; the first is in line %d", key.Value, line),
			})
			continue
		}
		lines[key.Value] = key.Line
		fields = append(fields, field{key.Value, g.at(key), g.grow(value)})
	}
	for _, m := range merges {
		for _, f := range g.merged(m) {
			if _, ok := lines[f.name]; !ok {
				lines[f.name] = f.source.Line
				fields = append(fields, f)
			}
		}
	}
	return fields
}

// merged are the entries that a merge key brings in: those of one map, or of a
// list of maps, where the earlier one wins.
func (g *grower) merged(y *yaml.Node) []field {
	n := g.grow(y)
	switch n.kind {
	case object:
		return n.fields
	case list:
		var all []field
		for _, item := range n.items {
			if item.kind != object {
				g.fail(y, "<< takes a map or a list of maps, not a list with "+item.kind.String()+" in it")
				continue
			}
			all = append(all, item.fields...)
		}
		return all
	default:
		g.fail(y, "<< takes a map or a list of maps, not "+n.kind.String())
		return nil
	}
}

func describe(y *yaml.Node) string {
	switch y.Kind {
	case yaml.SequenceNode:
		return list.String()
	case yaml.MappingNode:
		return object.String()
	default:
		return scalar.String()
	}
}

// width is how many columns a scalar takes on its first line; 1 for the rest.
func width(y *yaml.Node) int {
	if y.Kind != yaml.ScalarNode {
		return 1
	}
	first, _, _ := strings.Cut(y.Value, "\n")
	n := utf8.RuneCountInString(first)
	if y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		n += 2
	}
	if y.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		n = 1
	}
	return max(1, n)
}
