package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The tables of docs/mesh-file.md are made of the table of keys:
//
//	go test ./policy -run TestThePage -update
func TestThePageSaysWhatTheTableSays(t *testing.T) {
	path := filepath.Join("..", "docs", "mesh-file.md")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page, found := string(old), 0
	for _, part := range []struct{ marker, text string }{
		{"keys of mesh", pageTable(at(t, "mesh"), false, func(k key) bool { return k.section == nil || k.form == formNames && k.name == "environments" })},
		{"keys of discovery", pageTable(at(t, "mesh.discovery"), true, nil)},
		{"keys of discovery.consul.register.services[]", pageTable(at(t, "mesh.discovery.consul.register.services[]"), true, nil)},
		{"keys of circuit_breakers.default", pageTable(at(t, "mesh.circuit_breakers.default"), true, nil)},
		{"keys of load_balancing", pageTable(at(t, "mesh.load_balancing"), true, nil)},
		{"keys of policies", pageTable(at(t, "mesh.policies"), true, nil)},
		{"keys of services.X", pageTable(at(t, "mesh.services.X"), false, nil)},
		{"keys of telemetry", pageTable(at(t, "mesh.telemetry"), true, nil)},
		{"keys of security", pageTable(at(t, "mesh.security"), true, nil)},
		{"keys of security.authorization.policies[]", pageTable(at(t, "mesh.security.authorization.policies[]"), false, nil)},
		{"keys of security.authorization.policies[].headers[]", pageTable(at(t, "mesh.security.authorization.policies[].headers[]"), false, nil)},
		{"keys that are not supported yet", pageLater()},
	} {
		begin, end := "<!-- "+part.marker+": generated, see policy/page_test.go -->\n", "<!-- end -->\n"
		head, rest, ok := strings.Cut(page, begin)
		_, tail, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Errorf("the page has no place for the %s", part.marker)
			continue
		}
		found++
		page = head + begin + part.text + end + tail
	}
	if n := strings.Count(page, ": generated, see "); n != found {
		t.Errorf("%d places, and %d are filled", n, found)
	}
	if *Update {
		if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if page != string(old) {
		t.Error("docs/mesh-file.md is not what the table of keys says: go test ./policy -run TestThePage -update")
	}
}

// at is the section at a path of the table: "mesh.services.X".
func at(t *testing.T, path string) *section {
	t.Helper()
	s := sectionAt(path)
	if s == nil {
		t.Fatalf("no section %s", path)
	}
	return s
}

func sectionAt(path string) *section {
	s := documentKeys.section()
	for _, name := range strings.Split(path, ".") {
		if name == "X" { // the name of a service, of an environment
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

// pageTable is a section as a table of Markdown; deep: with the sections in it.
func pageTable(s *section, deep bool, some func(key) bool) string {
	head := []string{"key", "takes", "default", "meaning", "becomes", "code"}
	rows := pageRows(s, "", deep, some)
	for column := len(head) - 1; column >= 0; column-- {
		if !slices.ContainsFunc(rows, func(row []string) bool { return row[column] != "" }) {
			head = slices.Delete(head, column, column+1)
			for i := range rows {
				rows[i] = slices.Delete(rows[i], column, column+1)
			}
		}
	}
	text := "| " + strings.Join(head, " | ") + " |\n|" + strings.Repeat("---|", len(head)) + "\n"
	for _, row := range rows {
		text += "| " + strings.ReplaceAll(strings.Join(row, " | "), "|  |", "| |") + " |\n"
	}
	return text
}

func pageRows(s *section, prefix string, deep bool, some func(key) bool) [][]string {
	var rows [][]string
	for i, k := range s.keys {
		if !k.mayBeWritten() || k.says == "" || some != nil && !some(k) {
			continue
		}
		if deep && k.form == formSection {
			rows = append(rows, pageRows(k.section, prefix+k.name+".", deep, nil)...)
			continue
		}
		names := "`" + prefix + k.name + "`"
		if k.form == formNames {
			names = "`" + prefix + k.name + ".E`"
		}
		for _, other := range s.keys[i+1:] {
			if !other.mayBeWritten() || other.says != "" {
				break
			}
			names += ", `" + other.name + "`"
		}
		row := []string{names, k.String(), pageDefault(k), k.says, k.becomes, pageCode(k)}
		for i := range row {
			row[i] = strings.ReplaceAll(row[i], "|", `\|`)
		}
		rows = append(rows, row)
	}
	return rows
}

func pageDefault(k key) string {
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

// pageCode is the code of a key that is not that of every key of its kind,
// which the page has in one place.
func pageCode(k key) string {
	if slices.Contains([]Code{CodeType, CodeRange, CodeWord, CodeDuration, CodeValue}, k.code) {
		return ""
	}
	return string(k.code)
}

// pageLater is a sentence with every key that is known and not supported.
func pageLater() string {
	again := regexp.MustCompile(`^(environments\.|circuit_breakers\.custom\.|services\.X\.\w+\.)`) // as elsewhere
	var names []string
	walk(documentKeys.section(), "", func(path string, k key) {
		path = strings.TrimPrefix(path, "mesh.")
		said := "`" + path + "`"
		switch {
		case again.MatchString(path):
			return
		case !k.later && len(k.soon) > 0:
			said = "`" + path + ": " + strings.Join(k.soon, "` and `") + "`"
		case !k.later:
			return
		case k.says != "":
			said += " (" + k.says + ")"
		}
		names = append(names, said)
	})
	return strings.Join(names, ",\n") + "\n"
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
		var names []string
		for _, k := range s.section.keys {
			if k.mayBeWritten() {
				names = append(names, k.name)
			}
		}
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
