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
	fields := slices.Clone(base.fields)
	for _, f := range over.fields {
		i := base.find(f.name)
		switch {
		case i < 0:
			fields = append(fields, f)
		case f.value.kind == object && fields[i].value.kind == object:
			fields[i].value = merge(fields[i].value, f.value)
		default:
			fields[i] = f
		}
	}
	return newMap(base.source, base.width, fields)
}

// without returns n without one of its keys, and that key's value.
func (n *node) without(name string) (rest, taken *node) {
	i := n.find(name)
	if i < 0 {
		return n, nil
	}
	fields := slices.Delete(slices.Clone(n.fields), i, i+1)
	return newMap(n.source, n.width, fields), n.fields[i].value
}

// with returns n with one of its entries replaced.
func (n *node) with(f field) *node {
	fields := slices.Clone(n.fields)
	fields[n.find(f.name)] = f
	return newMap(n.source, n.width, fields)
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
