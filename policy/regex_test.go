package policy

import (
	"strings"
	"testing"
)

// TestProgramSizeIsNeverBelowEnvoys has sizes that Envoy 1.40 reported.
func TestProgramSizeIsNeverBelowEnvoys(t *testing.T) {
	for expression, size := range map[string]int{
		"a": 5, "abc": 7, "GET|HEAD|PUT|DELETE": 20, "[^/]*": 6, "a.*b.*c": 11, ".+": 7,
		"spiffe://datapunk/web-[A-Za-z0-9._-]*": 30, "spiffe://datapunk/web-[A-Za-z0-9._-]*/.+": 34,
		"a{1,5}": 13, "(foo|bar|baz)[0-9]{1,20}": 52, `\d+`: 6, `\w+\s\w+`: 15, "é+": 7, "(?i)abc": 7, "(a*)*": 11,
		"x*y*z*": 9, "(?:ab|cd|ef){2}": 16, `\bfoo\b`: 9, "[αβγ]": 6, `\p{L}+`: 12, "a?b?c?d?e?": 14, "(abc|def|ghi|jkl)*": 18,
	} {
		if got := programSize(expression); got < size || got > 2*size+4 {
			t.Errorf("%s: about %d, and Envoy says %d", expression, got, size)
		}
	}
	for _, words := range []string{"GET", "GET|HEAD|PUT", "a", "", "a||b", "|", strings.Repeat("A", 48), strings.Repeat("A|", 24)} {
		if !plainWords(words) || programSize(words) > maxProgram {
			t.Errorf("%q: plain %t, of size %d", words, plainWords(words), programSize(words))
		}
	}
	if plainWords("GET.*") || plainWords(strings.Repeat("A", 49)) {
		t.Error("what has to be compiled to be known is taken for plain")
	}
	if err := CheckRegex(strings.Repeat("a", maxProgram)); err == nil {
		t.Error("an expression that Envoy refuses passes")
	}
	for _, bad := range []string{"(", `a\C`, strings.Repeat("a?", 10_000)} {
		if err := CheckRegex(bad); err == nil {
			t.Errorf("%.20s passes", bad)
		}
	}
}
