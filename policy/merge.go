package policy

import "slices"

// merge lays over onto base: maps merge, everything else is replaced, null
// deletes (RFC 7386). A value keeps the place where it was written. A null
// stays in the tree as the grave of what it deleted, so that a key which
// nobody knows is found with or without a value; readers take it for absent.
func merge(base, over *node) *node {
	if base == nil || base.kind != object || over.kind != object {
		return over
	}
	merged := *base
	merged.fields = slices.Clone(base.fields)
	for _, f := range over.fields {
		i := slices.IndexFunc(merged.fields, func(had field) bool { return had.name == f.name })
		switch {
		case i < 0:
			merged.fields = append(merged.fields, f)
		case f.value.kind == object && merged.fields[i].value.kind == object:
			merged.fields[i].value = merge(merged.fields[i].value, f.value)
		default:
			merged.fields[i] = f
		}
	}
	return &merged
}

// without returns n without one of its keys, and that key's value.
func (n *node) without(name string) (rest, taken *node) {
	i := slices.IndexFunc(n.fields, func(f field) bool { return f.name == name })
	if i < 0 {
		return n, nil
	}
	copied := *n
	copied.fields = slices.Delete(slices.Clone(n.fields), i, i+1)
	return &copied, n.fields[i].value
}

// with returns n with one of its entries replaced.
func (n *node) with(f field) *node {
	copied := *n
	copied.fields = slices.Clone(n.fields)
	for i := range copied.fields {
		if copied.fields[i].name == f.name {
			copied.fields[i] = f
		}
	}
	return &copied
}

// index records where each key stands.
func (n *node) index(key string, at Source, keys map[string]Source) {
	keys[key] = at
	for _, f := range n.fields {
		if f.value.kind != null {
			f.value.index(join(key, f.name), f.source, keys)
		}
	}
	for i, item := range n.items {
		item.index(indexed(key, i), item.source, keys)
	}
}
