package resource

import (
	"iter"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Tree is an immutable map from strings, in their order. A successor shares all
// that it did not change with its predecessor.
type Tree[V any] struct {
	radix *iradix.Tree[V]
}

// NewTree returns an empty tree.
func NewTree[V any]() *Tree[V] { return &Tree[V]{iradix.New[V]()} }

// Get returns the value of a key, and whether there is one.
func (t *Tree[V]) Get(key string) (V, bool) { return t.radix.Get([]byte(key)) }

// Len returns the number of keys.
func (t *Tree[V]) Len() int { return t.radix.Len() }

// All iterates over keys and values in the order of the keys.
func (t *Tree[V]) All() iter.Seq2[string, V] { return t.Below("") }

// Values iterates over the values in the order of their keys.
func (t *Tree[V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		it := t.radix.Root().Iterator()
		for _, v, ok := it.Next(); ok && yield(v); _, v, ok = it.Next() {
		}
	}
}

// Below iterates over those keys that begin with prefix, in their order.
func (t *Tree[V]) Below(prefix string) iter.Seq2[string, V] { return below(t.radix.Root(), prefix) }

// Edit begins a successor of t.
func (t *Tree[V]) Edit() *TreeEdit[V] { return &TreeEdit[V]{t.radix.Txn()} }

// TreeEdit is a successor of a tree in the making. It is not safe for concurrent
// use, and not to be changed while it is iterated over.
type TreeEdit[V any] struct {
	txn *iradix.Txn[V]
}

// Get returns the value of a key as it is now, and whether there is one.
func (e *TreeEdit[V]) Get(key string) (V, bool) { return e.txn.Get([]byte(key)) }

// Put sets the value of a key, and returns what it had.
func (e *TreeEdit[V]) Put(key string, v V) (old V, had bool) { return e.txn.Insert([]byte(key), v) }

// Delete removes a key, and returns what it had.
func (e *TreeEdit[V]) Delete(key string) (old V, had bool) { return e.txn.Delete([]byte(key)) }

// All iterates over keys and values as they are now, in the order of the keys.
func (e *TreeEdit[V]) All() iter.Seq2[string, V] { return e.Below("") }

// Below iterates over those keys that begin with prefix, in their order.
func (e *TreeEdit[V]) Below(prefix string) iter.Seq2[string, V] { return below(e.txn.Root(), prefix) }

// Tree returns what the edit has made. The edit may go on.
func (e *TreeEdit[V]) Tree() *Tree[V] { return &Tree[V]{e.txn.CommitOnly()} }

func below[V any](root *iradix.Node[V], prefix string) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		it := root.Iterator()
		if prefix != "" {
			it.SeekPrefix([]byte(prefix))
		}
		for k, v, ok := it.Next(); ok && yield(string(k), v); k, v, ok = it.Next() {
		}
	}
}
