package policy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
		{"keys of load_balancing.locality.failover[]", pageTable(at(t, "mesh.load_balancing.locality.failover[]"), false, nil)},
		{"keys of policies", pageTable(at(t, "mesh.policies"), true, nil)},
		{"keys of services.X", pageTable(at(t, "mesh.services.X"), false, nil)},
		{"keys of services.X.subsets.S", pageTable(at(t, "mesh.services.X.subsets.S"), false, nil)},
		{"keys of services.X.health_check", pageTable(at(t, "mesh.services.X.health_check"), false, nil)},
		{"keys of routes[]", pageTable(at(t, "mesh.routes[]"), false, nil)},
		{"keys of routes[].match[]", pageTable(at(t, "mesh.routes[].match[]"), false, nil)},
		{"keys of routes[].match[].path", pageTable(at(t, "mesh.routes[].match[].path"), false, nil)},
		{"keys of routes[].match[].headers[]", pageTable(at(t, "mesh.routes[].match[].headers[]"), false, nil)},
		{"keys of routes[].match[].query[]", pageTable(at(t, "mesh.routes[].match[].query[]"), false, nil)},
		{"keys of routes[].match[].grpc", pageTable(at(t, "mesh.routes[].match[].grpc"), false, nil)},
		{"keys of routes[].split[]", pageTable(at(t, "mesh.routes[].split[]"), false, nil)},
		{"keys of routes[].rewrite", pageTable(at(t, "mesh.routes[].rewrite"), false, nil)},
		{"keys of routes[].redirect", pageTable(at(t, "mesh.routes[].redirect"), false, nil)},
		{"keys of routes[].direct_response", pageTable(at(t, "mesh.routes[].direct_response"), false, nil)},
		{"keys of routes[].mirror", pageTable(at(t, "mesh.routes[].mirror"), false, nil)},
		{"keys of routes[].headers", pageTable(at(t, "mesh.routes[].headers"), true, nil)},
		{"keys of routes[].sticky", pageTable(at(t, "mesh.routes[].sticky"), false, nil)},
		{"keys of routes[].cors", pageTable(at(t, "mesh.routes[].cors"), false, nil)},
		{"keys of routes[].fault", pageTable(at(t, "mesh.routes[].fault"), true, nil)},
		{"keys of routes[].timeout", pageTable(at(t, "mesh.routes[].timeout"), false, nil)},
		{"keys of edits", pageTable(at(t, "mesh.edits"), false, nil)},
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
			names = "`" + prefix + k.name + "." + strings.ToUpper(k.name[:1]) + "`" // environments.E, subsets.S
		}
		for _, other := range s.keys[i+1:] {
			if !other.mayBeWritten() || other.says != "" {
				break
			}
			names += ", `" + other.name + "`"
		}
		row := []string{names, k.String(), k.withoutIt(), k.says, k.becomes, pageCode(k)}
		for i := range row {
			row[i] = strings.ReplaceAll(row[i], "|", `\|`)
		}
		rows = append(rows, row)
	}
	return rows
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
