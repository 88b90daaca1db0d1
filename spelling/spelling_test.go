package spelling_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"datapunk.dev/controlplane/spelling"
)

func TestTheWordThatWasMeant(t *testing.T) {
	keys := []string{"max_connections", "max_requests", "policy", "path"}
	for got, want := range map[string]string{
		"max_conections":  "max_connections", // a letter too few
		"max_requestss":   "max_requests",    // too many
		"max_rebuests":    "max_requests",    // another
		"ploicy":          "policy",          // two swapped
		"maxConnections":  "max_connections", // another way to join words
		"MAX-CONNECTIONS": "max_connections",
		"max connections": "max_connections",
		"paht":            "path",
		"port":            "", // two of four letters is another word
		"zebra":           "",
		"":                "",
	} {
		if word := spelling.Nearest(got, slices.Values(keys)); word != want {
			t.Errorf("%q is taken for %q, want %q", got, word, want)
		}
	}
}

func TestTheHint(t *testing.T) {
	for _, test := range []struct {
		got   string
		words []string
		want  string
	}{
		{"sourse", []string{"source", "paths"}, `did you mean "source"?`},
		{"zebra", []string{"source", "paths"}, "known here: source, paths"},
		{"zebra", nil, ""},
	} {
		if hint := spelling.DidYouMean(test.got, test.words); hint != test.want {
			t.Errorf("%q of %v: %q, want %q", test.got, test.words, hint, test.want)
		}
	}
}

// One edit is always found, among however many words; the nearest one wins,
// and the first of equals.
func TestOneEditIsFound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		word := rapid.StringMatching(`[a-z]{6,80}`).Draw(rt, "word")
		at := rapid.IntRange(0, len(word)-2).Draw(rt, "at")
		typo := rapid.SampledFrom([]string{
			word[:at] + word[at+1:],
			word[:at] + "x" + word[at:],
			word[:at] + "x" + word[at+1:],
			word[:at] + word[at+1:at+2] + word[at:at+1] + word[at+2:],
		}).Draw(rt, "typo")
		others := make(map[string]bool)
		for _, o := range rapid.SliceOf(rapid.StringMatching(`[0-9]{1,90}`)).Draw(rt, "others") {
			others[o] = true
		}
		words := append(slices.Sorted(maps.Keys(others)), word)
		if got := spelling.Nearest(typo, slices.Values(words)); got != word {
			rt.Errorf("%s is taken for %q, want %s", typo, got, word)
		}
	})
	if got := spelling.Nearest("lake2", slices.Values([]string{"lake1", "lake3"})); got != "lake1" {
		t.Errorf("of two that are as near, %q", got)
	}
}

// A name is compared with all those of a catalog, and nothing is allocated for
// each.
func TestACatalogOfNamesIsCheap(t *testing.T) {
	names := strings.Fields(strings.Repeat("orders-backend billing-frontend ", 1000))
	if n := testing.AllocsPerRun(10, func() { spelling.Nearest("billing-fornt", slices.Values(names)) }); n > 10 {
		t.Errorf("%v allocations for %d names", n, len(names))
	}
}
