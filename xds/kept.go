package xds

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"datapunk.dev/controlplane/resource"
)

// What proxies refused outlives the process: else a proxy that is new after a restart
// would be sent the content that its fellows refused, and run with nothing. Kept are
// the contents in quarantine with what is served in their place, and what each proxy
// refused with what it had before. No secret is among them.

// maxKeptBodies bounds the contents that are kept, in bytes: those in quarantine come
// first, then the refusals of single proxies.
const maxKeptBodies = 64 << 20

type keptRefusals struct {
	Quarantined []keptQuarantine `json:"quarantined"`
	Refused     []keptNack       `json:"refused"`
	Contents    []keptContent    `json:"contents"` // that replace those
}

type keptQuarantine struct {
	Kind    resource.Kind `json:"kind"`
	Type    string        `json:"type"`
	Name    string        `json:"name"`
	Version string        `json:"version"`
	Depends string        `json:"depends"`
	Source  string        `json:"source,omitempty"`
	Message string        `json:"message"`
	Since   time.Time     `json:"since"`
	Instead []string      `json:"instead,omitempty"` // versions
}

type keptNack struct {
	Node    string        `json:"node"`
	Kind    resource.Kind `json:"kind"`
	Type    string        `json:"type"`
	Name    string        `json:"name"`
	Version string        `json:"version"`
	Depends string        `json:"depends"`
	Before  string        `json:"before,omitempty"` // version
	Nack    *Nack         `json:"nack"`
}

type keptContent struct {
	Type    string    `json:"type"`
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Keys    []string  `json:"keys,omitempty"`
	Refs    []keptRef `json:"refs,omitempty"`
	Body    []byte    `json:"body"`
}

type keptRef struct {
	Type string `json:"type"`
	Name string `json:"name"`
}

// contentKey tells kept contents apart.
type contentKey struct{ typ, name, version string }

// keeping gathers what is to be kept.
type keeping struct {
	kept  keptRefusals
	have  map[contentKey]bool
	bytes int
}

// content keeps a resource, and returns its version; "" if it cannot be kept.
func (k *keeping) content(r *resource.Resource) string {
	if r == nil || r.Type == resource.Secret {
		return ""
	}
	key := contentKey{r.Type.String(), r.Name, r.Version}
	if k.have[key] {
		return r.Version
	}
	if k.bytes += len(r.Body); k.bytes > maxKeptBodies {
		return ""
	}
	k.have[key] = true
	c := keptContent{Type: key.typ, Name: r.Name, Version: r.Version, Keys: r.Keys, Body: r.Body}
	for _, ref := range r.Refs {
		c.Refs = append(c.Refs, keptRef{ref.Type.String(), ref.Name})
	}
	k.kept.Contents = append(k.kept.Contents, c)
	return r.Version
}

// Refusals returns what [Server.Recall] of another process takes: what is in
// quarantine and what replaces it, what was refused and what was had before. It is
// JSON with a line for each.
func (s *Server) Refusals() ([]byte, error) {
	k := keeping{have: make(map[contentKey]bool)}
	s.mu.Lock()
	for _, q := range s.quarantines.list {
		if q.content.typ == resource.Secret {
			continue
		}
		one := keptQuarantine{
			Kind: q.content.kind, Type: q.content.typ.String(), Name: q.content.name, Version: q.content.version,
			Depends: hexOf(q.depends), Source: q.source, Message: q.message, Since: q.since.UTC(),
		}
		for _, r := range q.candidates() {
			if v := k.content(r); v != "" {
				one.Instead = append(one.Instead, v)
			}
		}
		k.kept.Quarantined = append(k.kept.Quarantined, one)
	}
	for _, node := range slices.Sorted(maps.Keys(s.memory.nodes)) {
		refused := s.memory.nodes[node].refused
		for _, ref := range slices.SortedFunc(maps.Keys(refused), compareRefs) {
			p := refused[ref]
			if ref.Type == resource.Secret || p.nack == nil || p.nack.Cause != "" {
				continue // it is tried again on each stream
			}
			k.kept.Refused = append(k.kept.Refused, keptNack{
				Node: node, Kind: p.kind, Type: ref.Type.String(), Name: ref.Name, Version: p.version,
				Depends: hexOf(p.depends), Before: k.content(p.before), Nack: p.nack,
			})
		}
	}
	s.mu.Unlock()
	return k.kept.encode()
}

func compareRefs(a, b resource.Ref) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
}

func hexOf(n uint64) string { return strconv.FormatUint(n, 16) }

// encode writes a line for each thing.
func (k *keptRefusals) encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("{")
	for i, list := range []struct {
		name  string
		items []any
	}{{"quarantined", anys(k.Quarantined)}, {"refused", anys(k.Refused)}, {"contents", anys(k.Contents)}} {
		fmt.Fprintf(&b, "%s%q: [", []string{"", ",\n"}[min(i, 1)], list.name)
		for j, item := range list.items {
			line, err := json.Marshal(item)
			if err != nil {
				return nil, err
			}
			b.WriteString([]string{"\n", ",\n"}[min(j, 1)])
			b.Write(line)
		}
		b.WriteString("]")
	}
	b.WriteString("}\n")
	return b.Bytes(), nil
}

func anys[T any](list []T) []any {
	all := make([]any, len(list))
	for i, v := range list {
		all[i] = v
	}
	return all
}

// Recall takes what [Server.Refusals] of an earlier process returned, of which
// nothing is believed if a part cannot be. It is called before the first
// [Server.Publish], and before a stream may begin.
func (s *Server) Recall(data []byte) error {
	var kept keptRefusals
	if err := json.Unmarshal(data, &kept); err != nil {
		return fmt.Errorf("refusals: %w", err)
	}
	contents, err := kept.contents()
	if err != nil {
		return err
	}
	var list []*quarantine
	for _, q := range kept.Quarantined {
		typ, err := typeNamed(q.Type)
		if err != nil {
			return err
		}
		depends, err := strconv.ParseUint(q.Depends, 16, 64)
		if err != nil || q.Name == "" || q.Version == "" || q.Kind > resource.Proxyless {
			return fmt.Errorf("refusals: %s %q in quarantine is not what was kept", q.Type, q.Name)
		}
		one := &quarantine{
			content: content{kind: q.Kind, typ: typ, name: q.Name, version: q.Version}, depends: depends,
			source: q.Source, message: q.Message, since: q.Since, idle: time.Now(),
		}
		for _, version := range q.Instead {
			r := contents[contentKey{q.Type, q.Name, version}]
			if r == nil {
				return fmt.Errorf("refusals: there is no version %s of %s %q", version, q.Type, q.Name)
			}
			one.instead = append(one.instead, r)
		}
		list = append(list, one)
	}
	type refusal struct {
		node string
		ref  resource.Ref
		past *pastNack
	}
	var refused []refusal
	for _, n := range kept.Refused {
		typ, err := typeNamed(n.Type)
		if err != nil {
			return err
		}
		depends, err := strconv.ParseUint(n.Depends, 16, 64)
		before := contents[contentKey{n.Type, n.Name, n.Before}]
		if err != nil || n.Nack == nil || n.Kind > resource.Proxyless || n.Before != "" && before == nil {
			return fmt.Errorf("refusals: that of %s %q by %q is not what was kept", n.Type, n.Name, n.Node)
		}
		refused = append(refused, refusal{n.Node, typ.Ref(n.Name), &pastNack{kind: n.Kind, version: n.Version, depends: depends, before: before, nack: n.Nack, recalled: true}})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quarantines.list = append(s.quarantines.list, list...)
	s.metrics.quarantined.Set(float64(len(s.quarantines.list)))
	for _, r := range refused {
		s.memory.add(r.node, r.ref, r.past)
		s.tally.recall(content{kind: r.past.kind, typ: r.ref.Type, name: r.ref.Name, version: r.past.version}, r.past.depends, r.node)
	}
	return nil
}

func (k *keptRefusals) contents() (map[contentKey]*resource.Resource, error) {
	all := make(map[contentKey]*resource.Resource, len(k.Contents))
	for _, c := range k.Contents {
		typ, err := typeNamed(c.Type)
		if err != nil {
			return nil, err
		}
		if c.Name == "" || c.Version == "" {
			return nil, fmt.Errorf("refusals: a %s has no name or version", c.Type)
		}
		r := &resource.Resource{Type: typ, Name: c.Name, Version: c.Version, Body: c.Body, Keys: c.Keys}
		for _, ref := range c.Refs {
			to, ok := resource.TypeNamed(ref.Type)
			if !ok {
				return nil, fmt.Errorf("refusals: there is no type %q", ref.Type)
			}
			r.Refs = append(r.Refs, to.Ref(ref.Name))
		}
		all[contentKey{c.Type, c.Name, c.Version}] = r
	}
	return all, nil
}

// typeNamed returns a type whose contents are kept.
func typeNamed(name string) (resource.Type, error) {
	t, ok := resource.TypeNamed(name)
	if !ok || t == resource.Secret {
		return t, fmt.Errorf("refusals: no content of type %q is kept", name)
	}
	return t, nil
}

// recall counts a refusal of an earlier process.
func (t *tally) recall(c content, depends uint64, node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.records[c]
	if r == nil {
		r = &record{nacked: make(map[uint64][]string)}
		t.records[c] = r
		t.open[c.typ].Add(1)
	}
	if len(r.nacked[depends]) < t.quorum && !slices.Contains(r.nacked[depends], node) {
		r.nacked[depends] = append(r.nacked[depends], node)
	}
}

// keepLater says that there is something else to keep.
func (s *Server) keepLater() {
	if s.options.OnRefusals != nil {
		s.options.OnRefusals()
	}
}
