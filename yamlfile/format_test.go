package yamlfile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"datapunk.dev/controlplane/yamlfile"
)

func formatted(t *testing.T, text string) string {
	t.Helper()
	out, err := yamlfile.Formatted(yamlfile.File{Name: "f.yaml", Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// The form is canonical; comments, blank lines, quotes and the order stay.
func TestTheCanonicalForm(t *testing.T) {
	const wild = `# about the file
mesh:
    name:   m   # its name


    # about services
    services:
        a: {protocol:   tcp}

        b:
            upstreams:
            - c # one
            - "d"
    x-anchor: &x {k: 1}
    version: '1.0'
`
	const tame = `# about the file
mesh:
  name: m # its name

  # about services
  services:
    a: {protocol: tcp}

    b:
      upstreams:
        - c # one
        - "d"
  x-anchor: &x {k: 1}
  version: '1.0'
`
	if got := formatted(t, wild); got != tame {
		t.Errorf("got\n%s\nwant\n%s", got, tame)
	}
	if got := formatted(t, tame); got != tame {
		t.Errorf("a second time it is\n%s", got)
	}
}

// The files that the project shows have the form already.
func TestWhatTheProjectShowsIsFormatted(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("..", "configs", "*.yaml"))
	examples, _ := filepath.Glob(filepath.Join("..", "configs", "examples", "*.yaml")) // the pattern is good
	if err != nil || len(paths) == 0 || len(examples) == 0 {
		t.Fatal(paths, examples, err)
	}
	paths = append(paths, examples...)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := formatted(t, string(data)); got != string(data) {
			t.Errorf("%s would be\n%s", path, got)
		}
	}
}

// What is no YAML is said to be so, and is not touched.
func TestWhatCannotBeFormatted(t *testing.T) {
	for _, text := range []string{"a: b: c\n", "a: 1\na: 2\n", "a: \"\uE000\" #\uE000\n", "a: 1\n---\nb: 2\n"} {
		if out, err := yamlfile.Formatted(yamlfile.File{Name: "f.yaml", Data: []byte(text)}); err == nil {
			t.Errorf("%q is %q", text, out)
		}
	}
}

// Whatever is formatted means the same, and is formatted then.
func FuzzFormatted(f *testing.F) {
	for _, text := range []string{"a: 1\n\n# x\nb: [1, 2]\n", "- a\n-   b # c\n", "a: |\n  x\n\n  y\nb: >-\n  z\n", "a: &x {k: 1}\nb: {<<: *x}\n", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once, err := yamlfile.Formatted(yamlfile.File{Name: "f.yaml", Data: []byte(text)})
		if err != nil {
			return
		}
		twice, err := yamlfile.Formatted(yamlfile.File{Name: "f.yaml", Data: once})
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%q is %q, which is not formatted: %q, %v", text, once, twice, err)
		}
	})
}
