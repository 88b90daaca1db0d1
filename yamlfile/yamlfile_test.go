package yamlfile_test

import (
	"bytes"
	"strings"
	"testing"

	"datapunk.dev/controlplane/yamlfile"
)

// read parses one file and returns its tree, and what is wrong with it as
// operators see it.
func read(text string) (*yamlfile.Node, string) {
	f := yamlfile.File{Name: "f.yaml", Data: []byte(text)}
	r := yamlfile.NewReport(f)
	root := r.Parse(f, "one is enough")
	problems, _ := r.Split()
	var out bytes.Buffer
	for _, p := range problems {
		p.Format(&out)
	}
	return root, out.String()
}

// Aliases and merge keys are resolved, and every value keeps the place where
// it was written.
func TestATreeKnowsItsPlaces(t *testing.T) {
	root, wrong := read("a: &x {k: 1}\nb: *x\nc: {<<: *x, k: 2, l: [3]}\nd:\n")
	if wrong != "" {
		t.Fatal(wrong)
	}
	at := func(path string) *yamlfile.Node {
		n := root
		for _, name := range strings.Split(path, ".") {
			f, ok := n.Field(name)
			if !ok {
				t.Fatalf("no %s", path)
			}
			n = f.Value
		}
		return n
	}
	for path, want := range map[string]struct{ text, place string }{
		"a.k": {"1", "f.yaml:1:11"},
		"b.k": {"1", "f.yaml:1:11"},
		"c.k": {"2", "f.yaml:3:16"},
	} {
		if n := at(path); n.Kind != yamlfile.Scalar || n.Text != want.text || n.Source.String() != want.place {
			t.Errorf("%s is %q at %s, want %q at %s", path, n.Text, n.Source, want.text, want.place)
		}
	}
	if n := at("c.l"); n.Kind != yamlfile.List || n.Items[0].Text != "3" {
		t.Errorf("the list is %+v", n)
	}
	if n := at("d"); n.Kind != yamlfile.Null || n.Source.String() != "f.yaml:4:3" {
		t.Errorf("a key without a value is %+v", n)
	}
}

func TestWhatIsWrongWithAnyFile(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"not YAML", "a: {b\n", "f.yaml:2:1: MC1001: "},
		{"a tab", "a:\n\tb: 1\n", " = YAML is indented with blanks, never with tabs"},
		{"a variable within braces", "a: {b: ${C:-d}}\n", " = inside { } and [ ] a value with ${…} must stand in quotes"},
		{"UTF-16", "\xff\xfea\x00", "f.yaml:1:1: MC1001: the file is not UTF-8"},
		{"a second document", "a: 1\n---\nb: 2\n", "f.yaml:2:1: MC1002: a second document in the file\n2 | ---\n  | ^^^\n  = one is enough"},
		{"a key twice", "a: 1\na: 2\n", "f.yaml:2:1: MC1004: key \"a\" stands here a second time; the first is in line 1\n2 | a: 2\n  | ^\n"},
		{"an alias of itself", "a: &x [*x]\n", "f.yaml:1:8: MC1008: the alias *x stands within its own anchor"},
		{"a merge of a word", "a: {<<: b}\n", "f.yaml:1:9: MC1008: << takes a map or a list of maps, not a single value"},
		{"a list as key", "? [a]\n: b\n", "f.yaml:1:3: MC1005: a key is a word, not a list"},
		{"a hundred levels", strings.Repeat("[", 100) + strings.Repeat("]", 100), "MC1008: the file nests deeper than 64"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, wrong := read(test.text); !strings.Contains(wrong, test.want) {
				t.Errorf("got\n%s\nwant\n%s", wrong, test.want)
			}
		})
	}
}
