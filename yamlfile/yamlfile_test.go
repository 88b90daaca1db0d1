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
		{"UTF-16", "\xff\xfea\x00", "f.yaml:1:1: MC1001: the file is not UTF-8 but UTF-16\n"},
		{"Latin-1 in a value", "a: 1\nb: gr\xfcn\n", "f.yaml:2:6: MC1001: the byte 0xFC is not UTF-8\n2 | b: gr\ufffdn\n  |      ^\n  = save the file as UTF-8"},
		{"Latin-1 in a comment", "a: 1\r\n# gr\xfc\xdf\r\n", "f.yaml:2:5: MC1001: the byte 0xFC is not UTF-8\n2 | # gr\ufffd\ufffd\n  |     ^\n"},
		{"half a character at the end", "a: 1\nb: \xe2\x82", "f.yaml:2:4: MC1001: the byte 0xE2 is not UTF-8\n"},
		{"an escape of a terminal", "a: 1\n\n  b: \x1b[31m\n", "f.yaml:3:6: MC1001: the control character U+001B may not stand in a file\n3 |   b: \ufffd[31m\n  |      ^\n  = take it out, or write \\u001B within double quotes\n"},
		{"a NUL after a multi-byte character", "ä: é\x00\n", "f.yaml:1:5: MC1001: the control character U+0000"},
		{"on two lines", "a: \x01\x02\nb: \x03\n", "f.yaml:2:4: MC1001: the control character U+0003"},
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

// A file that is no text at all is said to be so in a few lines.
func TestABinaryFileIsReportedInAFewLines(t *testing.T) {
	_, wrong := read(strings.Repeat("\x00\xff\n", 10000))
	if n := strings.Count(wrong, "MC1001"); n == 0 || n > 20 {
		t.Errorf("%d problems", n)
	}
}

// What YAML allows beyond ASCII is taken as it stands.
func TestTextIsTakenAsItStands(t *testing.T) {
	root, wrong := read("\ufeffa: \"grün \u2013 \\u0007 \U0001F600\"\n")
	if wrong != "" {
		t.Fatal(wrong)
	}
	if f, _ := root.Field("a"); f.Value.Text != "grün \u2013 \a \U0001F600" {
		t.Errorf("got %q", f.Value.Text)
	}
}
