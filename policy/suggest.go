package policy

import (
	"fmt"
	"strings"
)

// nearest returns the word that somebody who wrote got may have meant, or "".
func nearest(got string, words []string) string {
	plain := func(s string) string {
		return strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(s))
	}
	best, most := "", max(1, len(got)/3)
	for _, w := range words {
		d := 0
		if plain(got) != plain(w) {
			d = edits(strings.ToLower(got), strings.ToLower(w))
		}
		if d <= most && (best == "" || d < most) {
			best, most = w, d
		}
	}
	return best
}

// didYouMean is the hint for a word that is none of words.
func didYouMean(got string, words []string) string {
	if w := nearest(got, words); w != "" {
		return fmt.Sprintf("did you mean %q?", w)
	}
	if len(words) == 0 {
		return ""
	}
	return "known here: " + strings.Join(words, ", ")
}

// edits is how many letters must be put in, taken out, replaced, or swapped
// with their neighbor to make b of a (optimal string alignment).
func edits(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
