package policy

import (
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/spelling"
	"datapunk.dev/controlplane/yamlfile"
)

// table is a section of the mesh file: a row for each of its keys. Everything
// that is known of a key stands in its row: the decoder, docs/mesh-file.md,
// configs/mesh.schema.json and what is suggested for a misspelled one are made
// from it. What concerns several keys at once is the business of the reader of
// the section.
type table[T any] struct {
	name string // what the schema calls the section
	rows []row[T]
}

// row is a key of a section that is read into a T.
type row[T any] struct {
	name  string
	takes kind[T]

	def   string // what holds without the key, as it would be written
	unset string // the same in words, where it is no value of the key

	required bool
	hint     string // for a file that lacks a required key

	says    string // one sentence; a row without one is another form of the row above it
	becomes string // what it is in Envoy

	later   bool   // known, and not supported yet: an error until then
	refused string // not a key at all; what to write instead
}

// kind is what a key takes, and how that is read into a T. A key whose reader
// asks for it by name, as for a section, has no read.
type kind[T any] struct {
	shape
	read func(v value, to *T) bool
}

// shape is what a value looks like, for the page and the schema.
type shape struct {
	form        form
	least, most float64       // of a number
	shortest    time.Duration // of a duration
	longest     time.Duration // of a duration
	words       []string      // that a word may be
	soon        []string      // words that are not supported yet
	pattern     string        // of a text
	what        string        // a text, in words
	code        Code          // what a value that is out of bounds is reported as
	item        *shape        // of a list
	section     *section      // of a section, and of each entry of a map
	orText      *shape        // a text instead of the section
}

// section is a table without the type that it is read into.
type section struct {
	name string
	keys []key
}

// key is a row without the type that it is read into.
type key struct {
	name, def, unset, says, becomes, refused string
	required, later                          bool
	shape
}

type form uint8

const (
	formText form = iota
	formBoolean
	formWhole
	formReal
	formDuration
	formWord
	formList
	formSection
	formNames // a map whose keys are names, and whose values are sections
	formTexts // a map whose keys are names, and whose values are texts
)

// section returns the table without its type.
func (t *table[T]) section() *section {
	s := &section{name: t.name}
	for _, r := range t.rows {
		s.keys = append(s.keys, key{
			name: r.name, def: r.def, unset: r.unset, says: r.says, becomes: r.becomes, refused: r.refused,
			required: r.required, later: r.later, shape: r.takes.shape,
		})
	}
	return s
}

// names are the keys that may be written.
func (t *table[T]) names() []string {
	var names []string
	for _, r := range t.rows {
		if !r.later && r.refused == "" {
			names = append(names, r.name)
		}
	}
	return names
}

func (t *table[T]) has(name string) bool {
	return slices.ContainsFunc(t.rows, func(r row[T]) bool { return r.name == name })
}

// read reads every key that m has into to, and reports those that nobody
// knows. What is not there, or is wrong, leaves what to holds: the setting of
// the next level down. It reports whether all was right.
func (t *table[T]) read(m *mapping, to *T) bool {
	if !m.present() {
		return false
	}
	good := true
	for i := range t.rows {
		r := &t.rows[i]
		v, ok := m.peek(r.name)
		switch {
		case r.later || r.refused != "":
			if _, ok := m.Field(r.name); !ok {
				continue
			}
			good = false
			if r.later {
				m.keyOf(r.name).fail(CodeUnsupported, "leave it out until then", "not supported yet")
			} else {
				m.unknown(r.name, r.refused)
			}
		case !ok && r.required:
			good = false
			m.fail(CodeMissing, r.hint, "%s is missing", r.name)
		case ok && r.takes.read != nil:
			if r.takes.read(v, to) {
				m.good = append(m.good, r.name)
			} else {
				good = false
			}
		}
	}
	for _, f := range m.Fields {
		if !yamlfile.Free(f.Name) && !t.has(f.Name) {
			good = false
			m.unknown(f.Name, spelling.DidYouMean(f.Name, t.names()))
		}
	}
	return good
}

// defaults sets what holds without the keys.
func (t *table[T]) defaults(to *T) {
	for i := range t.rows {
		if r := &t.rows[i]; r.def != "" {
			r.takes.read(written(r.def, r.takes.shape), to)
		}
	}
}

// written is a default as if it stood in a file. That each is right is tested.
func written(text string, s shape) value {
	n := &node{Kind: yamlfile.Scalar, Text: text, Tag: "!!str"}
	if s.form == formList {
		n = &node{Kind: yamlfile.List}
		for _, item := range strings.Split(text, ", ") {
			n.Items = append(n.Items, &node{Kind: yamlfile.Scalar, Text: item, Tag: "!!str"})
		}
	}
	return value{node: n, d: &decoder{Report: yamlfile.NewReport(), lookup: noVariables}}
}

// parser makes a V of a value.
type parser[V any] struct {
	shape
	parse func(value) (V, bool)
}

// one is the kind of a key with a value that goes to a field.
func one[T, V any](p parser[V], field func(*T) *V) kind[T] {
	return kind[T]{p.shape, func(v value, to *T) bool {
		parsed, ok := p.parse(v)
		if ok {
			*field(to) = parsed
		}
		return ok
	}}
}

// list is the kind of a key with a list. It is taken whole or not at all.
func list[T, V any](p parser[V], field func(*T) *[]V) kind[T] {
	s := shape{form: formList, item: &p.shape, code: p.code}
	return kind[T]{s, func(v value, to *T) bool {
		items, ok := v.list()
		if !ok {
			return false
		}
		all := make([]V, 0, len(items))
		for _, item := range items {
			parsed, good := p.parse(item)
			ok = ok && good
			all = append(all, parsed)
		}
		if ok {
			*field(to) = slices.Clip(all)
		}
		return ok
	}}
}

// within is the kind of a key that is a section of its own.
func within[T, S any](t *table[S]) kind[T] {
	return kind[T]{shape: shape{form: formSection, section: t.section()}}
}

// named is the kind of a key that is a map of sections by name.
func named[T, S any](t *table[S]) kind[T] {
	return kind[T]{shape: shape{form: formNames, section: t.section()}}
}

// listed is the kind of a key that is a list of sections.
func listed[T, S any](t *table[S]) kind[T] {
	item := within[T](t).shape
	return kind[T]{shape: shape{form: formList, item: &item}}
}

// object is a section that is an item of a list. What check says, if there is
// one, concerns several of its keys.
func object[V any](t *table[V], check func(*mapping, *V) bool) parser[V] {
	return parser[V]{within[V](t).shape, func(v value) (V, bool) {
		var read V
		m := v.mapping()
		ok := t.read(m, &read)
		if m.present() && check != nil {
			ok = check(m, &read) && ok
		}
		return read, ok
	}}
}
