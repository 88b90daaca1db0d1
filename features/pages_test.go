package features

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "write what clients are sent into the pages")

// page is a feature: what an operator writes, and what a client is sent for it.
type page struct {
	About   string
	Mesh    yaml.Node
	Catalog yaml.Node
	Proxy   proxy
	// Shows says which parts of which resources the page is about, by "type
	// name" and the path of a field. Nothing behind the name: all of it.
	Shows []string
}

const sent = "# What the proxy is sent for it (go test ./features -update writes it):\n"

// TestPages is the manual, a page at a time. A delta client and one that speaks
// the state of the world are sent the same.
func TestPages(t *testing.T) {
	pages, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages (%v)", err)
	}
	for _, path := range pages {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			written, golden, _ := bytes.Cut(text, []byte("---\n"))
			var p page
			if err := yaml.Unmarshal(written, &p); err != nil {
				t.Fatal(err)
			}
			if p.About == "" || len(p.Shows) == 0 {
				t.Fatal("a page says what it is about, and shows something")
			}
			for _, connect := range []func(*mesh, proxy) *client{(*mesh).delta, (*mesh).sotw} {
				inMesh(t, document(t, "mesh", &p.Mesh), document(t, "services", &p.Catalog), func(m *mesh) {
					c := connect(m, p.Proxy)
					defer c.stop()
					c.askFor(p)
					got := p.show(t, c)
					if *update {
						golden = got
						if err := os.WriteFile(path, bytes.Join([][]byte{written, got}, []byte("---\n")), 0o600); err != nil {
							t.Fatal(err)
						}
					}
					if !bytes.Equal(got, golden) {
						t.Errorf("%s is not what is sent now; run with -update and read the difference\n%s", path, got)
					}
				})
			}
		})
	}
}

// document is a part of a page as a file of its own.
func document(t *testing.T, key string, part *yaml.Node) string {
	t.Helper()
	var value any = map[string]any{}
	if !part.IsZero() {
		value = part
	}
	text, err := yaml.Marshal(map[string]any{key: value})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// show renders what the page is about.
func (p page) show(t *testing.T, c *client) []byte {
	t.Helper()
	out := bytes.NewBufferString(sent)
	shown := false
	for _, what := range p.Shows {
		words := strings.Fields(what)
		id := strings.Join(words[:2], " ")
		m := c.has(id)
		fmt.Fprintf(out, "%s:\n", what)
		if m == nil {
			out.WriteString("  (nothing)\n")
			continue
		}
		shown = true
		var value any
		if err := json.Unmarshal(toJSON(t, m), &value); err != nil {
			t.Fatal(err)
		}
		for _, field := range words[2:] {
			if value = inside(value, field); value == nil {
				t.Fatalf("%s has no field %s", id, field)
			}
		}
		var text bytes.Buffer
		e := yaml.NewEncoder(&text)
		e.SetIndent(2)
		if err := e.Encode(value); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text.String()) {
			out.WriteString("  " + line)
		}
	}
	if !shown {
		t.Fatal("a page shows something that is there")
	}
	return out.Bytes()
}

func toJSON(t *testing.T, m proto.Message) []byte {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// inside returns a field, or an item of a list by its number.
func inside(value any, field string) any {
	switch v := value.(type) {
	case map[string]any:
		return v[field]
	case []any:
		if i, err := strconv.Atoi(field); err == nil && i < len(v) {
			return v[i]
		}
	}
	return nil
}
