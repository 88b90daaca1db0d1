package file

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"datapunk.dev/controlplane/watch"
)

// Problem is a mistake in the file, at the place where it was made.
type Problem struct {
	File         string
	Line, Column int // from 1; 0: the file as a whole
	Message      string
}

// Error implements error as file:line:column: message.
func (p *Problem) Error() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, p.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// MaxWeight is the greatest weight of an instance; Consul has the same limit.
const MaxWeight = 65535

// Parse reads a file catalog. All mistakes are reported at once: the error
// joins a [Problem] for each, in the order of the file.
func Parse(name string, data []byte) ([]*watch.Service, error) {
	p := &parser{file: name}
	services := p.document(data)
	if len(p.problems) > 0 {
		slices.SortStableFunc(p.problems, func(a, b *Problem) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		errs := make([]error, len(p.problems))
		for i, problem := range p.problems {
			errs[i] = problem
		}
		return nil, errors.Join(errs...)
	}
	return services, nil
}

type parser struct {
	file     string
	problems []*Problem
}

func (p *parser) errorf(n *yaml.Node, format string, args ...any) {
	p.problems = append(p.problems, &Problem{p.file, n.Line, n.Column, fmt.Sprintf(format, args...)})
}

func (p *parser) document(data []byte) []*watch.Service {
	var docs []yaml.Node
	if err := yaml.Load(data, &docs, yaml.WithAllDocuments()); err != nil {
		p.syntax(err)
		return nil
	}
	switch {
	case len(docs) == 0 || len(bytes.TrimSpace(data)) == 0:
		p.errorf(&yaml.Node{}, "the file is empty: a catalog without services is `services: {}`")
		return nil
	case len(docs) > 1:
		p.errorf(&docs[1], "a second document: a catalog is one")
		return nil
	}
	root := &docs[0]
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	var services []*watch.Service
	seen := false
	p.mapping(root, "the catalog", func(key, value *yaml.Node) {
		switch {
		case key.Value == "services":
			seen = true
			services = p.services(value)
		case strings.HasPrefix(key.Value, "x-"): // anchors live here
		default:
			p.errorf(key, "unknown key %q: a catalog has services", key.Value)
		}
	})
	if !seen && len(p.problems) == 0 {
		p.errorf(root, "the catalog has no services: one without any is `services: {}`")
	}
	return services
}

// syntax reports what the YAML parser refused.
func (p *parser) syntax(err error) {
	var one *yaml.LoadError
	if errors.As(err, &one) {
		message := one.Message
		if one.ContextMsg != "" {
			message = one.ContextMsg + ": " + message
		}
		p.problems = append(p.problems, &Problem{p.file, one.Mark.Line, one.Mark.Column, message})
		return
	}
	p.problems = append(p.problems, &Problem{File: p.file, Message: err.Error()})
}

func (p *parser) services(n *yaml.Node) []*watch.Service {
	var services []*watch.Service
	p.mapping(n, "services", func(key, value *yaml.Node) {
		if key.Value == "" {
			p.errorf(key, "a service has no name")
			return
		}
		services = append(services, p.service(key.Value, value))
	})
	return services
}

func (p *parser) service(name string, n *yaml.Node) *watch.Service {
	s := &watch.Service{Name: name}
	n = alias(n)
	if n.Kind != yaml.SequenceNode {
		p.errorf(n, "service %s: must be a list of instances, not %s", name, kind(n))
		return s
	}
	lines := make(map[string]int)
	for _, item := range n.Content {
		i := p.instance(item)
		if i == nil {
			continue
		}
		if line, ok := lines[i.ID]; ok {
			p.errorf(item, "service %s: id %q is taken by the instance in line %d", name, i.ID, line)
			continue
		}
		lines[i.ID] = item.Line
		s.Instances = append(s.Instances, i)
	}
	s.Instances = watch.Distinct(s.Instances)
	return s
}

// instance returns nil if the instance has a mistake.
func (p *parser) instance(n *yaml.Node) *watch.Instance {
	before := len(p.problems)
	i := &watch.Instance{Weight: 1}
	missing := map[string]bool{"id": true, "address": true, "port": true}
	p.mapping(n, "an instance", func(key, value *yaml.Node) {
		delete(missing, key.Value)
		switch key.Value {
		case "id":
			if i.ID = p.text(value, "id"); i.ID == "" {
				p.errorf(value, "id: must not be empty")
			}
		case "address":
			i.Address = p.address(value)
		case "port":
			i.Port = uint16(p.number(value, "port", 1, 65535))
		case "weight":
			i.Weight = uint32(p.number(value, "weight", 0, MaxWeight))
		case "health":
			i.Health = p.health(value)
		case "zone":
			i.Zone = p.text(value, "zone")
		case "tags":
			i.Tags = p.tags(value)
		case "meta":
			i.Meta, i.MeshPort = p.meta(value)
		default:
			p.errorf(key, "unknown key %q: an instance has id, address, port, weight, health, zone, tags and meta", key.Value)
		}
	})
	if len(p.problems) == before && len(missing) > 0 {
		p.errorf(n, "an instance needs %s", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
	}
	if len(p.problems) > before {
		return nil
	}
	return i
}

func (p *parser) address(n *yaml.Node) netip.Addr {
	text := p.text(n, "address")
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || a.Zone() != "":
		p.errorf(n, "address: %q is not an IP address", text)
	case a.IsUnspecified():
		p.errorf(n, "address: nothing can connect to %s", a)
	}
	return a.Unmap()
}

func (p *parser) health(n *yaml.Node) watch.Health {
	text := p.text(n, "health")
	for _, h := range []watch.Health{watch.Passing, watch.Warning, watch.Maintenance, watch.Critical} {
		if text == h.String() {
			return h
		}
	}
	p.errorf(n, "health: %q is none of passing, warning, critical, maintenance", text)
	return watch.Critical
}

func (p *parser) tags(n *yaml.Node) []string {
	n = alias(n)
	if n.Kind != yaml.SequenceNode {
		p.errorf(n, "tags: must be a list, not %s", kind(n))
		return nil
	}
	var tags []string
	for _, item := range n.Content {
		tags = append(tags, p.text(item, "tags"))
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

func (p *parser) meta(n *yaml.Node) (map[string]string, uint16) {
	meta := make(map[string]string)
	var meshPort uint16
	p.mapping(n, "meta", func(key, value *yaml.Node) {
		meta[key.Value] = p.text(value, "meta "+key.Value)
		if key.Value == watch.MetaMeshPort {
			meshPort = uint16(p.number(value, "meta mesh_port", 1, 65535))
		}
	})
	return meta, meshPort
}

// mapping calls each for every entry of n.
func (p *parser) mapping(n *yaml.Node, what string, each func(key, value *yaml.Node)) {
	n = alias(n)
	if n.Kind != yaml.MappingNode {
		p.errorf(n, "%s: must be a mapping, not %s", what, kind(n))
		return
	}
	lines := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			p.errorf(key, "%s: a key must be plain text", what)
			continue
		}
		if line, ok := lines[key.Value]; ok {
			p.errorf(key, "%s: key %q is in line %d already", what, key.Value, line)
			continue
		}
		lines[key.Value] = key.Line
		each(key, value)
	}
}

// text returns a scalar as it was written: an unquoted number is text too.
func (p *parser) text(n *yaml.Node, what string) string {
	n = alias(n)
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		p.errorf(n, "%s: must be text, not %s", what, kind(n))
		return ""
	}
	return n.Value
}

func (p *parser) number(n *yaml.Node, what string, low, high uint64) uint64 {
	n = alias(n)
	v, err := strconv.ParseUint(n.Value, 10, 32)
	if n.Kind != yaml.ScalarNode || err != nil || v < low || v > high {
		p.errorf(n, "%s: must be a number from %d to %d, not %s", what, low, high, kind(n))
		return low
	}
	return v
}

// alias follows an alias; a chain of them cannot exist in YAML, and one that
// holds itself ends at a kind that no reader above takes twice.
func alias(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// kind says what an operator sees in place of what was wanted.
func kind(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Value == "":
		return "nothing"
	default:
		return strconv.Quote(n.Value)
	}
}
