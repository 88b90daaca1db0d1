// Package spelling finds the word that somebody may have meant who wrote
// another: a key of a file, a value, the name of a service. What is said to operators
// it spells as they would.
package spelling

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Nearest returns the word that somebody who wrote got may have meant, or "".
// Case, and the dashes, underscores and blanks of a word, are no difference.
func Nearest(got string, words iter.Seq[string]) string {
	var d distance
	best, least := "", 1+max(1, len(got)/3)
	for w := range words {
		n := 0
		if !alike(got, w) {
			n = d.edits(got, w, least)
		}
		if n < least {
			best, least = w, n
		}
	}
	return best
}

// DidYouMean is the hint for a word that is none of words.
func DidYouMean(got string, words []string) string {
	if w := Nearest(got, slices.Values(words)); w != "" {
		return fmt.Sprintf("did you mean %q?", w)
	}
	if len(words) == 0 {
		return ""
	}
	return "known here: " + strings.Join(words, ", ")
}

// alike reports whether two words differ in case and in what joins their parts
// alone.
func alike(a, b string) bool {
	for {
		a, b = strings.TrimLeft(a, "-_ "), strings.TrimLeft(b, "-_ ")
		if a == "" || b == "" {
			return a == b
		}
		if lower(a[0]) != lower(b[0]) {
			return false
		}
		a, b = a[1:], b[1:]
	}
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		b += 'a' - 'A'
	}
	return b
}

// distance has the rows of the last computation, to be used again: one word is
// compared with all the names of a catalog.
type distance struct{ before, last, row []int }

// edits is how many letters must be put in, taken out, replaced, or swapped
// with their neighbor to make b of a (optimal string alignment), or limit if
// it is not less than that.
func (d *distance) edits(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= limit {
		return limit
	}
	if len(d.row) <= len(b) {
		n := 2 * (len(b) + 1)
		d.before, d.last, d.row = make([]int, n), make([]int, n), make([]int, n)
	}
	for j := range len(b) + 1 {
		d.last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row := d.before, d.last, d.row
		row[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if lower(a[i-1]) == lower(b[j-1]) {
				cost = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && lower(a[i-1]) == lower(b[j-2]) && lower(a[i-2]) == lower(b[j-1]) {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		// A swap reaches over one row, so two of them must be too far.
		if least >= limit && slices.Min(last[:len(b)+1]) >= limit {
			return limit
		}
		d.before, d.last, d.row = last, row, before
	}
	return min(d.last[len(b)], limit)
}
