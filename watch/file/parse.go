package file

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"datapunk.dev/controlplane/spelling"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/yamlfile"
)

// maxWeight is the greatest weight of an instance; Consul has the same limit.
const maxWeight = 65535

// Parse reads a file catalog. All mistakes are reported at once: the error is
// [yamlfile.Problems].
func Parse(name string, data []byte) ([]*watch.Service, error) {
	f := yamlfile.File{Name: name, Data: data}
	p := &parser{report: yamlfile.NewReport(f)}
	services := p.document(f)
	if problems, _ := p.report.Split(); len(problems) > 0 {
		return nil, problems
	}
	return services, nil
}

type parser struct {
	report *yamlfile.Report
	count  int // of the mistakes
}

// fail reports a mistake in a value.
func (p *parser) fail(n *yamlfile.Node, code yamlfile.Code, format string, args ...any) {
	p.add(yamlfile.Problem{Source: n.Source, Width: n.Width, Code: code, Message: fmt.Sprintf(format, args...)})
}

// failKey reports a mistake in a key.
func (p *parser) failKey(f yamlfile.Field, code yamlfile.Code, hint, format string, args ...any) {
	p.add(yamlfile.Problem{Source: f.Source, Width: len([]rune(f.Name)), Code: code, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (p *parser) add(problem yamlfile.Problem) {
	p.count++
	p.report.Add(problem)
}

func (p *parser) document(f yamlfile.File) []*watch.Service {
	root := p.report.Parse(f, "a catalog is one document")
	switch {
	case p.report.Broken():
		return nil
	case root == nil || root.Kind == yamlfile.Null:
		p.add(yamlfile.Problem{
			Source: yamlfile.Source{File: f.Name, Line: 1, Column: 1}, Width: 1, Code: yamlfile.CodeMissing,
			Message: "the file is empty", Hint: "a catalog without services is services: {}",
		})
		return nil
	}
	var services []*watch.Service
	seen := false
	p.mapping(root, "the catalog", []string{"services"}, func(f yamlfile.Field) {
		seen = true
		services = p.services(f.Value)
	})
	if !seen && p.count == 0 {
		p.fail(root, yamlfile.CodeMissing, "the catalog has no services: one without any is services: {}")
	}
	return services
}

func (p *parser) services(n *yamlfile.Node) []*watch.Service {
	var services []*watch.Service
	p.mapping(n, "services", nil, func(f yamlfile.Field) {
		if f.Name == "" {
			p.failKey(f, yamlfile.CodeValue, "", "a service has no name")
			return
		}
		services = append(services, p.service(f.Name, f.Value))
	})
	return services
}

func (p *parser) service(name string, n *yamlfile.Node) *watch.Service {
	s := &watch.Service{Name: name}
	if n.Kind != yamlfile.List {
		p.fail(n, yamlfile.CodeType, "service %s: must be a list of instances, not %s", name, found(n))
		return s
	}
	lines := make(map[string]int)
	for _, item := range n.Items {
		i := p.instance(item)
		if i == nil {
			continue
		}
		if line, ok := lines[i.ID]; ok {
			p.fail(item, yamlfile.CodeDuplicateKey, "service %s: id %q is taken by the instance in line %d", name, i.ID, line)
			continue
		}
		lines[i.ID] = item.Source.Line
		s.Instances = append(s.Instances, i)
	}
	s.SetInstances(s.Instances)
	return s
}

// instance returns nil if the instance has a mistake.
func (p *parser) instance(n *yamlfile.Node) *watch.Instance {
	before := p.count
	i := &watch.Instance{Weight: 1}
	p.mapping(n, "an instance", []string{"id", "address", "port", "weight", "health", "datacenter", "zone", "tags", "meta", "node_meta"}, func(f yamlfile.Field) {
		value := f.Value
		switch f.Name {
		case "id":
			if i.ID = p.text(value, "id"); i.ID == "" {
				p.fail(value, yamlfile.CodeValue, "id: must not be empty")
			}
		case "address":
			i.Address, i.Host = p.address(value)
		case "port":
			i.Port = uint16(p.number(value, "port", 1, 65535))
		case "weight":
			i.Weight = uint32(p.number(value, "weight", 0, maxWeight))
		case "health":
			i.Health = p.health(value)
		case "datacenter":
			i.Datacenter = p.text(value, "datacenter")
		case "zone":
			i.Zone = p.text(value, "zone")
		case "tags":
			i.Tags = p.tags(value)
		case "meta":
			i.Meta, i.MeshPort = p.meta(value)
		case "node_meta":
			i.NodeMeta, _ = p.meta(value)
		}
	})
	if p.count > before {
		return nil
	}
	var missing []string
	for _, name := range []string{"address", "id", "port"} {
		if n.Find(name) < 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		p.fail(n, yamlfile.CodeMissing, "an instance needs %s", strings.Join(missing, ", "))
		return nil
	}
	return i
}

func (p *parser) address(n *yamlfile.Node) (netip.Addr, string) {
	text := p.text(n, "address")
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		host, reason := watch.Hostname(text)
		if reason != "" {
			p.fail(n, yamlfile.CodeValue, "address: %q %s", text, reason)
		}
		return netip.Addr{}, host
	case a.Zone() != "":
		p.fail(n, yamlfile.CodeValue, "address: %q is not an IP address that others can reach", text)
	case a.IsUnspecified():
		p.fail(n, yamlfile.CodeValue, "address: nothing can connect to %s", a)
	}
	return a.Unmap(), ""
}

func (p *parser) health(n *yamlfile.Node) watch.Health {
	text := p.text(n, "health")
	var words []string
	for _, h := range []watch.Health{watch.Passing, watch.Warning, watch.Critical, watch.Maintenance} {
		if text == h.String() {
			return h
		}
		words = append(words, h.String())
	}
	p.add(yamlfile.Problem{
		Source: n.Source, Width: n.Width, Code: yamlfile.CodeWord, Hint: spelling.DidYouMean(text, words),
		Message: fmt.Sprintf("health: %q is none of %s", text, strings.Join(words, ", ")),
	})
	return watch.Critical
}

func (p *parser) tags(n *yamlfile.Node) []string {
	if n.Kind != yamlfile.List {
		p.fail(n, yamlfile.CodeType, "tags: must be a list, not %s", found(n))
		return nil
	}
	var tags []string
	for _, item := range n.Items {
		tags = append(tags, p.text(item, "tags"))
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

func (p *parser) meta(n *yamlfile.Node) (map[string]string, uint16) {
	meta := make(map[string]string)
	var meshPort uint16
	p.mapping(n, "meta", nil, func(f yamlfile.Field) {
		meta[f.Name] = p.text(f.Value, "meta "+f.Name)
		if f.Name == watch.MetaMeshPort {
			meshPort = uint16(p.number(f.Value, "meta mesh_port", 1, 65535))
		}
	})
	return meta, meshPort
}

// mapping calls each for every entry of n. Where known is nil, the keys are
// names; else others than those are refused, but for the operators' own.
func (p *parser) mapping(n *yamlfile.Node, what string, known []string, each func(yamlfile.Field)) {
	if n.Kind != yamlfile.Map {
		p.fail(n, yamlfile.CodeType, "%s: must be a mapping, not %s", what, found(n))
		return
	}
	for _, f := range n.Fields {
		switch {
		case known == nil || slices.Contains(known, f.Name):
			each(f)
		case yamlfile.Free(f.Name): // anchors live here
		default:
			p.failKey(f, yamlfile.CodeUnknownKey, spelling.DidYouMean(f.Name, known), "unknown key %q in %s", f.Name, what)
		}
	}
}

// text returns a scalar as it was written: an unquoted number is text too.
func (p *parser) text(n *yamlfile.Node, what string) string {
	if n.Kind != yamlfile.Scalar {
		p.fail(n, yamlfile.CodeType, "%s: must be text, not %s", what, found(n))
		return ""
	}
	return n.Text
}

func (p *parser) number(n *yamlfile.Node, what string, low, high uint64) uint64 {
	v, err := strconv.ParseUint(n.Text, 10, 32)
	if n.Kind == yamlfile.Scalar && err == nil && low <= v && v <= high {
		return v
	}
	code := yamlfile.CodeType
	if _, err := strconv.ParseInt(n.Text, 10, 64); err == nil {
		code = yamlfile.CodeRange
	}
	p.fail(n, code, "%s: must be a number from %d to %d, not %s", what, low, high, found(n))
	return low
}

// found says what an operator sees in place of what was wanted.
func found(n *yamlfile.Node) string {
	if n.Kind == yamlfile.Scalar {
		return strconv.Quote(n.Text)
	}
	return n.Kind.String()
}
