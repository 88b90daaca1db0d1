package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/resource"
)

// FieldChange is a field of a resource that differs. What is not there is empty.
type FieldChange struct {
	Path   string `json:"path"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// maxFields bounds how many fields of one resource are told, and maxValue how much of
// each.
const (
	maxFields = 50
	maxValue  = 200
)

// Message decodes a resource.
func Message(r *resource.Resource) (proto.Message, error) {
	m, err := anypb.UnmarshalNew(&anypb.Any{TypeUrl: r.Type.URL(), Value: r.Body}, proto.UnmarshalOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Type, r.Name, err)
	}
	return m, nil
}

// fieldsOf are the fields in which two resources of one name differ.
func fieldsOf(before, after *resource.Resource) ([]FieldChange, error) {
	a, err := Message(before)
	if err != nil {
		return nil, err
	}
	b, err := Message(after)
	if err != nil {
		return nil, err
	}
	d := &differ{}
	d.message("", a.ProtoReflect(), b.ProtoReflect())
	return d.all, nil
}

type differ struct{ all []FieldChange }

func (d *differ) found(path, before, after string) {
	if before != after && len(d.all) < maxFields {
		d.all = append(d.all, FieldChange{strings.TrimPrefix(path, "."), shorten(before), shorten(after)})
	}
}

// message compares two messages of one type.
func (d *differ) message(path string, a, b protoreflect.Message) {
	if a.Descriptor().FullName() == "google.protobuf.Any" {
		d.wrapped(path, a, b)
		return
	}
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		at := path + "." + string(f.Name())
		inA, inB := a.Has(f), b.Has(f)
		switch {
		case !inA && !inB:
		case inA != inB:
			d.found(at, field(a, f), field(b, f))
		case f.IsMap():
			d.entries(at, f, a.Get(f).Map(), b.Get(f).Map())
		case f.IsList():
			d.list(at, f, a.Get(f).List(), b.Get(f).List())
		case f.Message() != nil && !leaf(f.Message()):
			d.message(at, a.Get(f).Message(), b.Get(f).Message())
		default:
			d.found(at, field(a, f), field(b, f))
		}
	}
}

// wrapped compares what two Anys hold.
func (d *differ) wrapped(path string, a, b protoreflect.Message) {
	x, errA := anypb.UnmarshalNew(a.Interface().(*anypb.Any), proto.UnmarshalOptions{})
	y, errB := anypb.UnmarshalNew(b.Interface().(*anypb.Any), proto.UnmarshalOptions{})
	if errA != nil || errB != nil || x.ProtoReflect().Descriptor() != y.ProtoReflect().Descriptor() {
		d.found(path, text(a), text(b))
		return
	}
	d.message(path, x.ProtoReflect(), y.ProtoReflect())
}

func (d *differ) entries(path string, f protoreflect.FieldDescriptor, a, b protoreflect.Map) {
	keys := make(map[string]protoreflect.MapKey)
	for _, m := range []protoreflect.Map{a, b} {
		m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool { keys[k.String()] = k; return true })
	}
	names := make([]string, 0, len(keys))
	for name := range keys {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		k, at := keys[name], path+"["+name+"]"
		switch inA, inB := a.Has(k), b.Has(k); {
		case inA && inB && f.MapValue().Message() != nil:
			d.message(at, a.Get(k).Message(), b.Get(k).Message())
		case inA && inB:
			d.found(at, a.Get(k).String(), b.Get(k).String())
		case inA:
			d.found(at, value(f.MapValue(), a.Get(k)), "")
		default:
			d.found(at, "", value(f.MapValue(), b.Get(k)))
		}
	}
}

// list compares items by their names, if they have any that are distinct, else by
// their places.
func (d *differ) list(path string, f protoreflect.FieldDescriptor, a, b protoreflect.List) {
	namesA, namesB := names(f, a), names(f, b)
	if namesA == nil || namesB == nil {
		for i := range max(a.Len(), b.Len()) {
			at := fmt.Sprintf("%s[%d]", path, i)
			switch {
			case i >= a.Len():
				d.found(at, "", value(f, b.Get(i)))
			case i >= b.Len():
				d.found(at, value(f, a.Get(i)), "")
			case f.Message() != nil && !leaf(f.Message()):
				d.message(at, a.Get(i).Message(), b.Get(i).Message())
			default:
				d.found(at, value(f, a.Get(i)), value(f, b.Get(i)))
			}
		}
		return
	}
	inB := make(map[string]int, len(namesB))
	for i, name := range namesB {
		inB[name] = i
	}
	seen := make(map[string]bool, len(namesA))
	for i, name := range namesA {
		seen[name] = true
		at := path + "[" + name + "]"
		if j, ok := inB[name]; ok {
			d.message(at, a.Get(i).Message(), b.Get(j).Message())
		} else {
			d.found(at, value(f, a.Get(i)), "")
		}
	}
	for j, name := range namesB {
		if !seen[name] {
			d.found(path+"["+name+"]", "", value(f, b.Get(j)))
		}
	}
}

// names are the names of the items of a list; nil if one has none, or two have one.
func names(f protoreflect.FieldDescriptor, l protoreflect.List) []string {
	if f.Message() == nil || leaf(f.Message()) {
		return nil
	}
	name := f.Message().Fields().ByName("name")
	if name == nil || name.Kind() != protoreflect.StringKind {
		return nil
	}
	all := make([]string, 0, l.Len())
	seen := make(map[string]bool, l.Len())
	for i := range l.Len() {
		n := l.Get(i).Message().Get(name).String()
		if n == "" || seen[n] {
			return nil
		}
		seen[n] = true
		all = append(all, n)
	}
	return all
}

// leaf reports whether a message is one value to people: a duration, a number that
// may be missing.
func leaf(m protoreflect.MessageDescriptor) bool {
	name := m.FullName()
	return name.Parent() == "google.protobuf" && name != "google.protobuf.Any" || name == "envoy.config.core.v3.Address" || name == "envoy.config.core.v3.DataSource"
}

func field(m protoreflect.Message, f protoreflect.FieldDescriptor) string {
	if !m.Has(f) {
		return ""
	}
	v := m.Get(f)
	switch {
	case f.IsList():
		texts := make([]string, 0, v.List().Len())
		for i := range v.List().Len() {
			texts = append(texts, value(f, v.List().Get(i)))
		}
		return "[" + strings.Join(texts, ", ") + "]"
	case f.IsMap():
		var texts []string
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			texts = append(texts, k.String()+": "+value(f.MapValue(), v))
			return true
		})
		slices.Sort(texts)
		return "{" + strings.Join(texts, ", ") + "}"
	}
	return value(f, v)
}

func value(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case f.Message() != nil:
		return text(v.Message())
	case f.Kind() == protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
	case f.Kind() == protoreflect.BytesKind:
		return fmt.Sprintf("(%d bytes)", len(v.Bytes()))
	}
	return v.String()
}

// text is a message in one line.
func text(m protoreflect.Message) string {
	raw, err := protojson.Marshal(m.Interface())
	if err != nil {
		return "(" + string(m.Descriptor().Name()) + ")"
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return string(raw)
	}
	return strings.Trim(out.String(), `"`)
}

func shorten(s string) string {
	if len(s) <= maxValue {
		return s
	}
	return strings.ToValidUTF8(s[:maxValue], "") + fmt.Sprintf("… (%d bytes)", len(s))
}
