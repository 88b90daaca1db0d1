// Package configdump reads what an Envoy says at /config_dump?include_eds that it has,
// and compares it with what the control plane says that it sent. It compares JSON with
// JSON: what an Envoy does not know of a message it would drop, and that is what is
// looked for.
package configdump

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"datapunk.dev/controlplane/admin/api"
)

// Difference is a resource that an Envoy has otherwise than it was sent.
type Difference struct {
	Type   string  `json:"type"`
	Name   string  `json:"name"`
	What   string  `json:"what"`
	Fields []Field `json:"fields,omitempty"`
}

// Field is one that differs. What is not there is empty.
type Field struct {
	Path string `json:"path"`
	Sent string `json:"sent"`
	Has  string `json:"has"`
}

// maxFields bounds how many fields of a resource are told, and maxValue how much of each.
const (
	maxFields = 20
	maxValue  = 200
)

// held is a resource that an Envoy has.
type held struct {
	body any
	// waits says why it is not in use yet; refused why another one is not.
	waits, refused string
}

type key struct{ kind, name string }

// Compare returns what of the resources an Envoy has otherwise, and what it has of the
// control plane that is not among them. What a dump does not have of a type in the form
// in which it was sent, runtime layers and certificates, is compared by name or not at
// all.
func Compare(sent []api.Resource, dump []byte) ([]Difference, error) {
	has, err := read(dump)
	if err != nil {
		return nil, err
	}
	differences := []Difference{}
	for _, r := range sent {
		if r.Type == "runtime" {
			continue // no dump has it
		}
		k := key{r.Type, r.Name}
		h, ok := has[k]
		delete(has, k)
		d := Difference{Type: r.Type, Name: r.Name}
		switch {
		case !ok:
			d.What = "it is not there"
		case h.refused != "":
			d.What = "it refuses it: " + h.refused
		case h.body == nil:
			d.What = h.waits
		default:
			if d.Fields, err = fields(r, h.body); err != nil {
				return nil, err
			}
			if len(d.Fields) > 0 {
				d.What = "it differs"
			} else if h.waits != "" {
				d.What = h.waits
			}
		}
		if d.What != "" {
			differences = append(differences, d)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(has), func(a, b key) int {
		return strings.Compare(a.kind+" "+a.name, b.kind+" "+b.name)
	}) {
		// Endpoints also stand in clusters, and secrets in files of the bootstrap.
		if k.kind != "endpoint" && k.kind != "secret" {
			differences = append(differences, Difference{Type: k.kind, Name: k.name, What: "it has it, and is not sent it"})
		}
	}
	return differences, nil
}

// fields are those in which what was sent is not what is there.
func fields(r api.Resource, has any) ([]Field, error) {
	if r.Certificate != nil || len(r.Body) == 0 {
		return nil, nil // no dump has a key
	}
	var body any
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Type, r.Name, err)
	}
	if r.Type == "endpoint" {
		body, has = addresses(body), addresses(has)
	}
	d := &differ{}
	d.compare("", body, has)
	return d.found, nil
}

type differ struct{ found []Field }

func (d *differ) compare(path string, sent, has any) {
	if len(d.found) >= maxFields || reflect.DeepEqual(sent, has) {
		return
	}
	a, aObject := sent.(map[string]any)
	b, bObject := has.(map[string]any)
	if aObject && bObject {
		names := slices.Collect(maps.Keys(a))
		for name := range b {
			if _, ok := a[name]; !ok {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			d.compare(path+"."+name, a[name], b[name])
		}
		return
	}
	x, xList := sent.([]any)
	y, yList := has.([]any)
	if xList && yList && len(x) == len(y) {
		for i := range x {
			d.compare(fmt.Sprintf("%s[%d]", path, i), x[i], y[i])
		}
		return
	}
	if len(d.found) < maxFields {
		d.found = append(d.found, Field{strings.TrimPrefix(path, "."), text(sent), text(has)})
	}
}

func text(v any) string {
	if v == nil {
		return ""
	}
	out, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if s := string(out); len(s) <= maxValue {
		return s
	}
	return strings.ToValidUTF8(string(out[:maxValue]), "") + "…"
}

// addresses are the endpoints of an assignment: an Envoy makes the rest of what it shows
// of one anew.
func addresses(assignment any) any {
	var all []any
	walk(assignment, func(object map[string]any) {
		if at, ok := object["socket_address"].(map[string]any); ok {
			all = append(all, fmt.Sprint(at["address"], ":", at["port_value"]))
		}
	})
	slices.SortFunc(all, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	return all
}

func walk(v any, visit func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(v)
		for _, one := range v {
			walk(one, visit)
		}
	case []any:
		for _, one := range v {
			walk(one, visit)
		}
	}
}
