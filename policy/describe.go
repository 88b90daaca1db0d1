package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"datapunk.dev/controlplane/spelling"
)

// Field is what is to be known of a key of the mesh file.
type Field struct {
	Path    string   `json:"path"`              // policies.retry.attempts, services.X.protocol
	Takes   string   `json:"takes"`             // in words
	Without string   `json:"without,omitempty"` // what holds without it
	Says    string   `json:"says"`
	Becomes string   `json:"becomes,omitempty"` // what it is in Envoy; may be empty
	Code    Code     `json:"code,omitempty"`    // of a value that it does not take; may be empty
	Later   bool     `json:"later,omitempty"`   // not supported yet
	Keys    []string `json:"keys,omitempty"`
}

// place is what stands where the table has X: after a map of names, or in a list.
var place = regexp.MustCompile(`\[[^]]*\]`)

// Describe returns what is to be known of a key, by its path in a file, with or
// without mesh in front, and with any name where the table has X. If there is no
// such key, the error says which are near.
func Describe(path string) (Field, error) {
	said := strings.TrimPrefix(strings.TrimPrefix(path, "mesh"), ".")
	parts := strings.Split(place.ReplaceAllString(said, ""), ".")
	k, at := key{name: "mesh", shape: within[Mesh](&meshKeys).shape, says: "the mesh"}, ""
	for i := 0; said != "" && i < len(parts); i++ {
		in := k.shape
		if in.form == formList {
			in, at = *in.item, at+"[]"
		}
		if k.form == formNames {
			at = join(at, "X")
			if i++; i == len(parts) {
				k = key{name: k.name, shape: shape{form: formSection, section: k.section}, says: k.says}
				break
			}
		}
		if in.section == nil {
			return Field{}, fmt.Errorf("%s takes %s, and has no keys", strings.Join(parts[:i], "."), k.shape)
		}
		j := slices.IndexFunc(in.section.keys, func(k key) bool { return k.name == parts[i] && k.refused == "" })
		if j < 0 {
			return Field{}, fmt.Errorf("no key %q in %s: %s", parts[i], strings.Join(append([]string{"mesh"}, parts[:i]...), "."), spelling.DidYouMean(parts[i], in.section.names()))
		}
		k, at = in.section.keys[j], join(at, parts[i])
		for ; k.says == "" && !k.later && j > 0; j-- { // another form of the row above it
			k.says, k.becomes = in.section.keys[j-1].says, in.section.keys[j-1].becomes
		}
	}
	f := Field{Path: join("mesh", at), Takes: k.String(), Without: k.withoutIt(), Says: k.says, Becomes: k.becomes, Code: k.code, Later: k.later}
	if at == "" {
		f.Path, f.Without = "mesh", ""
	}
	switch in := k.shape; {
	case in.form == formList && in.item.section != nil:
		f.Keys = in.item.section.names()
	case in.section != nil:
		f.Keys = in.section.names()
	}
	return f, nil
}

// names are the keys of a section that may be written.
func (s *section) names() []string {
	var names []string
	for _, k := range s.keys {
		if k.mayBeWritten() {
			names = append(names, k.name)
		}
	}
	return names
}

// sectionAt is the section at a path of the table: "mesh.services.X"; nil if there
// is none.
func sectionAt(path string) *section {
	s := documentKeys.section()
	for _, name := range strings.Split(path, ".") {
		if name == "X" || name == "S" { // the name of a service, of an environment; of a subset
			continue
		}
		name, _, _ := strings.Cut(name, "[")
		i := slices.IndexFunc(s.keys, func(k key) bool { return k.name == name })
		if i < 0 {
			return nil
		}
		k := s.keys[i]
		if k.form == formList {
			k.shape = *k.item
		}
		if s = k.section; s == nil {
			return nil
		}
	}
	return s
}

// mayBeWritten reports whether a key can be written today.
func (k key) mayBeWritten() bool { return !k.later && k.refused == "" }

// withoutIt is what holds without the key.
func (k key) withoutIt() string {
	switch {
	case k.required:
		return "must be there"
	case k.def != "" && k.form == formList:
		return "`[" + k.def + "]`"
	case k.def != "":
		return "`" + k.def + "`"
	case k.unset != "":
		return k.unset
	}
	return "none"
}

// walk visits every key of the table. Names are X, and items of lists [].
func walk(s *section, path string, visit func(path string, k key)) {
	for _, k := range s.keys {
		at := join(path, k.name)
		visit(at, k)
		switch {
		case k.form == formNames:
			walk(k.section, at+".X", visit)
		case k.form == formSection:
			walk(k.section, at, visit)
		case k.form == formList && k.item.section != nil:
			walk(k.item.section, at+"[]", visit)
		}
	}
}

// String is what a key takes, in words.
func (s shape) String() string {
	switch s.form {
	case formBoolean:
		return "`true`, `false`"
	case formWhole:
		switch {
		case s.what != "":
			return s.what
		case s.most == most:
			return fmt.Sprintf("%v or more", s.least)
		}
		return fmt.Sprintf("%v to %v", s.least, s.most)
	case formReal:
		if s.what != "" {
			return s.what
		}
		return strconv.FormatFloat(s.least, 'f', -1, 64)
	case formDuration:
		what := "duration"
		if s.shortest > 0 {
			what += " from " + strings.TrimSuffix(s.shortest.String(), "0s")
		}
		if s.longest < longest { // the bound of all stands above the tables
			what += " to " + hours(s.longest)
		}
		return what
	case formWord:
		return "`" + strings.Join(s.words, "`, `") + "`"
	case formList:
		return "list: " + s.item.String()
	case formTexts:
		return "map of texts"
	case formSection, formNames:
		names := s.section.names()
		text := "a section"
		if s.orText != nil {
			text = s.orText.String() + ", or `{" + strings.Join(names, ", ") + "}`"
		} else if len(names) <= 3 {
			text = "`{" + strings.Join(names, ", ") + "}`"
		}
		return text
	}
	return s.what
}
