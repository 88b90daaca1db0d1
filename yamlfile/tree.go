package yamlfile

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

// Kind is the kind of a node of the tree.
type Kind uint8

// The kinds. A key without a value, and one with null, has a node that is Null.
const (
	Null Kind = iota
	Scalar
	List
	Map
)

// String is what an operator sees in place of what was wanted.
func (k Kind) String() string {
	return [...]string{"nothing", "a single value", "a list", "a map"}[k]
}

// Node is one value of a file. Aliases and merge keys are resolved. Nodes are
// shared between places and never changed.
type Node struct {
	Kind   Kind
	Source Source
	Width  int // of the text in the file, in columns

	Text string // of a scalar
	Tag  string // of a scalar: what YAML takes it for

	Items  []*Node
	Fields []Field // of a map, in the order of the file; made by NewMap

	places map[string]int // of the fields of a large map, by name
}

// Field is one entry of a map.
type Field struct {
	Name   string
	Source Source
	Value  *Node
}

// Free reports whether a key is the operators' own, and has no meaning here:
// anchors live there.
func Free(name string) bool { return strings.HasPrefix(name, "x-") }

// largeMap is the number of fields from which a map is searched by an index. A
// mesh of thousands of services is one.
const largeMap = 16

// NewMap returns a map of the fields.
func NewMap(source Source, width int, fields []Field) *Node {
	n := &Node{Kind: Map, Source: source, Width: width, Fields: fields}
	if len(fields) > largeMap {
		n.places = make(map[string]int, len(fields))
		for i, f := range fields {
			n.places[f.Name] = i
		}
	}
	return n
}

// Find returns the place of a field, or -1.
func (n *Node) Find(name string) int {
	if n.places != nil {
		if i, ok := n.places[name]; ok {
			return i
		}
		return -1
	}
	return slices.IndexFunc(n.Fields, func(f Field) bool { return f.Name == name })
}

// Field returns an entry of a map.
func (n *Node) Field(name string) (Field, bool) {
	if i := n.Find(name); i >= 0 {
		return n.Fields[i], true
	}
	return Field{}, false
}

// maxNodes bounds what the aliases of a file bring in, and maxDepth how deep it
// nests: a few lines of aliases of aliases would otherwise fill the memory.
const (
	maxNodes = 1 << 20
	maxDepth = 64
)

// grower turns the nodes of a YAML file into ours.
type grower struct {
	file    string
	report  *Report
	aliases int // how many aliases lead to the node at hand
	nodes   int // that aliases brought in
	depth   int
	growing map[*yaml.Node]bool // to find an alias within its own anchor
	full    bool
}

// Parse reads one file of the report. It returns nil if there is nothing in it
// or if it is not YAML, which is then reported; and so is a second document,
// with the hint.
func (r *Report) Parse(f File, secondDocument string) *Node {
	if r.characters(f) {
		return nil
	}
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
	g := &grower{file: f.Name, report: r, growing: make(map[*yaml.Node]bool)}
	var root *Node
	if len(doc.Content) > 0 {
		root = g.grow(doc.Content[0])
	}
	var second yaml.Node
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		r.syntax(f, err)
	default:
		r.Add(Problem{
			Source: Source{f.Name, second.Line, second.Column}, Width: 3, Code: CodeDocuments,
			Message: "a second document in the file", Hint: secondDocument,
		})
	}
	return root
}

func (g *grower) at(y *yaml.Node) Source { return Source{g.file, y.Line, y.Column} }

func (g *grower) fail(y *yaml.Node, message string) {
	g.report.Add(Problem{Source: g.at(y), Width: width(y), Code: CodeAlias, Message: message})
}

func (g *grower) grow(y *yaml.Node) *Node {
	n := &Node{Source: g.at(y), Width: width(y)}
	if g.aliases > 0 {
		g.nodes++
	}
	if g.nodes > maxNodes || g.depth > maxDepth {
		if !g.full {
			g.full = true
			g.fail(y, fmt.Sprintf("the file nests deeper than %d, or its aliases bring in more than %d values", maxDepth, maxNodes))
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
		g.aliases++
		defer func() { g.aliases-- }()
		return g.grow(y.Alias)
	case yaml.ScalarNode:
		n.Text, n.Tag = y.Value, y.ShortTag()
		if n.Tag != "!!null" {
			n.Kind = Scalar
		}
	case yaml.SequenceNode:
		n.Kind = List
		for _, item := range y.Content {
			n.Items = append(n.Items, g.grow(item))
		}
	case yaml.MappingNode:
		return NewMap(n.Source, n.Width, g.fields(y))
	}
	return n
}

// fields are the entries of a map: its own and then, where it does not have
// the key itself, those that `<<` merges in.
func (g *grower) fields(y *yaml.Node) []Field {
	var fields []Field
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
			g.report.Add(Problem{Source: g.at(key), Width: 1, Code: CodeType, Message: "a key is a word, not " + describe(key)})
			continue
		}
		if line, ok := lines[key.Value]; ok {
			g.report.Add(Problem{
				Source: g.at(key), Width: width(key), Code: CodeDuplicateKey,
				Message: fmt.Sprintf("key %q stands here a second time; the first is in line %d", key.Value, line),
			})
			continue
		}
		lines[key.Value] = key.Line
		fields = append(fields, Field{key.Value, g.at(key), g.grow(value)})
	}
	for _, m := range merges {
		for _, f := range g.merged(m) {
			if _, ok := lines[f.Name]; !ok {
				lines[f.Name] = f.Source.Line
				fields = append(fields, f)
			}
		}
	}
	return fields
}

// merged are the entries that a merge key brings in: those of one map, or of a
// list of maps, where the earlier one wins.
func (g *grower) merged(y *yaml.Node) []Field {
	n := g.grow(y)
	switch n.Kind {
	case Map:
		return n.Fields
	case List:
		var all []Field
		for _, item := range n.Items {
			if item.Kind != Map {
				g.fail(y, "<< takes a map or a list of maps, not a list with "+item.Kind.String()+" in it")
				continue
			}
			all = append(all, item.Fields...)
		}
		return all
	default:
		g.fail(y, "<< takes a map or a list of maps, not "+n.Kind.String())
		return nil
	}
}

func describe(y *yaml.Node) string {
	switch y.Kind {
	case yaml.SequenceNode:
		return List.String()
	case yaml.MappingNode:
		return Map.String()
	default:
		return Scalar.String()
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
