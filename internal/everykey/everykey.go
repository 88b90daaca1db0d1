// Package everykey edits every key of the mesh file, one at a time. The keys
// are those of configs/mesh.schema.json, which is made from the table by which
// the file is read: one that has no edit here is an error, so that no test of
// all keys can forget a new one.
package everykey

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"datapunk.dev/controlplane/internal/tool"
)

// Edit is one key in a mesh file that has it, before and after.
type Edit struct {
	Key           string // services.X.timeout.idle
	Before, After string // whole mesh files
	// Refused is why no running process goes on with the edit; empty: it does.
	Refused string
}

// The mesh that is edited: shop calls web, which is X in a key, other and db.
// The first policy of each file admits shop, the second is the edited one.
const base = `{
  "name": "shop", "version": "1",
  "services": {
    "shop": {"upstreams": ["web", "other", {"service": "db", "local_bind_port": 5432}]},
    "web": {}, "other": {}, "db": {"protocol": "tcp"}
  },
  "routes": [{"name": "edited", "service": "other", "match": [{"path": {"prefix": "/edited"}}]}],
  "telemetry": {
    "tracing": {"endpoint": "127.0.0.1:4317", "provider": "otlp"}, "metrics": {}, "access_logs": {"path": "/dev/null"}
  },
  "security": {
    "mtls": {"trust_domain": "shop"},
    "authorization": {"policies": [{"name": "calls", "action": "ALLOW", "sources": ["shop"]}, {"name": "edited", "action": "ALLOW", "sources": ["other"]}]}
  }
}`

// Base is the mesh without an edit.
func Base() string { return file(tree(base)) }

// Edits returns an edit of every key, in the order of the keys.
func Edits() ([]Edit, error) {
	data, err := os.ReadFile(filepath.Join(tool.Root(), "configs", "mesh.schema.json"))
	if err != nil {
		return nil, fmt.Errorf("every key: %w", err)
	}
	var s schema
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("every key: %w", err)
	}
	used := make(map[string]bool)
	var all []Edit
	var missing []string
	s.walk("mesh", "", func(path, key string) {
		c, ok := changes[key]
		used[key] = true
		if !ok {
			missing = append(missing, key)
			return
		}
		all = append(all, Edit{Key: path, Before: c.file(path, c.before), After: c.file(path, c.after), Refused: c.refused})
	})
	for key := range changes {
		if !used[key] {
			missing = append(missing, key+" (which the schema does not have)")
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, fmt.Errorf("internal/everykey/changes.go wants an edit of: %s", strings.Join(slices.Compact(missing), ", "))
	}
	return all, nil
}

// schema is what is read of the JSON schema: sections, and the keys of each.
type schema struct {
	Defs map[string]struct {
		Properties map[string]property
	} `json:"$defs"`
}

type property struct {
	Ref   string `json:"$ref"`
	Named struct {
		Ref string `json:"$ref"`
	} `json:"additionalProperties"`
	Items struct {
		Ref   string `json:"$ref"`
		AnyOf []struct {
			Ref string `json:"$ref"`
		} `json:"anyOf"`
	}
}

// walk visits every key that has a value, with its path and, as a key of
// changes, its section and name. Environments have the same keys again.
func (s *schema) walk(section, path string, visit func(path, key string)) {
	for _, name := range slices.Sorted(maps.Keys(s.Defs[section].Properties)) {
		p := s.Defs[section].Properties[name]
		at := strings.TrimPrefix(path+"."+name, ".")
		switch {
		case name == "environments":
		case p.Ref != "":
			s.walk(sectionOf(p.Ref), at, visit)
		case p.Named.Ref != "":
			s.walk(sectionOf(p.Named.Ref), at+".X", visit)
		case p.Items.Ref != "":
			s.walk(sectionOf(p.Items.Ref), at+"[]", visit)
		default:
			visit(at, section+"."+name)
			for _, o := range p.Items.AnyOf {
				if o.Ref != "" {
					s.walk(sectionOf(o.Ref), at+"[]", visit)
				}
			}
		}
	}
}

func sectionOf(ref string) string { return strings.TrimPrefix(ref, "#/$defs/") }

// file is the mesh with a value at a key. What the key needs around it comes
// first.
func (c change) file(path, text string) string {
	root := tree(base)
	section := path[:max(0, strings.LastIndexByte(path, '.'))]
	for key, v := range c.with {
		put(root, section+"."+key, value(v))
	}
	for key, v := range c.above {
		put(root, key, value(v))
	}
	if c.whole {
		path = section
	}
	if c.list {
		path = strings.TrimSuffix(section, "[]")
	}
	put(root, path, value(text))
	return file(root)
}

func tree(text string) map[string]any {
	var root map[string]any
	if err := json.Unmarshal([]byte(text), &root); err != nil {
		panic(fmt.Sprintf("a constant is no JSON: %v", err))
	}
	return root
}

func value(text string) any {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		panic(fmt.Sprintf("a constant is no JSON: %s: %v", text, err))
	}
	return v
}

// file is a mesh as a file: JSON is YAML.
func file(root map[string]any) string {
	text, err := json.MarshalIndent(map[string]any{"mesh": root}, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("a mesh of plain values: %v", err))
	}
	return string(text) + "\n"
}

// put sets the value at a path, whose X is the service web. Of a list it is the
// last item; one without any gets its first.
func put(root map[string]any, path string, v any) {
	at := root
	steps := strings.Split(path, ".")
	for i, step := range steps {
		name, inList := strings.CutSuffix(step, "[]")
		if name == "X" {
			name = "web"
		}
		last := i == len(steps)-1
		if !inList {
			if last {
				at[name] = v
				return
			}
			next, ok := at[name].(map[string]any)
			if !ok {
				next = make(map[string]any)
				at[name] = next
			}
			at = next
			continue
		}
		items, _ := at[name].([]any)
		if len(items) == 0 {
			items = []any{make(map[string]any)}
		}
		at[name] = items
		if last {
			items[len(items)-1] = v
			return
		}
		at = items[len(items)-1].(map[string]any)
	}
}
