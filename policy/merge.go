package policy

import (
	"slices"

	"datapunk.dev/controlplane/yamlfile"
)

// merge lays over onto base: maps merge, everything else is replaced, null
// deletes (RFC 7386). A value keeps the place where it was written. A null
// stays in the tree as the grave of what it deleted, so that a key which
// nobody knows is found with or without a value; readers take it for absent.
func merge(base, over *node) *node {
	if base == nil || base.Kind != yamlfile.Map || over.Kind != yamlfile.Map {
		return over
	}
	fields := slices.Clone(base.Fields)
	for _, f := range over.Fields {
		i := base.Find(f.Name)
		switch {
		case i < 0:
			fields = append(fields, f)
		case f.Value.Kind == yamlfile.Map && fields[i].Value.Kind == yamlfile.Map:
			fields[i].Value = merge(fields[i].Value, f.Value)
		default:
			fields[i] = f
		}
	}
	return yamlfile.NewMap(base.Source, base.Width, fields)
}

// without returns n without one of its keys, and that key's value.
func without(n *node, name string) (rest, taken *node) {
	i := n.Find(name)
	if i < 0 {
		return n, nil
	}
	fields := slices.Delete(slices.Clone(n.Fields), i, i+1)
	return yamlfile.NewMap(n.Source, n.Width, fields), n.Fields[i].Value
}

// with returns n with one of its entries replaced.
func with(n *node, f yamlfile.Field) *node {
	fields := slices.Clone(n.Fields)
	fields[n.Find(f.Name)] = f
	return yamlfile.NewMap(n.Source, n.Width, fields)
}

// index records where each key stands.
func index(n *node, key string, at Source, keys map[string]Source) {
	keys[key] = at
	for _, f := range n.Fields {
		if f.Value.Kind != yamlfile.Null {
			index(f.Value, join(key, f.Name), f.Source, keys)
		}
	}
	for i, item := range n.Items {
		index(item, indexed(key, i), item.Source, keys)
	}
}
